"""tf2_msgs/TFMessage, as it comes on /tf and /tf_static, to transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, message_header
from perception_rt.types import CodecError


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """Where a frame is in another: a point p of the child is at R(quaternion) p + translation in the parent.

    Attributes:
        stamp_ns: the time that it holds for, ns.
        parent: the frame that it is told in (the header's frame_id).
        child: the frame that it tells of.
        translation: (3,) float64, the child's origin, m.
        quaternion: (4,) float64, the child's orientation, x y z w, of length 1.
    """

    stamp_ns: int
    parent: str
    child: str
    translation: np.ndarray
    quaternion: np.ndarray


def parse_transforms(source: object, refuse: Callable[[CodecError], None] | None = None) -> list[Transform]:
    """The transforms of a tf2_msgs/TFMessage in their order; a leading ``/`` of a frame goes, as in tf2.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        refuse: called with the error of each transform that is none, so that the others are returned, as in
            tf2: one joint without a measurement is NaN in the message of all. None: it is raised.

    Raises:
        CodecError: for truncated bytes; without `refuse`, for a frame without a name or in itself, a number
            that is not finite, or a quaternion of length 0.
    """
    if isinstance(source, BYTES_LIKE):
        rows = list(_rows_of_bytes(CdrReader(source)))
    else:
        try:
            rows = list(_rows_of_message(source))
        except AttributeError as error:
            raise CodecError("source", type(source).__name__, f"not a tf2_msgs/TFMessage: {error}") from error
    transforms = []
    for row in rows:
        try:
            transforms.append(_transform(*row))
        except CodecError as error:
            if refuse is None:
                raise
            refuse(error)
    return transforms


_Row = tuple[int, str, str, tuple[float, ...]]
"""Stamp, parent, child, and translation x y z and rotation x y z w."""


def _rows_of_bytes(reader: CdrReader) -> Iterator[_Row]:
    for _ in range(reader.scalars("transforms", "I")[0]):
        stamp_ns, parent = reader.header()
        yield stamp_ns, parent, reader.string("child_frame_id"), reader.scalars("transform", "d", 7)


def _rows_of_message(message: Any) -> Iterator[_Row]:
    for stamped in message.transforms:
        move, turn = stamped.transform.translation, stamped.transform.rotation
        numbers = (move.x, move.y, move.z, turn.x, turn.y, turn.z, turn.w)
        yield *message_header(stamped), stamped.child_frame_id, numbers


def _transform(stamp_ns: int, parent: str, child: str, numbers: tuple[float, ...]) -> Transform:
    parent, child = parent.removeprefix("/"), child.removeprefix("/")
    for field, name in (("frame_id", parent), ("child_frame_id", child)):
        if not name:
            raise CodecError(field, name, f"no name, from {parent!r} to {child!r}")
    if parent == child:
        raise CodecError("child_frame_id", child, "a frame in itself")
    translation, quaternion = list(numbers[:3]), list(numbers[3:])
    if not all(map(isfinite, translation)):
        raise CodecError("translation", translation, f"not finite, from {parent!r} to {child!r}")
    if not (all(map(isfinite, quaternion)) and any(quaternion)):
        raise CodecError("rotation", quaternion, f"no rotation, from {parent!r} to {child!r}")
    largest = max(map(abs, quaternion))  # first, so that no square over- or underflows
    quaternion = [value / largest for value in quaternion]
    length = sqrt(sum([value * value for value in quaternion]))
    unit = np.array([value / length for value in quaternion])
    return Transform(stamp_ns, parent, child, np.array(translation), unit)
