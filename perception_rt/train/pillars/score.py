"""How well a bundle of clouds does on simulated drives that no training ever used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from perception_rt.model.class_thresholds import one_threshold
from perception_rt.model.manifest import CloudSpec
from perception_rt.model.runtime import CloudRuntime
from perception_rt.replay.metrics3d import average_precision_bev
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.lidar import MIN_POINTS
from perception_rt.train.drives import shares
from perception_rt.train.pillars.data import drive_samples
from perception_rt.types import ConfigError, Detections3D

LOWEST_SCORE = 0.01  # average precision wants the weak boxes too
IOU = 0.5  # of footprints
BANDS = ((0.0, 20.0), (20.0, 40.0), (40.0, math.inf))  # m from the sensor


def evaluate(
    runtime: CloudRuntime, seeds: Sequence[int], frames: int, on_frame: Callable[[], None] = lambda: None
) -> dict:
    """Score a bundle on simulated clouds: average precision at BEV IoU 0.5.

    What lies outside the range that the bundle names, or has fewer than MIN_POINTS points, need not be found
    and is no error when it is. The bundle's thresholds of single classes do not apply.

    Args:
        runtime: an open bundle whose classes are the simulator's.
        seeds: of the drives; `perception_rt.train.drives.evaluation_seeds` gives unseen ones.
        frames: how many in all, spread evenly over the drives.
        on_frame: called after each frame.

    Returns:
        What `average_precision_bev` returns, the same in ``"bands"`` for each band of distance
        (``"0-20 m"``), and ``"iou"``, ``"min_points"``, ``"frames"`` and ``"seeds"`` (first and last).

    Raises:
        ConfigError: the bundle has other classes.
    """
    spec = cast(CloudSpec, runtime.manifest.input)
    if runtime.manifest.classes != SIM_CLASSES:
        raise ConfigError(f"classes={runtime.manifest.classes}: the simulator has {SIM_CLASSES}")
    truths, found, idle = [], [], []
    for seed, count in zip(seeds, shares(frames, len(seeds)), strict=True):
        for sample in drive_samples(seed, count):
            truths.append(sample.truth)
            with one_threshold(runtime):
                found.append(Detections3D(*runtime(sample.points, score_threshold=LOWEST_SCORE)))
            idle.append((sample.truth_points < MIN_POINTS) | ~_inside(sample.truth, spec.range))
            on_frame()
    return {
        **average_precision_bev(truths, found, SIM_CLASSES, IOU, idle),
        "bands": {_name(band): _band(truths, found, idle, band) for band in BANDS},
        "iou": IOU,
        "min_points": MIN_POINTS,
        "frames": frames,
        "seeds": [min(seeds), max(seeds)],
    }


def _inside(boxes: Detections3D, limits: Sequence[float]) -> np.ndarray:
    """(N,) bool: centres over the rectangle of `limits`, least x y z and greatest x y z."""
    xy = boxes.xyzlwh_yaw[:, :2]
    low, high = np.array(limits[:2]), np.array(limits[3:5])
    return np.asarray(((xy >= low) & (xy < high)).all(1))


def _name(band: tuple[float, float]) -> str:
    return f"over {band[0]:g} m" if math.isinf(band[1]) else f"{band[0]:g}-{band[1]:g} m"


def _band(
    truths: Sequence[Detections3D],
    found: Sequence[Detections3D],
    idle: Sequence[np.ndarray],
    band: tuple[float, float],
) -> dict:
    """The score of what is as far away as the band says."""

    def outside(boxes: Detections3D) -> np.ndarray:
        away = np.hypot(boxes.xyzlwh_yaw[:, 0], boxes.xyzlwh_yaw[:, 1])
        return (away < band[0]) | (away >= band[1])

    ignore = [skip | outside(truth) for skip, truth in zip(idle, truths, strict=True)]
    return average_precision_bev(truths, found, SIM_CLASSES, IOU, ignore, [outside(boxes) for boxes in found])
