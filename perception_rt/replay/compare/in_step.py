"""Read two streams in step and match their items, in constant memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

WINDOW_NS = 10_000_000_000
"""The maximum difference in time of two matching items, ns."""
_FOR_EVER = 1 << 63


class Item(NamedTuple):
    """An item to match: its time, ns, its key and its value."""

    time_ns: int
    key: Hashable
    value: Any


def matched(
    new: Iterator[Item], golden: Iterator[Item], window_ns: int = WINDOW_NS
) -> Iterator[tuple[Any, Any]]:
    """Pair items with the same key at most `window_ns` apart; None stands for a missing partner.

    Args:
        new, golden: roughly in order of time; every key occurs once.
    """
    sides = (new, golden)
    heads = [next(side, None) for side in sides]
    waiting: tuple[dict[Hashable, Item], dict[Hashable, Item]] = ({}, {})
    while there := [(side, head) for side, head in enumerate(heads) if head is not None]:
        here, item = min(there, key=lambda one: one[1].time_ns)
        heads[here] = next(sides[here], None)
        for side in (0, 1):
            yield from _expired(waiting[side], item.time_ns - window_ns, side)
        partner = waiting[1 - here].pop(item.key, None)
        if partner is None:
            waiting[here][item.key] = item
        else:
            yield (item.value, partner.value) if here == 0 else (partner.value, item.value)
    for side in (0, 1):
        yield from _expired(waiting[side], _FOR_EVER, side)


def _expired(waiting: dict[Hashable, Item], before_ns: int, side: int) -> Iterator[tuple[Any, Any]]:
    while waiting:
        key, item = next(iter(waiting.items()))
        if item.time_ns >= before_ns:
            return
        del waiting[key]
        yield (item.value, None) if side == 0 else (None, item.value)


class Numbering:
    """Number the items of each kind in order; forget kinds not seen for the window."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[int, int]] = {}  # latest number and its time, by kind

    def number(self, kind: Hashable, time_ns: int) -> int:
        """Return the number, from 0, of the next item of a kind."""
        number = self._seen.pop(kind, (-1, 0))[0] + 1
        self._seen[kind] = (number, time_ns)
        oldest, (_, seen_ns) = next(iter(self._seen.items()))
        if seen_ns < time_ns - WINDOW_NS:
            del self._seen[oldest]
        return number
