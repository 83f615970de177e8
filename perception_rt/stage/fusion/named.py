"""Fuse detections from messages, with their frames, stamps, and class names."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.stage.fusion.fuse import CameraView, Fused, fuse_views, lidar_alone
from perception_rt.stage.fusion.lidars import merge_lidars
from perception_rt.stage.fusion.project import valid_radius
from perception_rt.stage.transforms import Lookup, camera_way
from perception_rt.types import Detections2D, Detections3D, PerceptionError, TransformError

CameraDetections = NamedDetections[Detections2D]
LidarDetections = NamedDetections[Detections3D]

REACH_MESSAGES = 50  # for which a box beyond the image is remembered
REACH_SLACK = 1.1  # detectors round, and some do not clip boxes


class FusionCamera:
    """The state of one camera besides its detections.

    Attributes:
        model: None before its first CameraInfo.
        no_model: the reason if there is none.
        image_size: (height, width) of its images if they are received, px.
        missing: the reason why its last message was not fused; "" if it was.
    """

    def __init__(self) -> None:
        self.model: CameraModel | None = None
        self.no_model = "no CameraInfo yet"
        self.image_size: tuple[int, int] | None = None
        self.missing = ""
        self.names: dict[str, None] = {}  # all classes in its messages so far
        self._reach: deque[tuple[float, float]] = deque(maxlen=REACH_MESSAGES)

    def take(self, message: CameraDetections) -> None:
        """Update classes and image size from a message."""
        self.names |= dict.fromkeys(message.classes)
        corner = message.detections.xyxy[:, 2:].max(0, initial=0)
        self._reach.append((float(corner[0]), float(corner[1])))

    def checked_model(self, frame_id: str) -> CameraModel:
        """Return the camera model for detections in this frame.

        Raises:
            PerceptionError: there is none, or it belongs to another camera or image size.
        """
        if self.model is None:
            raise PerceptionError(self.no_model)
        model = self.model
        if model.frame_id and frame_id.removeprefix("/") not in ("", model.frame_id):
            frames = f"CameraInfo is of {model.frame_id!r}, the detections are of {frame_id!r}"
            raise PerceptionError(f"{frames}: not the same camera")
        size = (model.height, model.width)
        if self.image_size is not None:
            if self.image_size != size:
                raise PerceptionError(_other_size(model, "the image is", self.image_size[::-1]))
            return model
        x, y = (max(one) for one in zip(*self._reach, strict=True)) if self._reach else (0, 0)
        if x > model.width * REACH_SLACK or y > model.height * REACH_SLACK:
            raise PerceptionError(_other_size(model, "the detections reach to", (round(x), round(y))))
        return model


def _other_size(model: CameraModel, what: str, size: tuple[int, int]) -> str:
    turned = ", turned" if size[::-1] == (model.width, model.height) else ""
    return f"CameraInfo is of {model.width} x {model.height} px, {what} {size[0]} x {size[1]}{turned}"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The result of one message of the lidar.

    Attributes:
        fused: the objects; `partners` has a column for each view that is not None.
        frame_id: frame of their positions.
        reasons: by camera, why it was not used; empty if it was used.
        views: by camera, its input; None if it was not used.
        lidar_reasons: by further lidar, why it was not used.
    """

    fused: Fused
    frame_id: str
    reasons: tuple[str, ...]
    views: tuple[CameraView | None, ...]
    lidar_reasons: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The reason why no camera was used; empty if one was."""
        return "" if any(self.views) else _joined(self.reasons)


class FusionStage:
    """Fuses groups of messages, and keeps the state of the cameras.

    Args:
        lookup: `lookup` of a `TransformBuffer` or an equivalent.
        cameras: number of cameras.

    Attributes:
        cameras: state of each.
        iou_threshold: see `fuse_views`.
        camera_recall: see `fuse_views`.
        lidar_height_m: of the first lidar above the ground; 0 if unknown.
        fixed_frame: frame that compensates the motion between the stamps (such as odom); "" for none.
        base_frame: frame of the results; "" for the first lidar's.
    """

    def __init__(self, lookup: Lookup, cameras: int = 1) -> None:
        self.cameras = [FusionCamera() for _ in range(cameras)]
        self.iou_threshold = 0.3
        self.camera_recall = 0.5
        self.lidar_height_m = 0.0
        self.fixed_frame = ""
        self.base_frame = ""
        self._lookup = lookup

    @property
    def missing(self) -> str:
        """The reasons why the cameras' last messages were not fused; "" for none."""
        return _joined([camera.missing for camera in self.cameras])

    def fuse(
        self,
        lidar: LidarDetections,
        seen: Sequence[CameraDetections | None],
        others: Sequence[LidarDetections | None] = (),
    ) -> Answer:
        """Return the objects of all sensors; those without model or transform are not used.

        Args:
            lidar: the first lidar's message, which gives the stamp of the result.
            seen: by camera, its message or None.
            others: by further lidar, its message or None.
        """
        frame = self._frame(lidar)
        why, lidar_why = [""] * len(seen), [""] * len(others)
        views: list[CameraView | None] = [None] * len(seen)
        try:
            lidars = [(lidar.detections, lidar.classes, self._way(frame, lidar.stamp_ns, lidar))]
        except TransformError as error:  # the objects are published where they are known
            frame, lidars = lidar.frame_id, [(lidar.detections, lidar.classes, np.eye(4))]
            why, lidar_why, seen, others = [str(error)] * len(why), [str(error)] * len(lidar_why), (), ()
            for camera in self.cameras:
                camera.missing = str(error)
        for index, other in enumerate(others):
            try:
                if other is not None:
                    way = self._way(frame, lidar.stamp_ns, other)
                    lidars.append((other.detections, other.classes, way))
            except TransformError as error:
                lidar_why[index] = str(error)
        for index, (camera, message) in enumerate(zip(self.cameras, seen, strict=False)):
            if message is None:
                continue
            camera.take(message)
            try:
                views[index] = self._view(camera, message, frame, lidar.stamp_ns)
                camera.missing = ""
            except PerceptionError as error:
                why[index] = camera.missing = str(error)
        detections, classes = merge_lidars(lidars)
        present = [view for view in views if view is not None]
        if present:
            height = self.lidar_height_m
            ground_z = lidars[0][2][2, 3] - height if height else None
            fused = fuse_views(present, detections, classes, self.iou_threshold, self.camera_recall, ground_z)
        else:
            fused = lidar_alone(detections, classes)
        return Answer(fused, frame, tuple(why), tuple(views), tuple(lidar_why))

    def lacks_transform(
        self,
        lidar: LidarDetections,
        seen: Sequence[CameraDetections | None],
        others: Sequence[LidarDetections | None] = (),
    ) -> bool:
        """Return whether only a transform is missing, which may still arrive."""
        frame = self._frame(lidar)
        try:
            for one in (lidar, *others):
                if one is not None:
                    self._way(frame, lidar.stamp_ns, one)
        except TransformError:
            return True
        for camera, message in zip(self.cameras, seen, strict=True):
            if message is None:
                continue
            try:
                self._view(camera, message, frame, lidar.stamp_ns)
            except TransformError:
                return True
            except PerceptionError:
                continue
        return False

    def _frame(self, lidar: LidarDetections) -> str:
        return self.base_frame.removeprefix("/") or lidar.frame_id

    def _view(self, camera: FusionCamera, message: CameraDetections, frame: str, stamp_ns: int) -> CameraView:
        """Return the input of a camera with its pose in `frame` at a time.

        Raises:
            PerceptionError: model or transform are not known, or the lens cannot be used.
        """
        model = camera.checked_model(message.frame_id)
        if model.d.any():
            valid_radius(model)
        way = self._camera_way(model, message, frame, stamp_ns)
        unseen = camera.names.keys() - set(message.classes)
        return CameraView(message.detections, (*message.classes, *sorted(unseen)), model, way)

    def _camera_way(
        self, model: CameraModel, message: CameraDetections, frame: str, stamp_ns: int
    ) -> np.ndarray:
        """Return (4, 4) from points of `frame` at a time to the frame of the model."""
        optical = message.frame_id.removeprefix("/")
        if not self.fixed_frame:
            return camera_way(self._lookup, model, frame, stamp_ns, optical)
        camera_from_fixed = camera_way(self._lookup, model, self.fixed_frame, message.stamp_ns, optical)
        return camera_from_fixed @ self._lookup(self.fixed_frame, frame, stamp_ns)

    def _way(self, frame: str, stamp_ns: int, lidar: LidarDetections) -> np.ndarray:
        """Return (4, 4) from points of a lidar's message to `frame` at a time."""
        if frame == lidar.frame_id and lidar.stamp_ns == stamp_ns:
            return np.eye(4)
        if not self.fixed_frame or lidar.stamp_ns == stamp_ns:
            return self._lookup(frame, lidar.frame_id, stamp_ns)
        frame_from_fixed = self._lookup(frame, self.fixed_frame, stamp_ns)
        return frame_from_fixed @ self._lookup(self.fixed_frame, lidar.frame_id, lidar.stamp_ns)


def _joined(reasons: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, reasons)))
