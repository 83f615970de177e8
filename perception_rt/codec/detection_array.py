"""What vision_msgs/Detection2DArray and Detection3DArray share, serialized: all but the numbers of the box.

Building 300 message objects takes 16 ms, so the bytes are made directly: one template per class, joined, and
the numbers scattered into them. Alignment allows it: a detection ends in float64s and the string `id`, so
where the next one starts modulo 8 depends on nothing but the length of that string.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, CdrWriter, message_header, stamp_bytes
from perception_rt.types import CodecError, Detections2D, Detections3D

_ENCAPSULATION = 4
_STAMP = 8
IDENTITY = (0.0,) * 3 + (0.0, 0.0, 0.0, 1.0)
"""A geometry_msgs/Pose: position x y z, orientation x y z w."""
POSE_AT = 1
"""Where the hypothesis' pose starts, counted in float64s from its score."""
COVARIANCE_AT = POSE_AT + 7
BOX_AT = COVARIANCE_AT + 36
_UNSTATED = (0.0,) * 36
_PLANE = (0, 1, 5)  # of a pose: x y and the turn about z
_FLOAT32_END = 2.0**128 - 2.0**103
"""The least float64 that rounds to an infinite float32."""
_PLANE_AT = tuple(COVARIANCE_AT + 6 * row + column for row in _PLANE for column in _PLANE)


Boxes = TypeVar("Boxes", Detections2D, Detections3D)


@dataclass(frozen=True, slots=True, eq=False)
class NamedDetections(Generic[Boxes]):
    """Detections with what their message says about them.

    Attributes:
        stamp_ns: stamp of the array's header, ns.
        frame_id: frame of the array's header.
        detections: what was detected; labels index `classes`.
        ids: one per detection, empty where none was given.
        classes: the names that occur, in their order of first appearance.
        rejected: why detections of the message were left out, one reason for each.
        covariance: (N, 3, 3) float64 of x y yaw, as the best hypothesis' pose states it; zeros where it does
            not. None: not read.
        stamps_ns: stamp of each detection, ns; of predictions the time that they are for. None: not read.
    """

    stamp_ns: int
    frame_id: str
    detections: Boxes
    ids: list[str]
    classes: tuple[str, ...]
    rejected: tuple[str, ...] = ()
    covariance: np.ndarray | None = None
    stamps_ns: Sequence[int] | None = None


class Header(NamedTuple):
    """Of the array and of each detection: one stamp for all, or one for each; ns."""

    stamp_ns: int
    frame_id: str
    stamps_ns: Sequence[int] | None = None


class Numbers(NamedTuple):
    """The float64s of each detection that are not the same for all.

    Attributes:
        box: the box's values where `places` names none, as many as it has.
        places: (R, 1) int64, counted from the hypothesis' score.
        values: (R, N) float64.
    """

    box: tuple[float, ...]
    places: np.ndarray
    values: np.ndarray


def encode_array(
    classes: tuple[str, ...], header: Header, labels: np.ndarray, ids: Sequence[str] | None, numbers: Numbers
) -> bytes:
    """A serialized array of detections with one hypothesis each.

    Raises:
        CodecError: for a label without a class, or ids or stamps that are not one per detection.
    """
    count = len(labels)
    if count and not 0 <= labels.min() <= labels.max() < len(classes):
        raise CodecError("labels", [labels.min(), labels.max()], f"there are {len(classes)} classes")
    for field, given in (("ids", ids), ("stamps_ns", header.stamps_ns)):
        if given is not None and len(given) != count:
            raise CodecError(field, len(given), f"there are {count} detections")
    writer = CdrWriter()
    writer.header(header.stamp_ns, header.frame_id)
    writer.scalars("I", count)
    prefix = writer.bytes()
    if not count:
        return prefix
    parts = _templates(classes, header.frame_id, numbers.box)
    keys, tails = _keys(labels, len(classes), len(prefix) - _ENCAPSULATION, ids)
    buffer, starts = _join(parts, keys, tails, prefix, header)
    doubles = np.frombuffer(buffer, "<f8", len(buffer) // 8 - 1, 8)
    doubles[(starts + parts.score_at[keys]) // 8 + numbers.places] = numbers.values
    return bytes(memoryview(buffer)[_ENCAPSULATION:])


class _Templates(NamedTuple):
    """Serialized detections without stamp and id: per label for a start at 0 mod 8, then at 4."""

    bodies: list[bytes]
    sizes: np.ndarray
    score_at: np.ndarray


@lru_cache(maxsize=64)
def _templates(classes: tuple[str, ...], frame_id: str, box: tuple[float, ...]) -> _Templates:
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
            writer.scalars("d", 0.0, *IDENTITY, *(0.0,) * 36, *box)
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


def _stamps(header: Header) -> Iterable[bytes]:
    """The serialized stamp of each detection."""
    if header.stamps_ns is None:
        return repeat(stamp_bytes(header.stamp_ns))
    known = {stamp_ns: stamp_bytes(stamp_ns) for stamp_ns in set(header.stamps_ns)}
    return map(known.__getitem__, header.stamps_ns)


def _join(
    templates: _Templates, keys: np.ndarray, tails: list[bytes] | None, prefix: bytes, header: Header
) -> tuple[bytearray, np.ndarray]:
    """The message without its numbers, four bytes late to align them, and where each detection starts."""
    bodies = list(map(templates.bodies.__getitem__, keys.tolist()))
    sizes = templates.sizes[keys] + _STAMP
    first = bytes(8 - _ENCAPSULATION) + prefix
    if tails is None and header.stamps_ns is None:
        # The same bytes stand between all of them, so that one join of the bodies does.
        last, stamp = _EMPTY_TAIL, stamp_bytes(header.stamp_ns)
        sizes += len(last)
        bodies[0] = first + stamp + bodies[0]
        buffer = bytearray(last + stamp).join(bodies)
        buffer += last
    else:
        tails = [_EMPTY_TAIL] * len(bodies) if tails is None else tails
        last = tails[-1]
        sizes += np.array([len(tail) for tail in tails], np.int64)
        parts = zip(_stamps(header), bodies, tails, strict=False)
        buffer = bytearray().join(chain((first,), chain.from_iterable(parts)))
    del buffer[
        len(buffer) - len(last) + 4 + int.from_bytes(last[:4], "little") :
    ]  # nothing follows: no padding
    return buffer, len(prefix) - _ENCAPSULATION + np.cumsum(sizes) - sizes


class Rows(NamedTuple):
    """What an array of detections says, before the boxes are looked at.

    Attributes:
        stamp_ns: stamp of the array's header, ns.
        frame_id: its frame.
        names: class name of each detection's best hypothesis.
        scores: (N,) float64, its score; NaN where there is no hypothesis.
        boxes: (N, B) float64, the box's numbers as in the message.
        ids: one per detection.
        covariances: (N, 3, 3) float64 of x y yaw.
        stamps_ns: of each detection, ns.
    """

    stamp_ns: int
    frame_id: str
    names: list[str]
    scores: np.ndarray
    boxes: np.ndarray
    ids: list[str]
    covariances: np.ndarray
    stamps_ns: list[int]

    def at(self, index: Sequence[int]) -> Rows:
        """Return the detections at these places."""
        names, ids = ([values[k] for k in index] for values in (self.names, self.ids))
        places, stamps = list(index), [self.stamps_ns[k] for k in index]
        chosen = self.scores[places], self.boxes[places], ids, self.covariances[places], stamps
        return Rows(self.stamp_ns, self.frame_id, names, *chosen)

    def labels(self, classes: Sequence[str]) -> np.ndarray:
        """(N,) int64, each name's index in `classes`.

        Raises:
            CodecError: for a class that is not there.
        """
        index = {name: label for label, name in enumerate(classes)}
        try:
            return np.array([index[name] for name in self.names], np.int64)
        except KeyError as error:
            raise CodecError("class_id", error.args[0], f"not one of the {len(index)} classes") from None

    def classes(self) -> tuple[str, ...]:
        """The names that occur, in their order of first appearance."""
        return tuple(dict.fromkeys(self.names))


_Row = tuple[list[tuple[str, float, Sequence[float]]], tuple[float, ...], str, int]
"""One detection: its hypotheses (class name, score, covariance of the pose), the box's numbers, id, stamp."""


def read_array(
    source: object, message: str, box_size: int, box_of: Callable[[Any], tuple[float, ...]]
) -> Rows:
    """Read an array of detections; of several hypotheses the one with the best score counts.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        message: the type's name, for errors.
        box_size: how many float64s make a box.
        box_of: the same numbers of a message object's box.

    Raises:
        CodecError: for truncated bytes.
    """
    if isinstance(source, BYTES_LIKE):
        reader = CdrReader(source)
        stamp_ns, frame_id = reader.header()
        usual = _usual_rows(reader, stamp_ns, frame_id, box_size)
        if usual is not None:
            return usual
        return _rows(stamp_ns, frame_id, _rows_of_bytes(reader, box_size), box_size)
    try:
        stamp_ns, frame_id = message_header(source)
        return _rows(stamp_ns, frame_id, _rows_of_message(source, box_of), box_size)
    except AttributeError as error:
        raise CodecError("source", type(source).__name__, f"not a {message}: {error}") from error


def _usual_rows(reader: CdrReader, stamp_ns: int, frame_id: str, box_size: int) -> Rows | None:
    """What `_rows` makes of `_rows_of_bytes`, if each detection has one hypothesis and the array's frame.

    Row by row only the strings are found, whose lengths say where the numbers are; those are taken all at
    once. None for every other message, also for a damaged one: the general way names what is wrong with it.
    The reader stays where it is.
    """
    order, view, at = reader.rest()
    payload = bytes(view)  # a copy: aligned, and its slices are keys
    frame = frame_id.encode() + b"\0"
    head, length, places = _layout(order, len(frame), box_size)
    skipped = 8 * (BOX_AT + box_size)
    stamps, scores_at, names, ids = [], [], [], []
    try:
        at = (at + 3) & -4
        (count,) = length.unpack_from(payload, at)
        end = at + 4
        for _ in range(count):  # ends with the payload at the latest
            at = (end + 3) & -4
            seconds, nanoseconds, frame_length, own_frame, hypotheses, size = head.unpack_from(payload, at)
            if own_frame != frame or frame_length != len(frame) or hypotheses != 1:
                return None
            stamps.append(seconds * 1_000_000_000 + nanoseconds)
            at += head.size
            end = at + size
            names.append(payload[at:end])
            at = (end + 7) & -8
            scores_at.append(at)
            at += skipped
            (size,) = length.unpack_from(payload, at)
            at += 4
            end = at + size
            ids.append(payload[at:end])
        if end > len(payload):
            return None
        texts = {raw: raw[:-1].decode() for raw in {*names, *ids} if raw[-1:] == b"\0"}
        named, identified = [texts[raw] for raw in names], [texts[raw] for raw in ids]
    except (struct.error, UnicodeDecodeError, KeyError):
        return None
    doubles = np.frombuffer(payload, f"{order}f8", len(payload) // 8)
    numbers = doubles[np.array(scores_at, np.int64)[:, None] // 8 + places].astype(np.float64, copy=False)
    plane, boxes = numbers[:, 1:-box_size].reshape(-1, 3, 3), numbers[:, -box_size:]
    return Rows(stamp_ns, frame_id, named, numbers[:, 0], boxes, identified, plane, stamps)


@lru_cache(maxsize=64)
def _layout(order: str, frame_length: int, box_size: int) -> tuple[struct.Struct, struct.Struct, np.ndarray]:
    """Of a detection: all up to its class' name, a length, and the wanted float64s counted from the score."""
    head = struct.Struct(f"{order}iII{frame_length}s{-frame_length % 4}xII")
    places = np.array((0, *_PLANE_AT, *range(BOX_AT, BOX_AT + box_size)))
    return head, struct.Struct(f"{order}I"), places


def _rows_of_bytes(reader: CdrReader, box_size: int) -> Iterator[_Row]:
    for _ in range(reader.scalars("detections", "I")[0]):
        detection_ns, _ = reader.header()
        hypotheses: list[tuple[str, float, Sequence[float]]] = []
        for _ in range(reader.scalars("results", "I")[0]):
            name = reader.string("class_id")
            numbers = reader.scalars("score, pose", "d", BOX_AT)
            hypotheses.append((name, numbers[0], numbers[COVARIANCE_AT:]))
        yield hypotheses, reader.scalars("bbox", "d", box_size), reader.string("id"), detection_ns


def _rows_of_message(message: Any, box_of: Callable[[Any], tuple[float, ...]]) -> Iterator[_Row]:
    for detection in message.detections:
        hypotheses = [
            (result.hypothesis.class_id, result.hypothesis.score, result.pose.covariance)
            for result in detection.results
        ]
        yield hypotheses, box_of(detection.bbox), detection.id, message_header(detection)[0]


def _rows(stamp_ns: int, frame_id: str, rows: Iterable[_Row], box_size: int) -> Rows:
    names: list[str] = []
    found: list[float] = []
    boxes: list[tuple[float, ...]] = []
    ids: list[str] = []
    covariances: list[Sequence[float]] = []
    stamps: list[int] = []
    for hypotheses, box, id_, detection_ns in rows:
        # A detection without a hypothesis has no class and a score of NaN, which `checked_scores` refuses.
        name, score, covariance = max(hypotheses, key=lambda one: one[1], default=("", np.nan, _UNSTATED))
        names.append(name)
        found.append(score)
        boxes.append(box)
        ids.append(id_)
        covariances.append(covariance)
        stamps.append(detection_ns)
    table = np.array(boxes, np.float64).reshape(-1, box_size)
    plane = np.array(covariances, np.float64).reshape(-1, 6, 6)[:, _PLANE][:, :, _PLANE]
    return Rows(stamp_ns, frame_id, names, np.array(found, np.float64), table, ids, plane, stamps)


def checked_scores(rows: Rows) -> np.ndarray:
    """Return the scores as (N,) float32.

    Raises:
        CodecError: for a detection without a hypothesis, or a score that is no number.
    """
    for number, name in enumerate(rows.names):
        if not name and np.isnan(rows.scores[number]):
            raise CodecError("results", [], f"detection {number} has no hypothesis")
    return finite_float32("score", rows.scores)


def named_detections(rows: Rows, convert: Callable[[Rows, Sequence[str]], Boxes]) -> NamedDetections[Boxes]:
    """Return the detections that `convert` accepts; those that it refuses are left out, with the reason.

    Raises:
        CodecError: no detection of the array is left.
    """
    try:
        classes = rows.classes()
        found = convert(rows, classes)
        return NamedDetections(
            rows.stamp_ns, rows.frame_id, found, rows.ids, classes, (), rows.covariances, rows.stamps_ns
        )
    except CodecError as error:
        first = error
    good, reasons = [], []
    for number in range(len(rows.names)):
        one = rows.at([number])
        try:
            convert(one, one.names)
            good.append(number)
        except CodecError as error:
            reasons.append(f"detections[{number}]: {error}")
    if not good:
        raise first
    kept = rows.at(good)
    classes = kept.classes()
    found = convert(kept, classes)
    return NamedDetections(
        kept.stamp_ns,
        kept.frame_id,
        found,
        kept.ids,
        classes,
        tuple(reasons),
        kept.covariances,
        kept.stamps_ns,
    )


def finite_float32(field: str, values: np.ndarray) -> np.ndarray:
    """As float32, which must hold them.

    Raises:
        CodecError: for a value that is not finite there.
    """
    unfit = ~(np.abs(values) < _FLOAT32_END)  # true for NaN too
    if np.count_nonzero(unfit):
        raise CodecError(field, values[unfit][0], "not a finite float32")
    return values.astype(np.float32)
