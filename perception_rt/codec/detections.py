"""Detections2D to serialized vision_msgs/Detection2DArray, and back.

Building 300 message objects takes 16 ms, so the bytes are made directly: one template per class, joined, and
the numbers scattered into them. Alignment allows it: a Detection2D ends in float64s and the string `id`, so
where the next one starts modulo 8 depends on nothing but the length of that string.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, CdrWriter, message_header, stamp_bytes
from perception_rt.types import CodecError, Detections2D

_ENCAPSULATION = 4
_STAMP = 8
# After the score come position 3, orientation 4 and covariance 36, then the box: centre x y, theta, size x y.
_POSE = (0.0,) * 3 + (0.0, 0.0, 0.0, 1.0) + (0.0,) * 36
_BOX_AT = 1 + len(_POSE)
_ROWS = np.array([[0], [_BOX_AT], [_BOX_AT + 1], [_BOX_AT + 3], [_BOX_AT + 4]])


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
        labels, count, stamp = detections.labels, len(detections), stamp_bytes(stamp_ns)
        if count and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise CodecError("labels", [labels.min(), labels.max()], f"there are {len(self.classes)} classes")
        if ids is not None and len(ids) != count:
            raise CodecError("ids", len(ids), f"there are {count} detections")
        writer = CdrWriter()
        writer.header(stamp_ns, frame_id)
        writer.scalars("I", count)
        prefix = writer.bytes()
        if not count:
            return prefix
        parts = _templates(self.classes, frame_id)
        keys, tails = _keys(labels, len(self.classes), len(prefix) - _ENCAPSULATION, ids)
        buffer, starts = _join(parts, keys, tails, prefix, stamp)
        numbers = np.frombuffer(buffer, "<f8", len(buffer) // 8 - 1, 8)
        numbers[(starts + parts.score_at[keys]) // 8 + _ROWS] = _numbers(detections)
        return bytes(memoryview(buffer)[_ENCAPSULATION:])


class _Templates(NamedTuple):
    """Serialized Detection2Ds without stamp and id: per label for a start at 0 mod 8, then at 4."""

    bodies: list[bytes]
    sizes: np.ndarray
    score_at: np.ndarray


@lru_cache(maxsize=64)
def _templates(classes: tuple[str, ...], frame_id: str) -> _Templates:
    bodies, score_at = [], []
    for phase in (0, 4):
        for name in classes:
            writer = CdrWriter()
            writer.scalars("B", *bytes(phase))
            writer.header(0, frame_id)
            writer.scalars("I", 1)
            writer.string(name)
            writer.align(8)
            score_at.append(len(writer.bytes()) - _ENCAPSULATION - phase)
            writer.scalars("d", 0.0, *_POSE, *(0.0,) * 5)
            bodies.append(writer.bytes()[_ENCAPSULATION + phase + _STAMP :])
    return _Templates(bodies, np.array([len(body) for body in bodies]), np.array(score_at))


def _tail(id_: str) -> bytes:
    """The string `id`, padded so that the next header may follow."""
    raw = id_.encode() + b"\x00"
    return len(raw).to_bytes(4, "little") + raw + bytes(-len(raw) % 4)


_EMPTY_TAIL = _tail("")


def _keys(
    labels: np.ndarray, classes: int, start: int, ids: Sequence[str] | None
) -> tuple[np.ndarray, list[bytes] | None]:
    """Which template each detection takes, and the serialized ids where there are any."""
    keys = labels.copy()
    keys[0] += classes * (start % 8 // 4)
    if ids is None:
        return keys, None  # after an empty id, which fills 8 bytes, the next one starts at 0 mod 8
    tails = [_tail(id_) for id_ in ids]
    keys[1:] += classes * (np.array([len(tail) for tail in tails[:-1]], np.int64) % 8 // 4)
    return keys, tails


def _join(
    templates: _Templates, keys: np.ndarray, tails: list[bytes] | None, prefix: bytes, stamp: bytes
) -> tuple[bytearray, np.ndarray]:
    """The message without its numbers, four bytes late to align them, and where each detection starts."""
    bodies = list(map(templates.bodies.__getitem__, keys.tolist()))
    sizes = templates.sizes[keys] + _STAMP
    if tails is None:
        separator, last = _EMPTY_TAIL + stamp, _EMPTY_TAIL
        sizes += len(_EMPTY_TAIL)
    else:
        separator, last = stamp, tails[-1]
        bodies[:-1] = [body + tail for body, tail in zip(bodies, tails[:-1], strict=False)]
        sizes += np.array([len(tail) for tail in tails], np.int64)
    bodies[0] = bytes(8 - _ENCAPSULATION) + prefix + stamp + bodies[0]
    buffer = bytearray(separator).join(bodies)
    buffer += last[: 4 + int.from_bytes(last[:4], "little")]  # nothing follows: no padding
    return buffer, len(prefix) - _ENCAPSULATION + np.cumsum(sizes) - sizes


def _numbers(detections: Detections2D) -> np.ndarray:
    """(5, N) float64: score, centre x y, size x y."""
    corners = detections.xyxy.T.astype(np.float64, order="C")
    numbers = np.empty((5, len(detections)))
    numbers[0] = detections.scores
    np.add(corners[:2], corners[2:], out=numbers[1:3])
    numbers[1:3] *= 0.5
    np.subtract(corners[2:], corners[:2], out=numbers[3:])
    return numbers


Row = tuple[list[tuple[str, float]], tuple[float, ...]]
"""One Detection2D: its hypotheses (class name, score), and centre x y, theta, size x y."""


def decode_detections(source: object, classes: Sequence[str]) -> tuple[int, str, Detections2D]:
    """Stamp in ns, frame_id and detections of a vision_msgs/Detection2DArray.

    Of several hypotheses the one with the best score counts.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        classes: the names whose indices become labels.

    Raises:
        CodecError: for truncated bytes, a class not in `classes`, a detection without a hypothesis, a turned
            box, or numbers that make no box.
    """
    if isinstance(source, BYTES_LIKE):
        reader = CdrReader(source)
        stamp_ns, frame_id = reader.header()
        return stamp_ns, frame_id, _detections(_rows_of_bytes(reader), classes)
    try:
        stamp_ns, frame_id = message_header(source)
        return stamp_ns, frame_id, _detections(_rows_of_message(source), classes)
    except AttributeError as error:
        name = type(source).__name__
        raise CodecError("source", name, f"not a vision_msgs/Detection2DArray: {error}") from error


def _rows_of_bytes(reader: CdrReader) -> Iterator[Row]:
    for _ in range(reader.scalars("detections", "I")[0]):
        reader.header()
        hypotheses = []
        for _ in range(reader.scalars("results", "I")[0]):
            name = reader.string("class_id")
            hypotheses.append((name, reader.scalars("score, pose", "d", _BOX_AT)[0]))
        box = reader.scalars("bbox", "d", 5)
        reader.string("id")
        yield hypotheses, box


def _rows_of_message(message: object) -> Iterator[Row]:
    for detection in message.detections:
        hypotheses = [(result.hypothesis.class_id, result.hypothesis.score) for result in detection.results]
        box = detection.bbox
        centre = box.center
        yield hypotheses, (centre.position.x, centre.position.y, centre.theta, box.size_x, box.size_y)


def _detections(rows: Iterable[Row], classes: Sequence[str]) -> Detections2D:
    index = {name: label for label, name in enumerate(classes)}
    labels, scores, boxes = [], [], []
    for hypotheses, box in rows:
        if not hypotheses:
            raise CodecError("results", hypotheses, f"detection {len(labels)} has no hypothesis")
        name, score = max(hypotheses, key=lambda hypothesis: hypothesis[1])
        if name not in index:
            raise CodecError("class_id", name, f"not one of the {len(index)} classes")
        labels.append(index[name])
        scores.append(score)
        boxes.append(box)
    return Detections2D(
        _xyxy(np.array(boxes, np.float64).reshape(-1, 5)),
        _finite("score", np.array(scores, np.float64)),
        np.array(labels, np.int64),
    )


def _xyxy(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) float32 corners of (N, 5) float64 centre x y, theta, size x y."""
    centre, theta, half = boxes[:, :2], boxes[:, 2], boxes[:, 3:] / 2
    if theta.any():
        raise CodecError("theta", theta[np.flatnonzero(theta)[0]], "a turned box has no xyxy")
    if (half < 0).any():
        raise CodecError("size_x, size_y", boxes[(half < 0).any(axis=1)][0, 3:].tolist(), "negative")
    return _finite("bbox", np.concatenate((centre - half, centre + half), axis=1))


def _finite(field: str, values: np.ndarray) -> np.ndarray:
    """As float32, which must hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise CodecError(field, values[~np.isfinite(narrow)][0], "not a finite float32")
    return narrow
