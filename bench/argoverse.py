"""Prediction on Argoverse 2: a log's labelled boxes through the object tracker's stages, three seconds ahead.

Nothing is fitted on it (Wilson et al., "Argoverse 2: Next generation datasets for self-driving perception and
forecasting", NeurIPS Datasets and Benchmarks 2021). The baseline repeats the last step, of 0.1 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception_rt.codec.detection_array import NamedDetections
from perception_rt.stage.road_users import canonical, group
from perception_rt.stage.tracking.object_tracking import ObjectTracking3D
from perception_rt.types import Detections3D

HORIZON_S, STEP_S, HZ = 3.0, 0.5, 10
VEHICLES = ("BOX_TRUCK", "BUS", "LARGE_VEHICLE", "REGULAR_VEHICLE", "SCHOOL_BUS", "TRUCK", "TRUCK_CAB")
GROUPS = ("pedestrian", "vehicle", "two-wheeler")
MOVING_M_S = 1.0  # mean speed over the three seconds


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """Predictions for N objects at their moments, and the truth.

    Attributes:
        groups: (N,) names of GROUPS. tracks: (N,) of the log. frames: (N,) numbers of the moments.
        predicted, baseline, truth: (N, 6, 2) m in the city's frame, every 0.5 s.
        covariance: (N, 6, 2, 2) m^2.
    """

    groups: np.ndarray
    tracks: np.ndarray
    frames: np.ndarray
    predicted: np.ndarray
    baseline: np.ndarray
    truth: np.ndarray
    covariance: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Ahead:
        """Return the objects that a mask selects."""
        return Ahead(*(getattr(self, name)[index] for name in self.__slots__))

    def errors(self, paths: np.ndarray) -> tuple[float, float]:
        """ADE and FDE, m, of (N, 6, 2) paths."""
        distance = np.linalg.norm(paths - self.truth, axis=-1)
        return float(distance.mean()), float(distance[:, -1].mean())

    @property
    def moving(self) -> np.ndarray:
        """Return (N,) bool, True for objects that move."""
        return np.linalg.norm(self.truth[:, -1] - self.truth[:, 0], axis=-1) > MOVING_M_S * (
            HORIZON_S - STEP_S
        )


def group_of(category: str) -> str:
    """Return the group of a category of Argoverse 2; empty if it is not predicted."""
    if category in VEHICLES:
        return "vehicle"
    name = group(canonical(category))
    return name if name in GROUPS else ""


def frames_of(path: Path) -> Iterator[tuple[NamedDetections[Detections3D], np.ndarray, np.ndarray]]:
    """Yield the boxes of each moment, the vehicle's pose in the city (4, 4), and the track of each box."""
    log = np.load(path)
    poses = dict(zip(log["ego_timestamp_ns"].tolist(), log["ego_pose"], strict=True))
    names, labels = np.unique(log["category"], return_inverse=True)
    q = log["qw"] + 1j * log["qz"]  # boxes are upright
    boxes = np.column_stack(
        [log[f"{name}_m"] for name in ("tx", "ty", "tz", "length", "width", "height")] + [2 * np.angle(q)]
    )
    for stamp_ns in np.unique(log["timestamp_ns"]):
        at = log["timestamp_ns"] == stamp_ns
        found = Detections3D(
            boxes[at].astype(np.float32), np.ones(at.sum(), np.float32), labels[at].astype(np.int64)
        )
        message = NamedDetections(
            int(stamp_ns), "vehicle", found, [""] * len(found), tuple(str(n) for n in names)
        )
        yield message, _matrix(poses[int(stamp_ns)]), log["track"][at]


def _matrix(pose: np.ndarray) -> np.ndarray:
    w, x, y, z = pose[:4]
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pose[4:]
    return matrix


def predict_log(path: Path) -> Ahead:
    """Predict every object of a log at every moment with three seconds of truth after it."""
    frames = list(frames_of(path))
    origin = frames[0][1][:2, 3]
    where: list[dict[int, np.ndarray]] = []
    for message, pose, tracks in frames:
        places = message.detections.xyzlwh_yaw[:, :3] @ pose[:3, :3].T + pose[:3, 3]
        where.append(dict(zip(tracks.tolist(), places[:, :2] - origin, strict=True)))
    steps = np.arange(1, round(HORIZON_S / STEP_S) + 1) * round(STEP_S * HZ)
    tracking, rows = ObjectTracking3D(HORIZON_S, STEP_S, odometry=True), []
    for number, (message, pose, tracks) in enumerate(frames):
        local = pose.copy()
        local[:2, 3] -= origin
        tracked = tracking.update(message, local)
        for row, detection in enumerate(tracked.tracks.detection.tolist()):
            if detection < 0 or number == 0 or number + steps[-1] >= len(frames):
                continue
            key = int(tracks[detection])
            name = group_of(message.classes[message.detections.labels[detection]])
            known = [where[number + step].get(key) for step in (-1, *steps)]
            if not name or any(place is None for place in known):
                continue
            here, truth = where[number][key], np.stack(known[1:])
            velocity = (here - known[0]) * HZ
            baseline = here + velocity * (steps / HZ)[:, None]
            predictions = tracked.predictions
            rows.append(
                (name, key, number, predictions.xy[row], baseline, truth, predictions.covariance[row])
            )
    return Ahead(*(np.array(column) for column in zip(*rows, strict=True)))
