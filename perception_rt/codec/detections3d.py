"""Detections3D to serialized vision_msgs/Detection3DArray, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception_rt.codec.detection_array import (
    BOX_AT,
    COVARIANCE_AT,
    IDENTITY,
    POSE_AT,
    Header,
    NamedDetections,
    Numbers,
    Rows,
    checked_scores,
    encode_array,
    finite_float32,
    named_detections,
    read_array,
)
from perception_rt.types import CodecError, Detections3D

_BOX = (*IDENTITY, 0.0, 0.0, 0.0)
"""A vision_msgs/BoundingBox3D: centre x y z, orientation x y z w, size x y z."""
_POSE = (0, 1, 2, 5, 6)  # of a pose: position x y z, orientation z w; x and y stay 0
_PLACES = np.array([0, *(POSE_AT + i for i in _POSE), *(BOX_AT + i for i in (*_POSE, 7, 8, 9))])[:, None]
_PLACES_COVARIANCE = np.concatenate((_PLACES, COVARIANCE_AT + np.arange(36)[:, None]))
_CENTRE_SIZE = np.array((0, 1, 2, 7, 8, 9))
_MAX_TILT_RAD = 0.01
_SINE_OF_HALF = np.sin(_MAX_TILT_RAD / 2)


class Detection3DEncoder:
    """Serializes the 3D detections of one model, tracker or predictor.

    Each Detection3D has one result (class_id is the class name; the pose is the box's) and the box: its
    centre turned about z by the yaw, and its size (x length, y width, z height, in m).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def encode(
        self,
        detections: Detections3D,
        stamp_ns: int,
        frame_id: str,
        ids: Sequence[str] | None = None,
        *,
        covariances: np.ndarray | None = None,
        stamps_ns: Sequence[int] | None = None,
    ) -> bytes:
        """A serialized vision_msgs/Detection3DArray.

        Args:
            detections: what to say; labels index the encoder's classes.
            stamp_ns: stamp of the headers, ns.
            frame_id: frame of the headers.
            ids: one id per detection, e.g. of its track; empty ones by default.
            covariances: (N, 36) float64 of the poses, row-major over x y z and the turns about X Y Z
                (geometry_msgs/PoseWithCovariance), m and rad; zeros by default.
            stamps_ns: one stamp per detection for its own header, ns, e.g. the time a prediction is for.

        Raises:
            CodecError: for a label without a class, or ids, stamps or covariances that are not one per
                detection.
        """
        count = len(detections)
        if covariances is None:
            numbers = Numbers(_BOX, _PLACES, _values(detections))
        elif covariances.shape == (count, 36):
            numbers = Numbers(_BOX, _PLACES_COVARIANCE, np.concatenate((_values(detections), covariances.T)))
        else:
            raise CodecError("covariances", covariances.shape, f"must be ({count}, 36)")
        header = Header(stamp_ns, frame_id, stamps_ns)
        return encode_array(self.classes, header, detections.labels, ids, numbers)


def _values(detections: Detections3D) -> np.ndarray:
    """(14, N) float64: score, the pose twice (x y z, z and w of the quaternion), size x y z."""
    boxes = detections.xyzlwh_yaw.T.astype(np.float64, order="C")
    values = np.empty((14, len(detections)))
    values[0] = detections.scores
    values[1:4] = boxes[:3]
    half = boxes[6] / 2
    np.sin(half, out=values[4])
    np.cos(half, out=values[5])
    values[6:11] = values[1:6]
    values[11:] = boxes[3:6]
    return values


def decode_detections3d(source: object, classes: Sequence[str]) -> tuple[int, str, Detections3D, list[str]]:
    """Stamp in ns, frame_id, detections and their ids of a vision_msgs/Detection3DArray.

    The box counts, not the hypothesis' pose; of several hypotheses, the one with the best score.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        classes: the names whose indices become labels.

    Raises:
        CodecError: for truncated bytes, a class not in `classes`, a detection without a hypothesis, a box
            that is tilted out of the horizontal plane, or numbers that make no box.
    """
    rows = _read(source)
    return rows.stamp_ns, rows.frame_id, _detections(rows, classes), rows.ids


def decode_named_detections3d(source: object) -> NamedDetections[Detections3D]:
    """Detections3D of a vision_msgs/Detection3DArray whose classes are not known before, and their ids.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.

    Raises:
        CodecError: for truncated bytes, or where no detection is left. Those that `decode_detections3d` would
            refuse are left out, and named in `rejected`.
    """
    return named_detections(_read(source), _detections)


def _read(source: object) -> Rows:
    return read_array(source, "vision_msgs/Detection3DArray", len(_BOX), _box_of)


def _box_of(box: Any) -> tuple[float, ...]:
    position, turn, size = box.center.position, box.center.orientation, box.size
    return position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w, size.x, size.y, size.z


def _detections(rows: Rows, classes: Sequence[str]) -> Detections3D:
    return Detections3D(_xyzlwh_yaw(rows.boxes), checked_scores(rows), rows.labels(classes))


def _xyzlwh_yaw(boxes: np.ndarray) -> np.ndarray:
    """(N, 7) float32 of (N, 10) float64 centre x y z, orientation x y z w, size x y z."""
    size = boxes[:, 7:]
    if np.count_nonzero(size < 0):
        raise CodecError("size", size[(size < 0).any(axis=1)][0].tolist(), "negative")
    result = np.empty((len(boxes), 7), np.float32)
    result[:, :6] = finite_float32("bbox", boxes[:, _CENTRE_SIZE])
    result[:, 6] = _yaw(boxes[:, 3:7])
    return result


def _yaw(quaternions: np.ndarray) -> np.ndarray:
    """(N,) float64 in [-pi, pi] of (N, 4) float64 x y z w, which turn about z alone."""
    largest = np.abs(quaternions).max(axis=1, initial=0)  # first, so that no square over- or underflows
    usable = (largest > 0) & (largest < np.inf)
    if np.count_nonzero(usable) < len(usable):
        raise CodecError("orientation", quaternions[~usable][0].tolist(), "no rotation")
    units = quaternions.T / largest
    x, y, z, w = units
    xx, yy, zz, ww = units * units
    if np.count_nonzero(units[:2]):
        # The tilt's half has the sine hypot(x, y) / norm.
        tilted = np.hypot(x, y) > _SINE_OF_HALF * np.sqrt(xx + yy + zz + ww)
        if tilted.any():
            reason = f"tilted from the vertical by more than {_MAX_TILT_RAD} rad"
            raise CodecError("orientation", quaternions[tilted][0].tolist(), reason)
    return np.arctan2(2 * (w * z + x * y), ww + xx - yy - zz)
