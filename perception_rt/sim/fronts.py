"""What stands at the back of a sidewalk: walls, plants, fences, houses, of any size, drawn from a generator.

Every function puts one piece into `around`. `at` is the middle of its front and the heading along it;
`length` is its extent along, m; `sign` is 1 where it stands on the left of the road, else -1.
"""

from __future__ import annotations

import math

import numpy as np

from perception_rt.sim.surroundings import Place, Surroundings


def beside(at: Place, along: float, left: float = 0.0) -> tuple[float, float]:
    """Return x y of a point at offsets along and to the left of a place, m."""
    x, y, yaw = at
    return (
        x + along * math.cos(yaw) - left * math.sin(yaw),
        y + along * math.sin(yaw) + left * math.cos(yaw),
    )


def wall(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add a wall, knee-high to twice as high as a person."""
    high = rng.uniform(0.4, 1.4) if rng.random() < 0.5 else rng.uniform(1.4, 4)
    around.block(at, (length, rng.uniform(0.15, 0.5)), (0, high), rng.uniform(0.15, 0.55))


def hedge(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add a hedge; half of them are clipped flat."""
    wide, high = rng.uniform(0.5, 1.5), rng.uniform(0.5, 2.6)
    if rng.random() < 0.5:
        leaves = rng.uniform(0.25, 0.5), rng.uniform(0.7, 0.97), rng.uniform(0.04, 0.25)
        around.block(at, (length, wide), (0, high), *leaves)
    else:
        ball = wide * rng.uniform(0.3, 0.6)
        around.clump(rng, at, (length, wide), (0, high), ball, rng.uniform(0.6, 0.95))


def bushes(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add a row of bushes."""
    for _ in range(max(1, round(length / 3))):
        bush(around, rng, (*beside(at, rng.uniform(-0.5, 0.5) * length), at[2]), 0.0)


def bush(around: Surroundings, rng: np.random.Generator, at: Place, low: float) -> None:
    """Add a bush on ground of height `low`, m; some are as large as a car."""
    (length, width), high = rng.uniform((0.6, 0.6), (4.5, 2.6)).tolist(), rng.uniform(0.4, 2.8)
    place = (at[0], at[1], at[2] + rng.normal(0, 0.5))
    around.clump(rng, place, (length, width), (low, low + high), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.9))


def tree(
    around: Surroundings, rng: np.random.Generator, x: float, y: float, trunk: float, clear: float
) -> None:
    """Add a tree with a trunk of radius `trunk` and a crown from height `clear` on, m."""
    wide, high = rng.uniform(1.5, 6), rng.uniform(2, 6)
    around.poles.append((x, y, 0.0, clear + 0.4 * high, trunk, rng.uniform(0.2, 0.4)))
    leaves = rng.uniform(0.4, 1.1), rng.uniform(0.2, 0.7)
    around.clump(rng, (x, y, 0.0), (wide, wide), (clear, clear + high), *leaves)


def thicket(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add wild growth of any height, with trunks in it."""
    for _ in range(max(1, round(length / 1.3))):
        x, y = beside(at, rng.uniform(-0.5, 0.5) * length, sign * rng.exponential(1.5))
        low, high = max(0.0, rng.uniform(-4, 2)), rng.exponential(2.5) + 0.3
        size, leaves = rng.uniform(0.6, 4, 2).tolist(), rng.uniform(0.15, 0.6, 2).tolist()
        around.clump(rng, (x, y, at[2]), tuple(size), (low, low + high), *leaves)
        if rng.random() < 0.3:
            around.poles.append((x, y, 0.0, low + high, rng.uniform(0.02, 0.2), 0.25))


def fence(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add a fence of wire or boards, which most or hardly any rays pass; some stand on a low wall."""
    high = rng.uniform(0.7, 2.2)
    around.block(at, (length, 0.03), (0.05, high), rng.uniform(0.2, 0.5), rng.uniform(0.08, 0.7))
    _posts(around, at, length, rng.uniform(1.5, 3), high, rng.uniform(0.02, 0.07))
    if rng.random() < 0.3:
        around.block(at, (length, 0.25), (0, rng.uniform(0.2, 0.6)), 0.35)


def rail(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add a guard rail."""
    around.block(at, (length, 0.12), (0.45, 0.78), 0.5)
    _posts(around, at, length, 2.0, 0.75, 0.05)


def _posts(around: Surroundings, at: Place, length: float, step: float, high: float, radius: float) -> None:
    for along in np.arange(-length / 2, length / 2, step):
        around.poles.append((*beside(at, along), 0.0, high, radius, 0.3))


def shed(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add a shed, container or garage, some as large as a car."""
    size = rng.uniform((2, 1.5, 1.2), (6, 4, 3)).tolist()
    around.block(at, (size[0], size[1]), (0, size[2]), rng.uniform(0.15, 0.6))


def house(around: Surroundings, rng: np.random.Generator, at: Place, length: float, sign: int) -> None:
    """Add a house with panes, steps, bays and balconies on its front."""
    deep, high, paint = rng.uniform(7, 12), rng.uniform(3, 14), rng.uniform(0.2, 0.6)
    yaw = at[2]
    around.block((*beside(at, 0, sign * deep / 2), yaw), (length, deep), (0, high), paint)
    for _ in range(rng.poisson(length / 5)):
        (wide, out), along = rng.uniform((0.6, 0.15), (3, 1.3)).tolist(), rng.uniform(-0.45, 0.45) * length
        z = (0.0, rng.uniform(0.2, 1.2) if rng.random() < 0.4 else rng.uniform(2, high))
        if rng.random() < 0.25:
            z = (2.6, 3.8)
        place = beside(at, along, -sign * out / 2)
        around.block((*place, yaw), (wide, out), z, paint * rng.uniform(0.7, 1.2))
    for along in np.arange(-length / 2 + 1.5, length / 2 - 1, rng.uniform(1.8, 4)):
        # A pane returns hardly any light.
        place = beside(at, along, -sign * 0.01)
        around.block((*place, yaw), (rng.uniform(0.8, 1.4), 0.02), (0.9, 2.3), 0.004)


FRONTS = {f.__name__: f for f in (wall, hedge, bushes, thicket, fence, house, shed, rail)}
