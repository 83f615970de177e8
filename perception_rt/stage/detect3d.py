"""Detect objects in a lidar frame."""

from __future__ import annotations

import numpy as np

from perception_rt.codec.tensor import as_tensor
from perception_rt.model.runtime import CloudRuntime
from perception_rt.types import Detections3D, LidarFrame


def detect3d(
    runtime: CloudRuntime,
    frame: LidarFrame,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Detections3D:
    """Detect objects in one cloud.

    Args:
        runtime: a bundle of task `detect3d`.
        frame: any number of points, also none; of several sweeps if the bundle takes them.
        score_threshold: least score; None for the bundle's own.
        nms_threshold: footprint IoU above which the box with the lower score is removed; None for the
            bundle's own.

    Returns:
        Boxes in the sensor's frame, best score first.

    Raises:
        ModelError: the module failed or the device is out of memory.
    """
    points = frame.points
    if frame.ages_s is not None and getattr(runtime.manifest.input, "ages", False):
        points = np.column_stack((points, frame.ages_s))
    return Detections3D(*runtime(as_tensor(points), score_threshold, nms_threshold))
