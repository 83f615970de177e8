"""Detections as messages bring them to tracks and predictions: class names, frames and time kept straight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from perception_rt.codec.detection_array import NamedDetections
from perception_rt.stage.prediction.predictor import ObjectPredictor, PredictorConfig, motions_of
from perception_rt.stage.road_users import ROAD_USERS, canonical
from perception_rt.stage.tracking.presets import config_2d, config_3d
from perception_rt.stage.tracking.tracker import Tracker2D, Tracker3D
from perception_rt.stage.transforms import transform
from perception_rt.types import (
    CameraFrame,
    Detections2D,
    Detections3D,
    TrackingError,
    Tracks,
    Tracks2D,
)
from perception_rt.types.predictions import Predictions

MOST_CLASSES = 64


class ClassNames:
    """Labels that stay: every canonical class name that was ever heard keeps its index."""

    def __init__(self) -> None:
        self.names = list(ROAD_USERS)

    @property
    def slots(self) -> list[str]:
        """The names, and room for those to come."""
        return self.names + ["unknown"] * (MOST_CLASSES - len(self.names))

    def labels(self, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """(N,) int64 labels of the same detections, into `names`.

        Raises:
            TrackingError: more than `MOST_CLASSES` names.
        """
        for name in map(canonical, classes):
            if name not in self.names:
                if len(self.names) == MOST_CLASSES:
                    raise TrackingError("class_id", name, f"there are {MOST_CLASSES} classes already")
                self.names.append(name)
        index = np.array([self.names.index(canonical(name)) for name in classes], np.int64)
        return index[labels] if len(index) else labels


class Tracked(NamedTuple):
    """The tracks of one moment and where they will be, in the frame of tracking."""

    tracks: Tracks
    predictions: Predictions


class ObjectTracking3D:
    """Tracks and predicts what a lidar's detector or fusion finds.

    Args:
        horizon_s, step_s: of the predictions.
        odometry: whether tracks live in a frame that stands still, or in the sensor's.

    Attributes:
        classes: the names that the labels of tracks index.
    """

    def __init__(self, horizon_s: float, step_s: float, odometry: bool) -> None:
        self.classes = ClassNames()
        slots = self.classes.slots
        self._tracker = Tracker3D(config_3d(slots, odometry))
        motions = motions_of(slots, odometry)
        self._position = np.array([motion.position for motion in motions])
        self._predictor = ObjectPredictor(PredictorConfig(motions, horizon_s, step_s))

    @property
    def resets(self) -> int:
        """How often all tracks were dropped."""
        return self._tracker.resets

    def update(self, message: NamedDetections[Detections3D], odom_from_sensor: np.ndarray | None) -> Tracked:
        """Take the detections of one moment; raises TrackingError, and then nothing was changed."""
        found = message.detections
        labels = self.classes.labels(found.labels, message.classes)
        found = Detections3D(found.xyzlwh_yaw, found.scores, labels)
        tracks = self._tracker.update(message.stamp_ns, found, odom_from_sensor, message.covariance)
        places = found.xyzlwh_yaw[:, :3].astype(np.float64)
        if odom_from_sensor is not None:
            places = transform(odom_from_sensor, places)
        spread = self._position[labels, None, None] ** 2 * np.eye(2) + self._tracker.stated[:, :2, :2]
        return Tracked(tracks, self._predictor.update(message.stamp_ns, tracks, places[:, :2], spread))


class ObjectTracking2D:
    """Tracks what a camera's detector finds, in the image.

    Args:
        camera_moves: compensate the motion of the camera, which images tell.

    Attributes:
        classes: as of `ObjectTracking3D`.
        compensated: whether the motion was known at the last update.
    """

    def __init__(self, camera_moves: bool = False) -> None:
        self.classes = ClassNames()
        self.compensated = False
        self._tracker = Tracker2D(config_2d(self.classes.slots))
        self._camera: Any = None
        if camera_moves:  # late: who sees no image does without the image libraries
            from perception_rt.stage.tracking.camera_motion import CameraMotion

            self._camera = CameraMotion()

    @property
    def resets(self) -> int:
        """How often all tracks were dropped."""
        return self._tracker.resets

    def update(self, message: NamedDetections[Detections2D], image: CameraFrame | None = None) -> Tracks2D:
        """Take the detections of one moment and their image; raises TrackingError, then no track changed."""
        found, motion = message.detections, None
        labels = self.classes.labels(found.labels, message.classes)
        if self._camera is not None and image is not None:
            motion = self._camera.update(image.pixels, found.xyxy, image.bgr)
        elif self._camera is not None:
            self._camera.forget()
        self.compensated = motion is not None
        return self._tracker.update(message.stamp_ns, Detections2D(found.xyxy, found.scores, labels), motion)


def boxes_of(predictions: Predictions, tracks: Tracks) -> tuple[Detections3D, np.ndarray, np.ndarray]:
    """Predictions as boxes, a row a track and future moment: the boxes, their stamps, their covariances.

    Returns:
        N * T boxes, by track and then by time; (N * T,) int64 ns; (N * T, 3, 3) float64 of x y yaw.
    """
    n, t = predictions.yaw.shape
    boxes = np.repeat(tracks.xyzlwh_yaw[:, None], t, axis=1)
    boxes[..., :2], boxes[..., 6] = predictions.xy, predictions.yaw
    plane = np.zeros((n, t, 3, 3))
    plane[..., :2, :2] = predictions.covariance
    plane[..., 2, 2] = tracks.covariance[:, None, 2, 2]
    found = Detections3D(boxes.reshape(-1, 7), np.repeat(tracks.scores, t), np.repeat(tracks.labels, t))
    return found, np.tile(predictions.stamps_ns, n), plane.reshape(-1, 3, 3)
