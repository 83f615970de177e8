"""Find the records in partly damaged data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from perception_rt.replay.storage.records import CHUNK, PEEK, PREFIX, record_length

Read = Callable[[int, int], bytes]
"""Reads a number of bytes at an offset; fewer at the end."""

# An opcode and a length below 4 GiB; a lookahead, as a true record may begin inside a false match.
_BEGINS = re.compile(rb"(?=[\x01-\x0f].{4}\0{4})", re.DOTALL)
_WINDOW = 1 << 20


class Piece(NamedTuple):
    """A record, or (kind 0) bytes without one; offsets of its first byte and of the next piece."""

    kind: int
    start: int
    stop: int


def scan(read: Read, start: int, stop: int, kinds: frozenset[int]) -> Iterator[Piece]:
    """Yield every record from `start` to `stop`, and the gaps between them.

    A record is valid if its length leads to another record or to the end, which detects damaged lengths.
    """
    while start < stop:
        head = _head(read, start, stop)
        length = record_length(head, kinds)
        if length is not None and _leads_on(read, start + length, stop, kinds):
            yield Piece(head[0], start, start + length)
            start += length
            continue
        # A chunk states its length twice, so one that goes beyond the end is cut off, not damaged.
        cut = length is not None and head[0] == CHUNK and start + length > stop
        following = stop if cut else _find(read, start + 1, stop, kinds)
        yield Piece(0, start, following)
        start = following


def _head(read: Read, start: int, stop: int) -> bytes:
    return read(start, min(PEEK, stop - start))


def _leads_on(read: Read, start: int, stop: int, kinds: frozenset[int]) -> bool:
    """Return whether a record, possibly cut off, or the end is at `start`."""
    if start >= stop:
        return start == stop
    head = _head(read, start, stop)
    return head[0] in kinds if len(head) < PEEK else record_length(head, kinds) is not None


def _find(read: Read, start: int, stop: int, kinds: frozenset[int]) -> int:
    """Return the offset of the next valid record; `stop` if there is none."""
    for window in range(start, stop, _WINDOW):
        for match in _BEGINS.finditer(read(window, min(_WINDOW + PREFIX, stop - window))):
            at = window + match.start()
            length = record_length(_head(read, at, stop), kinds)
            if length is not None and at + length <= stop and _leads_on(read, at + length, stop, kinds):
                return at
    return stop
