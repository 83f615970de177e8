"""A lidar frame to 3D detections."""

from __future__ import annotations

from perception_rt.codec.tensor import as_tensor
from perception_rt.model.runtime import CloudRuntime
from perception_rt.types import Detections3D, LidarFrame


def detect3d(
    runtime: CloudRuntime,
    frame: LidarFrame,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Detections3D:
    """Detect in one cloud.

    Args:
        runtime: a bundle of task `detect3d`.
        frame: any number of points, none included.
        score_threshold: least score; None for the bundle's own.
        nms_threshold: footprint IoU above which the lower score goes; None for the bundle's own.

    Returns:
        Boxes in the sensor's frame, best score first.

    Raises:
        ModelError: the module failed or the device is out of memory.
    """
    return Detections3D(*runtime(as_tensor(frame.points), score_threshold, nms_threshold))
