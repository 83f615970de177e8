"""Rotate clouds of tilted lidars upright for the detector, and measure the tilt of the ground."""

from __future__ import annotations

from dataclasses import replace
from math import acos, degrees

import numpy as np

from perception_rt.types import Detections3D, LidarFrame

LEVEL_RAD = 0.035  # 2 degrees: detectors tolerate less
TILTED_RAD = 0.14  # 8 degrees: roads are not steeper
GROUND_SHARE = 0.25  # of the points: the minimum in a plane that counts as ground
GROUND_M = 0.2  # maximum distance from the plane
SAMPLES, PLANES = 1500, 120


def tilt(rotation: np.ndarray) -> float:
    """Return the angle between the z axes of two frames, rad, from their (3, 3) or (4, 4) rotation."""
    return acos(float(np.clip(rotation[2, 2], -1.0, 1.0)))


def levelled(frame: LidarFrame, base_from_sensor: np.ndarray) -> LidarFrame:
    """Return the cloud in axes parallel to the vehicle's; the origin is still the sensor."""
    points = frame.points.copy()
    points[:, :3] = frame.points[:, :3] @ base_from_sensor[:3, :3].T.astype(np.float32)
    return replace(frame, points=points)


def moved_to_base(found: Detections3D, base_from_sensor: np.ndarray) -> Detections3D:
    """Return detections of a levelled cloud in the vehicle's frame."""
    boxes = found.xyzlwh_yaw.copy()
    boxes[:, :3] += base_from_sensor[:3, 3].astype(np.float32)
    return Detections3D(boxes, found.scores, found.labels)


def ground_tilt(points: np.ndarray) -> float | None:
    """Return the tilt of the plane with most points, rad in [0, pi]; pi if it lies overhead.

    Random sample consensus (Fischler and Bolles, 1981) over planes of any direction.

    Args:
        points: (N, 3 or more) m, the sensor at 0.

    Returns:
        None if no plane contains a `GROUND_SHARE` of the points.
    """
    rng = np.random.default_rng(0)
    away = np.linalg.norm(points[:, :3], axis=1)
    near = points[(away > 2) & (away < 30), :3]
    if len(near) < 100:
        return None
    near = near[rng.integers(0, len(near), SAMPLES)].astype(np.float64)
    three = near[rng.integers(0, SAMPLES, (PLANES, 3))]
    normal = np.cross(three[:, 1] - three[:, 0], three[:, 2] - three[:, 0])
    length = np.linalg.norm(normal, axis=1)
    sound = length > 1e-3
    normal, through = normal[sound] / length[sound, None], three[sound, 0]
    height = (normal * through).sum(1)
    held = (np.abs(near @ normal.T - height) < GROUND_M).mean(0)
    if not len(held) or held.max() < GROUND_SHARE:
        return None
    best = int(held.argmax())
    up = normal[best] if height[best] < 0 else -normal[best]  # from the ground to the sensor
    return acos(float(np.clip(up[2], -1.0, 1.0)))


def advice(leans_rad: float, frame_id: str, base_frame: str) -> str:
    """Return one line of advice about the mounting of the lidar."""
    return (
        f"the ground leans by {degrees(leans_rad):.0f} degrees in {frame_id}, and no transform to "
        f"{base_frame} levels it: publish the lidar's mounting on /tf_static, or set base_frame"
    )
