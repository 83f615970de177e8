"""Speed of the tracker on one core, in processor time of its thread, so that other processes do not count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.rows import Row, row
from bench.tracking_accuracy import HELD_OUT, KITTI, TUNED, kitti_detections
from perception_rt.replay.kitti import read_tracking_labels
from perception_rt.stage.tracking.config import Life, Motion2D, TrackerConfig2D
from perception_rt.stage.tracking.tracker import Tracker2D, Tracker3D
from perception_rt.types import Detections2D, Detections3D

OBJECTS, STEPS, STEP_NS = 100, 300, 10**8
AB3DMOT_HZ = 90.0  # frames/s, as its authors' code runs on KITTI


def tracker_rows(data: Path | None) -> list[Row]:
    """Every figure; `data` is the folder of the recordings, None where they are absent."""
    crowd = [crowd_frame(step) for step in range(STEPS)]
    flat = [_flattened(found) for found in crowd]
    in_image = TrackerConfig2D((Life(),), (Motion2D(),))
    rows = [
        row("tracker/100_objects_3d_ms", _ms_per_frame(Tracker3D(KITTI), crowd), "ms", "<= 3"),
        row("tracker/100_objects_2d_ms", _ms_per_frame(Tracker2D(in_image), flat), "ms", "<= 3"),
    ]
    if data is not None:
        rate = 1e3 / kitti_ms_per_frame(data / "tracking_kitti")
        rows += [
            row("tracker/kitti_frames_per_s", rate, "frames/s", ">= 1800"),
            row("tracker/kitti_rate_over_ab3dmot", rate / AB3DMOT_HZ, "ratio", ">= 20"),
        ]
    return rows


def crowd_frame(step: int) -> Detections3D:
    """Detections of 100 cars that drive straight on, 0.1 m of noise, in the given step."""
    layout, noise = np.random.default_rng(0), np.random.default_rng(step)
    place, velocity = layout.uniform(-80, 80, (OBJECTS, 2)), layout.uniform(-5, 5, (OBJECTS, 2))
    boxes = np.zeros((OBJECTS, 7), np.float32)
    boxes[:, :2] = place + velocity * (step * STEP_NS / 1e9) + noise.normal(0, 0.1, (OBJECTS, 2))
    boxes[:, 3:6] = 4.2, 1.8, 1.5
    boxes[:, 6] = np.arctan2(velocity[:, 1], velocity[:, 0])
    return Detections3D(boxes, np.full(OBJECTS, 0.9, np.float32), np.zeros(OBJECTS, np.int64))


def _flattened(found: Detections3D) -> Detections2D:
    """The same crowd as boxes of an image, 10 px a metre."""
    centre, half = 1000 + 10 * found.xyzlwh_yaw[:, :2], np.array([10.0, 20.0], np.float32)
    return Detections2D(np.hstack((centre - half, centre + half)), found.scores, found.labels)


def _ms_per_frame(tracker: Tracker3D | Tracker2D, frames: Sequence[Detections3D | Detections2D]) -> float:
    began = time.thread_time()
    for step, found in enumerate(frames):
        tracker.update(step * STEP_NS, found)
    return (time.thread_time() - began) / len(frames) * 1e3


def kitti_ms_per_frame(folder: Path) -> float:
    """Both classes of PointRCNN at once, over the six sequences."""
    took = frames = 0
    for name in (*TUNED, *HELD_OUT):
        last = max(read_tracking_labels(folder / "label" / f"{name}.txt"))
        found = [detections for detections, _ in kitti_detections(folder, name, last)]
        took += _ms_per_frame(Tracker3D(KITTI), found) * len(found)
        frames += len(found)
    return took / frames
