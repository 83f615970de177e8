"""Compensate the vehicle's motion within one sweep of a spinning lidar."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from perception_rt.types import LidarFrame

_STRAIGHT_RAD_S = 1e-4  # rad/s; slower turns are ignored
_STEP_S = 1e-3  # points within a millisecond move alike: 3 cm at 30 m/s, of which half is an error at most


class PlanarTwist(NamedTuple):
    """Motion of the vehicle's base: forward and to the left in m/s, and about z in rad/s."""

    vx: float
    vy: float
    yaw_rate: float


def twist_between(before: np.ndarray, after: np.ndarray, seconds: float) -> PlanarTwist:
    """Return the constant twist that leads from one pose to another.

    Args:
        before, after: (4, 4) from the base to a fixed frame.
        seconds: time between them, above 0.
    """
    moved = np.linalg.inv(before) @ after
    turned = float(np.arctan2(moved[1, 0], moved[0, 0]))
    half = turned / 2
    chord = 1.0 if abs(half) < 1e-6 else half / np.sin(half)  # an arc is longer than its chord
    cos, sin = np.cos(-half), np.sin(-half)
    x, y = moved[:2, 3] * chord
    return PlanarTwist((cos * x - sin * y) / seconds, (sin * x + cos * y) / seconds, turned / seconds)


def moved_by(twist: PlanarTwist, seconds: np.ndarray) -> np.ndarray:
    """Return (M, 4, 4) transforms from the base at (M,) `seconds` from now to the base now."""
    angle = twist.yaw_rate * seconds
    if abs(twist.yaw_rate) < _STRAIGHT_RAD_S:
        along, across = seconds, np.zeros_like(seconds)
    else:
        along = np.sin(angle) / twist.yaw_rate
        across = (1 - np.cos(angle)) / twist.yaw_rate
    moved = np.tile(np.eye(4), (len(seconds), 1, 1))
    moved[:, 0, 0] = moved[:, 1, 1] = np.cos(angle)
    moved[:, 1, 0] = np.sin(angle)
    moved[:, 0, 1] = -moved[:, 1, 0]
    moved[:, 0, 3] = twist.vx * along - twist.vy * across
    moved[:, 1, 3] = twist.vx * across + twist.vy * along
    return moved


def deskewed(frame: LidarFrame, twist: PlanarTwist, base_from_lidar: np.ndarray) -> LidarFrame:
    """Return the cloud with all points moved to the time of the stamp.

    Args:
        frame: its `times_s` have the time of each point; without them it is returned unchanged.
        twist: of the base during the sweep.
        base_from_lidar: (4, 4) mounting.
    """
    if frame.times_s is None or not len(frame.points):
        return frame
    of_point = np.rint(frame.times_s / _STEP_S).astype(np.int64)
    first, last = int(of_point.min()), int(of_point.max())
    of_point -= first
    seconds = np.arange(first, last + 1) * _STEP_S
    moved = moved_by(twist, seconds)
    poses = (np.linalg.inv(base_from_lidar) @ moved @ base_from_lidar).astype(np.float32)
    points = frame.points.copy()
    x, y, z = (np.ascontiguousarray(column) for column in frame.points[:, :3].T)
    for axis in range(3):  # element by element, which is several times faster than a gathered (N, 3, 3)
        along_x, along_y, along_z, shift = (np.take(poses[:, axis, k], of_point) for k in range(4))
        points[:, axis] = along_x * x + along_y * y + along_z * z + shift
    return replace(frame, points=points)
