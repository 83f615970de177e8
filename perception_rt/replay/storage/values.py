"""What is read of a recording, and the damage that is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_BYTES = 1 << 30
"""No record, chunk or message is larger: a length beyond it is a damaged one, and costs no memory."""
LATEST_NS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One recorded message: its topic, type (`sensor_msgs/msg/Image`), log time and serialized bytes."""

    topic: str
    message_type: str
    log_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a recording that cannot be read.

    Attributes:
        topic: whose messages; empty where that is not known.
        log_ns: log time of the message, or where the part begins, if known.
        messages: how many are lost by it; 0 if none is. None where that cannot be told, or not yet: what an
            index or metadata.yaml promises and reading does not give is told per topic at the end.
        reason: what is wrong, and where.
    """

    topic: str
    log_ns: int | None
    messages: int | None
    reason: str


Report = Callable[[Damage], None]


class FormatError(Exception):
    """Bytes that are not what they should be; the text says what."""
