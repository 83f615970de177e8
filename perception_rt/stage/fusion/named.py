"""Fusion of detections as messages bring them: with frames, stamps, and class names not known before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.stage.fusion.fuse import Fused, fuse, lidar_alone
from perception_rt.types import Detections2D, Detections3D, PerceptionError, TransformError

CameraDetections = NamedDetections[Detections2D]
LidarDetections = NamedDetections[Detections3D]
Lookup = Callable[[str, str, int], np.ndarray]
"""Target frame, source frame, stamp in ns to (4, 4); raises TransformError."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What became of one message of the lidar.

    Attributes:
        fused: the objects.
        reason: why they are the lidar's alone; empty where the camera has its say.
        model: the camera, where it has.
        camera_from_lidar: (4, 4), where it has.
    """

    fused: Fused
    reason: str
    model: CameraModel | None = None
    camera_from_lidar: np.ndarray | None = None


class FusionStage:
    """Fuses pairs of messages, and knows what it needs besides them.

    Args:
        lookup: of a `TransformBuffer`, or of what stands for it.

    Attributes:
        model: the camera; None before its first CameraInfo.
        no_model: why there is none.
        iou_threshold: as of `fuse`.
        camera_recall: as of `fuse`.
        ground_z: as of `fuse`.
        fixed_frame: frame through which the motion between the two stamps is undone (as odom); "" for none.
        missing: what the last pair lacked; "" after one that was fused.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.model: CameraModel | None = None
        self.no_model = "no CameraInfo yet"
        self.iou_threshold = 0.3
        self.camera_recall = 0.5
        self.ground_z: float | None = None
        self.fixed_frame = ""
        self.missing = ""
        self._lookup = lookup
        self._names: dict[str, None] = {}  # all classes that the camera ever saw

    def pair(self, camera: CameraDetections, lidar: LidarDetections) -> Answer:
        """The objects of both sensors; the lidar's alone where camera or transform are not known."""
        self._names |= dict.fromkeys(camera.classes)
        unseen = self._names.keys() - set(camera.classes)
        try:
            model, camera_from_lidar = self._way(camera, lidar)
            fused = fuse(
                camera.detections,
                (*camera.classes, *sorted(unseen)),
                lidar.detections,
                lidar.classes,
                model,
                camera_from_lidar,
                self.iou_threshold,
                self.camera_recall,
                self.ground_z,
            )
        except PerceptionError as error:
            self.missing = str(error)
            return self.alone(lidar, self.missing)
        self.missing = ""
        return Answer(fused, "", model, camera_from_lidar)

    def lacks_transform(self, camera: CameraDetections, lidar: LidarDetections) -> bool:
        """Return whether a transform is all that a pair lacks: it may still come."""
        try:
            self._way(camera, lidar)
        except TransformError:
            return True
        except PerceptionError:
            pass
        return False

    def alone(self, lidar: LidarDetections, reason: str) -> Answer:
        """The lidar's objects."""
        return Answer(lidar_alone(lidar.detections, lidar.classes), reason)

    def _way(self, camera: CameraDetections, lidar: LidarDetections) -> tuple[CameraModel, np.ndarray]:
        """The camera, and what takes the lidar's points to it.

        Raises:
            PerceptionError: one of them is not known.
        """
        if self.model is None:
            raise PerceptionError(self.no_model)
        if self.model.frame_id != camera.frame_id:
            frames = f"CameraInfo is of {self.model.frame_id!r}, the detections are of {camera.frame_id!r}"
            raise PerceptionError(f"{frames}: not the same camera")
        if not self.fixed_frame:
            return self.model, self._lookup(camera.frame_id, lidar.frame_id, lidar.stamp_ns)
        camera_from_fixed = self._lookup(camera.frame_id, self.fixed_frame, camera.stamp_ns)
        return self.model, camera_from_fixed @ self._lookup(self.fixed_frame, lidar.frame_id, lidar.stamp_ns)
