"""The messages and damages of a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_BYTES = 1 << 30
"""Maximum size of a record, chunk or message; a larger length counts as damaged."""
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
        topic: of the lost messages; empty if not known.
        log_ns: log time of the message or of the start of the part; None if not known.
        messages: number of lost messages; None if not known (yet). Messages that are listed in an index or
            metadata.yaml but were not read are reported per topic at the end.
        reason: what is damaged, and where.
    """

    topic: str
    log_ns: int | None
    messages: int | None
    reason: str


CDR = "cdr"


def type_name(message_type: str, encoding: str) -> str:
    """Return the name of a type; one whose messages are not CDR gets a name that no node accepts."""
    return message_type if encoding in (CDR, "") else f"{message_type} encoded as {encoding}"


Report = Callable[[Damage], None]


class FormatError(Exception):
    """Data does not have the expected format; the message has the reason."""
