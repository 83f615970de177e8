"""Undo the vehicle's motion within one sweep of a spinning lidar."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from perception_rt.types import LidarFrame

_STRAIGHT_RAD_S = 1e-4  # slower turns count as none
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


def deskewed(frame: LidarFrame, twist: PlanarTwist, base_from_lidar: np.ndarray) -> LidarFrame:
    """Return the cloud as if all points had been measured at the stamp.

    Args:
        frame: its `times_s` say when each point was measured; without them it is returned as it is.
        twist: of the base during the sweep.
        base_from_lidar: (4, 4) mounting.
    """
    if frame.times_s is None or not len(frame.points):
        return frame
    steps, of_point = np.unique(np.round(frame.times_s / _STEP_S).astype(np.int64), return_inverse=True)
    seconds = steps * _STEP_S
    angle = twist.yaw_rate * seconds
    if abs(twist.yaw_rate) < _STRAIGHT_RAD_S:
        along, across = seconds, np.zeros_like(seconds)
    else:
        along = np.sin(angle) / twist.yaw_rate
        across = (1 - np.cos(angle)) / twist.yaw_rate
    moved = np.tile(np.eye(4), (len(steps), 1, 1))  # base at the stamp from base at the time
    moved[:, 0, 0] = moved[:, 1, 1] = np.cos(angle)
    moved[:, 1, 0] = np.sin(angle)
    moved[:, 0, 1] = -moved[:, 1, 0]
    moved[:, 0, 3] = twist.vx * along - twist.vy * across
    moved[:, 1, 3] = twist.vx * across + twist.vy * along
    poses = (np.linalg.inv(base_from_lidar) @ moved @ base_from_lidar).astype(np.float32)
    points = frame.points.copy()
    turn, shift = poses[:, :3, :3][of_point], poses[:, :3, 3][of_point]
    points[:, :3] = np.einsum("nij,nj->ni", turn, frame.points[:, :3]) + shift
    return replace(frame, points=points)
