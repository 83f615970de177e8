"""Random objects: class, size and shape, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perception_rt.sim import figures, shapes
from perception_rt.sim.shapes import Figure, Mesh

SIM_CLASSES = ("car", "pedestrian", "cyclist")
SCENERY = frozenset(("tree", "lamp", "sign", "clutter", "trailer", "building"))

CAR_SIZES = {
    "sedan": (4.6, 1.82, 1.46),
    "hatch": (4.05, 1.76, 1.5),
    "suv": (4.6, 1.9, 1.72),
    "van": (5.1, 1.98, 2.1),
}
CAR_PAINT = (
    (225, 226, 228), (24, 25, 28), (128, 132, 138), (170, 24, 28), (28, 58, 130), (92, 98, 104),
    (200, 196, 184), (30, 84, 58), (214, 160, 30), (104, 60, 36), (70, 140, 190), (190, 84, 30),
)  # fmt: skip
_WALLS = (
    (186, 150, 122),
    (206, 196, 176),
    (160, 92, 74),
    (150, 154, 160),
    (216, 206, 150),
    (176, 188, 196),
    (126, 110, 100),
)


@dataclass(frozen=True, slots=True, eq=False)
class Entity:
    """An object: class index (-1 for scenery), box size, and shape.

    Attributes:
        label: index into SIM_CLASSES or -1. lwh: length width height, m.
        shape: its Mesh or Figure; None if `person` walks or rides, as the shape depends on the phase.
    """

    label: int
    lwh: tuple[float, float, float]
    shape: Mesh | Figure | None
    person: figures.Person | None = None
    paint: tuple = (0, 0, 0)

    @property
    def length(self) -> float:
        """Length along the x axis of the object, m."""
        return self.lwh[0]

    def shape_at(self, travelled_m: float, moving: bool) -> Mesh | Figure:
        """Return the shape at a phase of the gait or the pedals."""
        if self.shape is not None:
            return self.shape
        # Poses are quantized and cached: random access stays exact, and drawing stays fast.
        if self.label == 2:
            return _rider(self.person, self.paint, round(travelled_m / 0.25) % 28)
        return _walker(self.person, round(travelled_m / figures.STRIDE_M * 24) % 24 if moving else -1)


@lru_cache(maxsize=4096)
def _walker(person: figures.Person, step: int) -> Figure:
    return figures.pedestrian(person, max(step, 0) / 24 * figures.STRIDE_M, step >= 0)


@lru_cache(maxsize=4096)
def _rider(person: figures.Person, paint: tuple, step: int) -> Figure:
    return figures.cyclist(person, paint, step * 0.25)


def make_entity(kind: str, rng: np.random.Generator) -> Entity:
    """Return a random object of a kind: one of SIM_CLASSES, waiting (a pedestrian), or one of SCENERY."""
    return _MAKERS[kind](rng)


def _size(values: np.ndarray) -> tuple[float, float, float]:
    length, width, height = values.tolist()
    return length, width, height


def _car(rng: np.random.Generator) -> Entity:
    name = rng.choice(list(CAR_SIZES), p=[0.36, 0.26, 0.26, 0.12])
    lwh = _size(np.array(CAR_SIZES[name]) * rng.uniform(0.95, 1.05, 3))
    paint = np.clip(np.array(CAR_PAINT[rng.integers(len(CAR_PAINT))]) + rng.uniform(-14, 14, 3), 10, 240)
    return Entity(0, lwh, shapes.car(shapes.CAR_STYLES[name], *lwh, tuple(paint)))


def _pedestrian(rng: np.random.Generator) -> Entity:
    person = figures.Person.seeded(rng)
    return Entity(1, (0.6, 0.3 * person.height * person.build, person.height), None, person)


def _cyclist(rng: np.random.Generator) -> Entity:
    person = figures.Person.seeded(rng)
    tall = person.height if person.height > 1.5 else 0.95 * 1.72
    return Entity(2, (1.72, 0.62, 1.73 * tall / 1.72), None, person, tuple(rng.integers(20, 235, 3).tolist()))


def _tree(rng: np.random.Generator) -> Entity:
    height, radius = rng.uniform(4.5, 9), rng.uniform(1.2, 2.2)
    tint = ((66, 104, 48), (88, 120, 52), (52, 90, 58), (140, 120, 50))[rng.integers(4)]
    return Entity(-1, (0.6, 0.6, height), figures.tree(rng, height, radius, tint))


def _lamp(rng: np.random.Generator) -> Entity:
    return Entity(-1, (0.2, 0.2, 6.2), figures.lamp_post(rng.uniform(5.6, 6.4)))


def _sign(rng: np.random.Generator) -> Entity:
    return Entity(-1, (0.1, 0.6, 2.7), figures.road_sign(rng))


def _clutter(rng: np.random.Generator) -> Entity:
    paint = tuple(rng.integers(30, 220, 3).tolist())
    if rng.random() < 0.35:
        return Entity(-1, (0.3, 0.3, 0.85), figures.hydrant(paint))
    lwh = _size(rng.uniform((0.4, 0.4, 0.7), (1.1, 0.9, 1.5)))
    return Entity(-1, lwh, shapes.box(*lwh, paint))


def _trailer(rng: np.random.Generator) -> Entity:
    lwh = _size(rng.uniform((2.6, 1.7, 1.7), (4.5, 2.1, 2.6)))
    return Entity(-1, lwh, shapes.trailer(*lwh, tuple(rng.integers(90, 235, 3).tolist())))


def _building(rng: np.random.Generator) -> Entity:
    lwh = _size(rng.uniform((13, 10, 6), (22.5, 15, 17)))
    paint = tuple(np.clip(np.array(_WALLS[rng.integers(len(_WALLS))]) + rng.uniform(-18, 18, 3), 20, 235))
    floors = max(1, round((lwh[2] - 3.4) / 3.1))
    return Entity(-1, lwh, shapes.building(*lwh, paint, floors, int(rng.integers(3, 7))))


_MAKERS = {
    "car": _car,
    "pedestrian": _pedestrian,
    "waiting": _pedestrian,
    "cyclist": _cyclist,
    "tree": _tree,
    "lamp": _lamp,
    "sign": _sign,
    "clutter": _clutter,
    "trailer": _trailer,
    "building": _building,
}
