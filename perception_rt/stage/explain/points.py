"""Find the points that caused a box of a lidar detector, by perturbation, for any engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perception_rt.stage.explain.check import OcclusionCheck, check_parts
from perception_rt.stage.explain.probe import Probe, Target

KEPT = 0.7  # part of the cells that a mask keeps
PARTS = 20  # random ones of the check, and as many near the box
REGION = 0.5  # points of the checked part, by those in the box
MIN_POINTS = 5
MIN_CELL = 0.25  # m: side of the cells that are taken away together
CELLS_ALONG = 8  # of the box
CALLS_PER_CELL = 3  # cells are enlarged if there are too many for the calls
AROUND = 2.0  # margin of the perturbed region, m, and as a share of the box's length


def cells_around(points: np.ndarray, box: np.ndarray, most: int) -> np.ndarray:
    """Return the cell of each point near a box: (N,) int64, -1 for points that are not perturbed.

    Cells are cubes in the axes of the box, so large that there are at most `most`.
    """
    local = in_box_axes(points, box)
    half = box[3:6] / 2 + AROUND + box[3] / 2
    near = (np.abs(local) <= half).all(1)
    cells, side = np.full(len(points), -1, np.int64), max(float(box[3]) / CELLS_ALONG, MIN_CELL)
    while near.any():
        places = np.floor(local[near] / side).astype(np.int64)
        found, cells[near] = np.unique(places, axis=0, return_inverse=True)
        if len(found) <= max(most, 8):  # cubes that meet in the middle of the box
            break
        side *= 1.2
    return cells


def in_box_axes(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return (N, 3) float64 points relative to the centre of a box, along its length, width and height."""
    moved = points[:, :3].astype(np.float64) - box[:3]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    x, y, z = moved.T
    return np.stack((cos * x + sin * y, cos * y - sin * x, z), 1)


def point_relevance(
    probe: Probe, target: Target, calls: int, seed: int = 0, on_call: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Return the contribution of each point to a box, by removing the cell of the point.

    Random sets of cells around the box are taken away together (RISE, Petsiuk et al., 2018, on points).

    Args:
        probe: of the cloud.
        target: the box.
        calls: number of sets; more of them give less noise.
        seed: of the sets.
        on_call: called after each.

    Returns:
        (N,) float32, 0 for points far from the box; negative where points weaken the box.
    """
    cells = cells_around(probe.data, target.box, calls // CALLS_PER_CELL)
    count = int(cells.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    kept = rng.random((calls, count)) < KEPT
    left = np.empty(calls)
    for call in range(calls):
        whole = np.append(kept[call], True)  # -1 is the last
        left[call] = probe.left(target, probe.data[whole[cells]])
        on_call()
    if not count:
        return np.zeros(len(cells), np.float32)
    values = _slopes(kept.astype(np.float64), left)
    return np.append(values, 0.0)[cells].astype(np.float32)


def _slopes(kept: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return the average contribution of each cell, by ridge regression."""
    centred = kept - kept.mean(0)
    ridge = 0.02 * len(kept) * KEPT * (1 - KEPT) * np.eye(kept.shape[1])
    return np.linalg.solve(centred.T @ centred + ridge, centred.T @ (left - left.mean()))


def occlusion_check(probe: Probe, target: Target, heat: np.ndarray, seed: int = 0) -> OcclusionCheck:
    """Check whether the marked points matter more than others; see `OcclusionCheck`.

    A random part consists of the neighbours of a random point: anywhere, and in the perturbed region.

    Args:
        probe: of the cloud.
        target: the box.
        heat: (N,) relevance.
        seed: of the random parts.
    """
    points, box = probe.data, target.box
    inside = int((np.abs(in_box_axes(points, box)) <= box[3:6] / 2).all(1).sum())
    count = min(max(int(REGION * inside), MIN_POINTS), len(points))
    marked = np.zeros(len(points), bool)
    marked[np.argsort(-heat, kind="stable")[:count]] = True
    before = probe.left(target, points)

    def lost(mask: np.ndarray) -> float:
        return (before - probe.left(target, points[~mask])) / max(before, 1e-9)

    rng = np.random.default_rng(seed)

    def around_one_of(rows: np.ndarray) -> np.ndarray:
        middle = points[rng.choice(rows), :3]
        distances = ((points[:, :3] - middle) ** 2).sum(1)
        mask = np.zeros(len(points), bool)
        mask[np.argsort(distances, kind="stable")[:count]] = True
        return mask

    near = np.flatnonzero(cells_around(points, box, len(points)) >= 0)
    everywhere = np.arange(len(points))
    random = (around_one_of(everywhere) for _ in range(PARTS))
    return check_parts(lost, marked, random, (around_one_of(near) for _ in range(PARTS)))
