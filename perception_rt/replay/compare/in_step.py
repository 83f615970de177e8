"""Two streams read in step: what belongs together, in memory that their length does not change."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

WINDOW_NS = 10_000_000_000
"""How far apart in time two runs may have published the same thing."""
_FOR_EVER = 1 << 63


class Item(NamedTuple):
    """Something to be matched: its time, ns; what it is matched by; itself."""

    time_ns: int
    key: Hashable
    value: Any


def matched(
    new: Iterator[Item], golden: Iterator[Item], window_ns: int = WINDOW_NS
) -> Iterator[tuple[Any, Any]]:
    """Pair what has the same key and lies no more than `window_ns` apart; None where there is no partner.

    Args:
        new, golden: in order of time, more or less; a key comes once.
    """
    sides = (new, golden)
    heads = [next(side, None) for side in sides]
    waiting: tuple[dict, dict] = ({}, {})
    while any(heads):
        here = min((i for i in (0, 1) if heads[i]), key=lambda i: heads[i].time_ns)
        item, heads[here] = heads[here], next(sides[here], None)
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
    """The how-manyth of its kind something is; forgets kinds that were not seen for the window."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[int, int]] = {}  # by kind: the latest number, and its time

    def number(self, kind: Hashable, time_ns: int) -> int:
        """The number of one that comes now, from 0."""
        number = self._seen.pop(kind, (-1, 0))[0] + 1
        self._seen[kind] = (number, time_ns)
        oldest, (_, seen_ns) = next(iter(self._seen.items()))
        if seen_ns < time_ns - WINDOW_NS:
            del self._seen[oldest]
        return number
