"""Classification to serialized vision_msgs, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, CdrWriter, message_header
from perception_rt.codec.detection_array import COVARIANCE_AT, IDENTITY, POSE_AT, Rows, finite_float32
from perception_rt.types import CodecError
from perception_rt.types.classification import Classification

_POSE = (*IDENTITY, *(0.0,) * 36)
assert len(IDENTITY) == COVARIANCE_AT - POSE_AT


def encode_classification(
    found: Classification, classes: Sequence[str], stamp_ns: int, frame_id: str
) -> bytes:
    """A serialized vision_msgs/Classification, best score first; the class_id is the name of the class.

    Raises:
        CodecError: for a label without a class.
    """
    writer = CdrWriter()
    writer.header(stamp_ns, frame_id)
    writer.scalars("I", len(found))
    for name, score in _results(found, classes):
        writer.string(name)
        writer.scalars("d", score)
    return writer.bytes()


def encode_classified(rows: Rows, found: Sequence[Classification], classes: Sequence[str]) -> bytes:
    """A serialized vision_msgs/Detection2DArray: header, boxes and ids of `rows`, the results of `found`.

    Args:
        rows: of the detector's message.
        found: one for each of its detections.
        classes: names by label.

    Raises:
        CodecError: for a label without a class.
    """
    writer = CdrWriter()
    writer.header(rows.stamp_ns, rows.frame_id)
    writer.scalars("I", len(found))
    for one, box, id_ in zip(found, rows.boxes.tolist(), rows.ids, strict=True):
        writer.header(rows.stamp_ns, rows.frame_id)
        writer.scalars("I", len(one))
        for name, score in _results(one, classes):
            writer.string(name)
            writer.scalars("d", score, *_POSE)
        writer.scalars("d", *box)
        writer.string(id_)
    return writer.bytes()


def _results(found: Classification, classes: Sequence[str]) -> list[tuple[str, float]]:
    labels = found.labels.tolist()
    if labels and not 0 <= min(labels) <= max(labels) < len(classes):
        raise CodecError("labels", [min(labels), max(labels)], f"there are {len(classes)} classes")
    return [(classes[label], score) for label, score in zip(labels, found.scores.tolist(), strict=True)]


def decode_classification(source: object, classes: Sequence[str]) -> tuple[int, str, Classification]:
    """Stamp in ns, frame_id and classes of a vision_msgs/Classification.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        classes: the names whose indices become labels.

    Raises:
        CodecError: for truncated bytes, a class not in `classes`, or a score that is no number.
    """
    if isinstance(source, BYTES_LIKE):
        reader = CdrReader(source)
        stamp_ns, frame_id = reader.header()
        (count,) = reader.scalars("results", "I")
        results = [(reader.string("class_id"), reader.scalars("score", "d")[0]) for _ in range(count)]
    else:
        try:
            stamp_ns, frame_id = message_header(source)
            results = [(one.class_id, one.score) for one in source.results]  # type: ignore[attr-defined]
        except AttributeError as error:
            what = f"not a vision_msgs/Classification: {error}"
            raise CodecError("source", type(source).__name__, what) from error
    index = {name: label for label, name in enumerate(classes)}
    unknown = next((name for name, _ in results if name not in index), None)
    if unknown is not None:
        raise CodecError("class_id", unknown, f"not one of the {len(index)} classes")
    scores = finite_float32("score", np.array([score for _, score in results], np.float64))
    return (
        stamp_ns,
        frame_id,
        Classification(scores, np.array([index[name] for name, _ in results], np.int64)),
    )
