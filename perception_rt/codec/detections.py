"""Detections2D to serialized vision_msgs/Detection2DArray, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception_rt.codec.detection_array import (
    BOX_AT,
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
from perception_rt.types import CodecError, Detections2D

_BOX = (0.0,) * 5
"""A vision_msgs/BoundingBox2D: centre x y, theta, size x y."""
_PLACES = np.array([[0], [BOX_AT], [BOX_AT + 1], [BOX_AT + 3], [BOX_AT + 4]])
_THETA_AT = np.array([[BOX_AT + 2]])


class DetectionEncoder:
    """Serializes the detections of one model.

    Each Detection2D has the array's own header, one result (class_id is the class name; the pose is the
    identity, its covariance zero), the box in px, and an empty id unless ids are given.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def encode(
        self, detections: Detections2D, stamp_ns: int, frame_id: str, ids: Sequence[str] | None = None
    ) -> bytes:
        """A serialized vision_msgs/Detection2DArray.

        Args:
            detections: what to say; labels index the encoder's classes.
            stamp_ns: stamp of the headers, ns.
            frame_id: frame of the headers.
            ids: one id per detection, e.g. of its track.

        Raises:
            CodecError: for a label without a class, or ids that are not one per detection.
        """
        places, values = _PLACES, _values(detections)
        if detections.theta is not None:
            places, values = np.vstack((places, _THETA_AT)), np.vstack((values, detections.theta))
        numbers = Numbers(_BOX, places, values)
        return encode_array(self.classes, Header(stamp_ns, frame_id), detections.labels, ids, numbers)


def _values(detections: Detections2D) -> np.ndarray:
    """(5, N) float64: score, centre x y, size x y."""
    corners = detections.xyxy.T.astype(np.float64, order="C")
    values = np.empty((5, len(detections)))
    values[0] = detections.scores
    np.add(corners[:2], corners[2:], out=values[1:3])
    values[1:3] *= 0.5
    np.subtract(corners[2:], corners[:2], out=values[3:])
    return values


def decode_detections(source: object, classes: Sequence[str]) -> tuple[int, str, Detections2D]:
    """Stamp in ns, frame_id and detections of a vision_msgs/Detection2DArray.

    Of several hypotheses the one with the best score counts.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        classes: the names whose indices become labels.

    Raises:
        CodecError: for truncated bytes, a class not in `classes`, a detection without a hypothesis, or
            numbers that make no box.
    """
    rows = read_rows(source)
    return rows.stamp_ns, rows.frame_id, _detections(rows, classes)


def decode_named_detections(source: object) -> NamedDetections[Detections2D]:
    """Detections2D of a vision_msgs/Detection2DArray whose classes are not known before, and their ids.

    For a turned box it has the upright one around it, as trackers and fusion compare upright boxes.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.

    Raises:
        CodecError: for truncated bytes, or where no detection is left. Those that `decode_detections` would
            refuse are left out, and named in `rejected`.
    """
    return named_detections(read_rows(source), lambda rows, classes: _detections(rows, classes).upright())


def read_rows(source: object) -> Rows:
    """A vision_msgs/Detection2DArray as it is: boxes (N, 5) centre x y, theta, size x y, not checked.

    Raises:
        CodecError: for truncated bytes.
    """
    return read_array(source, "vision_msgs/Detection2DArray", len(_BOX), _box_of)


def _box_of(box: Any) -> tuple[float, ...]:
    centre = box.center
    return centre.position.x, centre.position.y, centre.theta, box.size_x, box.size_y


def _detections(rows: Rows, classes: Sequence[str]) -> Detections2D:
    theta = finite_float32("theta", rows.boxes[:, 2])
    return Detections2D(
        _xyxy(rows.boxes),
        checked_scores(rows),
        rows.labels(classes),
        theta if np.count_nonzero(theta) else None,
    )


def _xyxy(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) float32 corners, before the turn, of (N, 5) float64 centre x y, theta, size x y."""
    centre, half = boxes[:, :2], boxes[:, 3:] / 2
    if np.count_nonzero(half < 0):
        raise CodecError("size_x, size_y", boxes[(half < 0).any(axis=1)][0, 3:].tolist(), "negative")
    return finite_float32("bbox", np.concatenate((centre - half, centre + half), axis=1))
