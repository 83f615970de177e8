"""Join the newest sweeps of a lidar to one cloud, as networks trained on nuScenes expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perception_rt.stage.transforms import inverse
from perception_rt.types import LidarFrame

MAX_AGE_S = 1.0  # older sweeps are left out: networks were trained on half a second
OWN_M = 1.0  # m; nearer points along x and y belong to the ego vehicle, which has moved


def joined(
    frame: LidarFrame, pose: np.ndarray, earlier: Sequence[tuple[LidarFrame, np.ndarray]]
) -> LidarFrame:
    """Return the newest sweep and earlier ones as one cloud.

    Args:
        frame: the newest sweep.
        pose: (4, 4) from the lidar at its stamp to a frame without motion.
        earlier: sweeps before it, newest first, and the pose of each.

    Returns:
        The points of `frame`, then the others compensated for the vehicle's motion; `ages_s` is their age.
        Points of earlier sweeps within `OWN_M` are left out.
    """
    points, ages = [frame.points], [np.zeros(len(frame.points), np.float32)]
    for sweep, place in earlier:
        near = np.abs(sweep.points[:, :2]).max(axis=1, initial=0) < OWN_M
        moved = sweep.points[~near]
        between = (inverse(pose) @ place).astype(np.float32)
        moved[:, :3] = moved[:, :3] @ between[:3, :3].T + between[:3, 3]
        points.append(moved)
        ages.append(np.full(len(moved), (frame.stamp_ns - sweep.stamp_ns) / 1e9, np.float32))
    return replace(frame, points=np.concatenate(points), times_s=None, ages_s=np.concatenate(ages))


def still_wanted(
    earlier: Sequence[tuple[LidarFrame, np.ndarray]], stamp_ns: int, count: int
) -> list[tuple[LidarFrame, np.ndarray]]:
    """Return the first `count` of `earlier` sweeps that are older than `stamp_ns`, by at most `MAX_AGE_S`."""
    ages = [(stamp_ns - sweep.stamp_ns) / 1e9 for sweep, _ in earlier]
    return [entry for entry, age in zip(earlier, ages, strict=True) if 0 < age <= MAX_AGE_S][:count]
