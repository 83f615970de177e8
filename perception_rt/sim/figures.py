"""People, bicycles, trees and poles as capsules between joints (see shapes.Figure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_rt.sim.shapes import Figure

STRIDE_M = 1.45
_TUBES = (
    ("rear", "crank"), ("crank", "seat"), ("seat", "rear"),
    ("seat", "head"), ("crank", "head"), ("front", "bar"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """A person's appearance: height in m, RGB colours, build (1 = average)."""

    height: float
    shirt: tuple
    trousers: tuple
    skin: tuple
    hair: tuple
    build: float
    bag: bool

    @classmethod
    def seeded(cls, rng: np.random.Generator) -> Person:
        """Return a random person."""
        skins = ((236, 196, 168), (198, 148, 112), (122, 84, 60), (250, 214, 190))
        hairs = ((40, 30, 24), (110, 74, 40), (205, 170, 110), (150, 150, 150))
        return cls(
            height=rng.uniform(1.55, 1.92) if rng.random() < 0.88 else rng.uniform(1.15, 1.4),
            shirt=tuple(rng.integers(25, 245, 3).tolist()),
            trousers=tuple((np.add(rng.integers(20, 120, 3), (0, 0, 20))).tolist()),
            skin=skins[rng.integers(4)],
            hair=hairs[rng.integers(4)],
            build=rng.uniform(0.88, 1.18),
            bag=bool(rng.random() < 0.3),
        )


def pedestrian(person: Person, walked_m: float, moving: bool) -> Figure:
    """Return a walking or standing person facing x.

    Args:
        person: appearance. walked_m: distance walked so far; the gait's phase. moving: swing the limbs.
    """
    h, wide = person.height, person.build
    phase = 2 * np.pi * walked_m / STRIDE_M
    swing = 0.5 * np.sin(phase) if moving else 0.04
    joints: list = []
    ends: list = []
    radii: list[float] = []
    colors: list = []

    def limb(points: list, radius: float, paint: tuple) -> None:
        first = len(joints)
        joints.extend(points)
        for i in range(max(1, len(points) - 1)):
            ends.append((first + i, first + min(i + 1, len(points) - 1)))
            radii.append(radius * h)
            colors.append(paint)

    hip, shoulder = 0.50 * h, 0.80 * h
    for side, a in ((1, swing), (-1, -swing)):
        bend = max(0.0, -np.cos(phase) * side) * 0.6 if moving else 0.0
        y = side * 0.055 * h * wide
        knee = (0.25 * h * np.sin(a + bend * 0.5), y, hip - 0.25 * h * np.cos(a + bend * 0.5))
        foot = (
            knee[0] + 0.22 * h * np.sin(a - bend),
            y,
            max(0.035 * h, knee[2] - 0.22 * h * np.cos(a - bend)),
        )
        limb([(0, y, hip), knee, foot], 0.038 * wide, person.trousers)
        limb([foot, (foot[0] + 0.07 * h, y, foot[2] - 0.012 * h)], 0.024, (36, 32, 32))
        y = side * 0.125 * h * wide
        elbow = (-0.16 * h * np.sin(a), y * 1.1, shoulder - 0.17 * h)
        hand = (elbow[0] + 0.06 * h - 0.08 * h * np.sin(a), y * 1.1, shoulder - 0.31 * h)
        limb([(0, y, shoulder - 0.02 * h), elbow, hand], 0.027 * wide, person.shirt)
        limb([hand], 0.024, person.skin)
    for y in (-0.055, 0.0, 0.055):
        limb(
            [(0, y * h * wide, hip + 0.03 * h), (0, y * 1.3 * h * wide, shoulder - 0.03 * h)],
            0.058 * wide,
            person.shirt,
        )
    if person.bag:
        limb(
            [(-0.09 * h, 0, hip + 0.1 * h), (-0.09 * h, 0, shoulder - 0.07 * h)],
            0.07,
            tuple(0.5 * c for c in person.shirt),
        )
    limb([(0, 0, shoulder), (0.01 * h, 0, 0.845 * h)], 0.03, person.skin)
    limb([(-0.008 * h, 0, 0.938 * h)], 0.062, person.hair)
    limb([(0.02 * h, 0, 0.922 * h)], 0.052, person.skin)
    return Figure(np.array(joints, float), np.array(ends), np.array(radii), np.array(colors, float))


def cyclist(person: Person, bike: tuple, ridden_m: float) -> Figure:
    """Return a rider on a bicycle heading along x.

    Args:
        person: the rider's appearance. bike: frame colour. ridden_m: distance so far; the phase of the
            pedals.
    """
    r, h = 0.34, 1.72
    crank = ridden_m / 1.1
    points = {
        "rear": (-0.52, 0, r), "front": (0.52, 0, r), "crank": (-0.06, 0, 0.30), "seat": (-0.24, 0, 0.92),
        "head": (0.36, 0, 0.86), "bar": (0.40, 0, 1.02),
        "bar_l": (0.36, 0.24, 1.04), "bar_r": (0.36, -0.24, 1.04),
        "hip": (-0.2, 0, 0.98), "neck": (0.12, 0, 1.44), "throat": (0.15, 0, 1.5),
        "skull": (0.2, 0, 1.62), "face": (0.235, 0, 1.60),
        "hips_l": (-0.2, 0.1, 0.97), "hips_r": (-0.2, -0.1, 0.97),
        "sh_l": (0.1, 0.17, 1.41), "sh_r": (0.1, -0.17, 1.41),
        "el_l": (0.2, 0.27, 1.2), "el_r": (0.2, -0.27, 1.2),
    }  # fmt: skip
    for side, name in ((1, "l"), (-1, "r")):
        angle = crank + (np.pi if side < 0 else 0)
        foot = (-0.06 + 0.17 * np.cos(angle), side * 0.12, 0.30 - 0.17 * np.sin(angle))
        points["foot_" + name] = foot
        points["knee_" + name] = (0.5 * (foot[0] - 0.2) + 0.22, side * 0.12, 0.5 * (foot[2] + 0.97) + 0.1)
    index = {name: i for i, name in enumerate(points)}
    parts = [(*tube, 0.022, bike) for tube in _TUBES]
    parts += [("bar_l", "bar_r", 0.02, (40, 40, 40)), ("seat", "seat", 0.07, (30, 30, 30))]
    for n in ("l", "r"):
        parts += [
            ("hips_" + n, "knee_" + n, 0.075, person.trousers),
            ("knee_" + n, "foot_" + n, 0.055, person.trousers),
        ]
        parts += [("foot_" + n, "foot_" + n, 0.06, (30, 30, 30)), ("sh_" + n, "el_" + n, 0.05, person.shirt)]
        parts += [
            ("el_" + n, "bar_" + n, 0.042, person.skin),
            ("hips_" + n, "sh_" + n, 0.1 * person.build, person.shirt),
        ]
    helmet = person.hair if person.bag else tuple(255 - 0.6 * c for c in bike)
    parts += [
        ("hip", "neck", 0.12, person.shirt),
        ("neck", "throat", 0.05, person.skin),
        ("skull", "skull", 0.115, helmet),
        ("face", "face", 0.085, person.skin),
    ]
    joints = np.array(list(points.values()), float) * (
        1.0,
        1.0,
        person.height / h if person.height > 1.5 else 0.95,
    )
    around = np.arange(16) * 2 * np.pi / 16
    circle = np.stack([r * np.cos(around), 0 * around, r * np.sin(around)], -1)
    wheels = [
        circle + joints[index["rear"]] * (1, 1, 0) + (0, 0, r),
        circle + joints[index["front"]] * (1, 1, 0) + (0, 0, r),
    ]
    first = len(joints)
    return Figure(
        np.concatenate([joints, *wheels]),
        np.array([(index[a], index[b]) for a, b, _, _ in parts]),
        np.array([p[2] for p in parts]),
        np.array([p[3] for p in parts], float),
        (np.arange(first, first + 16), np.arange(first + 16, first + 32)),
        0.025,
    )


def tree(rng: np.random.Generator, height: float, radius: float, tint: tuple) -> Figure:
    """Return a tree: a trunk and a crown of balls, stacked for conifers."""
    conifer = rng.random() < 0.3
    joints: list = [(0, 0, 0), (0, 0, height * 0.62)]
    radii, colors = [0.035 * height * 0.55], [(92, 70, 52)]
    n = 7
    for i in range(n):
        shade = rng.uniform(0.72, 1.15)
        if conifer:
            level = i / (n - 1)
            joints.append((0, 0, height * (0.32 + 0.5 * level + 0.1 * level * level)))
            radii.append(radius * (0.82 - 0.5 * level))
        else:
            angle = rng.uniform(0, 2 * np.pi)
            out = radius * rng.uniform(0.2, 0.62)
            joints.append((out * np.cos(angle), out * np.sin(angle), height * rng.uniform(0.55, 0.84)))
            radii.append(radius * rng.uniform(0.45, 0.68))
        colors.append(tuple(shade * c for c in tint))
    ends = [(0, 1)] + [(i, i) for i in range(2, len(joints))]
    return Figure(
        np.array(joints, float), np.array(ends), np.array(radii), np.array(colors, float), foliage=True
    )


def lamp_post(height: float) -> Figure:
    """Return a street lamp whose arm reaches over the road (towards y)."""
    joints = np.array([(0, 0, 0), (0, 0, height), (0, 1.6, height + 0.15), (0, 1.1, height + 0.1)], float)
    return Figure(
        joints,
        np.array([(0, 1), (1, 2), (3, 2)]),
        np.array([0.07, 0.045, 0.1]),
        np.array([(92, 96, 100), (92, 96, 100), (220, 220, 205)], float),
    )


def road_sign(rng: np.random.Generator) -> Figure:
    """Return a post with a round board."""
    board = ((200, 30, 30), (30, 80, 190), (235, 195, 30))[rng.integers(3)]
    joints = np.array([(0, 0, 0), (0, 0, 2.4), (0, 0, 2.35)], float)
    return Figure(
        joints,
        np.array([(0, 1), (1, 1), (2, 2)]),
        np.array([0.035, 0.32, 0.21]),
        np.array([(130, 132, 136), board, (238, 238, 234)], float),
    )


def hydrant(color: tuple) -> Figure:
    """Return a knee-high post with a knob, about as wide as a distant child."""
    joints = np.array([(0, 0, 0), (0, 0, 0.62), (0, 0, 0.72)], float)
    return Figure(joints, np.array([(0, 1), (2, 2)]), np.array([0.14, 0.16]), np.array([color, color], float))
