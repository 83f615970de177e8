"""Several streams grouped by stamp around the messages of one: what `StampPairing` does, for any number.

Holds no clock and no thread: the caller passes the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pairing import Pair, PendingMessage, StampPairing
from perception_rt.realtime.pipeline import StreamStats


class Group(NamedTuple):
    """An anchor whose wait is over, its partner in each other stream, and why one has none."""

    anchor: PendingMessage
    partners: tuple[PendingMessage | None, ...]
    reasons: tuple[str, ...]


class StampGrouping:
    """Finds for each anchor the nearest message of every other stream, each by the rules of `StampPairing`.

    An anchor is decided once it is in each of the pairings. The caller ends the messages of a returned
    `Group` in the ledger; all others end here.

    Args:
        anchors: stats of the anchors' stream.
        partners: stats of the other streams, one or more.
        window_ns: as of `StampPairing`.
        max_wait_ns: as of `StampPairing`.
    """

    def __init__(
        self, anchors: StreamStats, partners: Sequence[StreamStats], window_ns: int, max_wait_ns: int
    ) -> None:
        self._anchors = anchors
        self._partners = list(partners)
        # Each pairing ends the anchors that it is given: the first the real ones, the others their doubles.
        self._doubles = [anchors, *(StreamStats() for _ in self._partners[1:])]
        self._pairings = [
            StampPairing(double, stats, window_ns, max_wait_ns)
            for double, stats in zip(self._doubles, self._partners, strict=True)
        ]
        self._decided: list[deque[Pair]] = [deque() for _ in self._partners]

    def set_limits(self, window_ns: int, max_wait_ns: int) -> None:
        """Change window and wait."""
        for pairing in self._pairings:
            pairing.window_ns, pairing.max_wait_ns = window_ns, max_wait_ns

    def put_anchor(self, entry: Entry, stamp_ns: int, item: Any, now_ns: int) -> list[Group]:
        """Take an anchor that was received; returns what is decided now, in order of stamp."""
        for index, pairing in enumerate(self._pairings):
            own = entry if index == 0 else self._doubles[index].receive(now_ns)
            self._decided[index] += pairing.put_anchor(own, stamp_ns, item, now_ns)
        return self._whole()

    def put_partner(self, index: int, entry: Entry, stamp_ns: int, item: Any, now_ns: int) -> list[Group]:
        """Take a message of one of the other streams; returns what is decided now, in order of stamp."""
        self._decided[index] += self._pairings[index].put_partner(entry, stamp_ns, item, now_ns)
        return self._whole()

    def poll(self, now_ns: int) -> list[Group]:
        """Return what is decided by now, in order of stamp."""
        for decided, pairing in zip(self._decided, self._pairings, strict=True):
            decided += pairing.poll(now_ns)
        return self._whole()

    def clear(self, reason: str) -> None:
        """End every waiting message as superseded, and take any next stamps."""
        for decided, stats in zip(self._decided, self._partners, strict=True):
            for pair in decided:
                if pair.partner is not None:
                    stats.ledger.finish(pair.partner.entry, Outcome.SUPERSEDED, reason)
        for pair in self._decided[0]:
            self._anchors.ledger.finish(pair.anchor.entry, Outcome.SUPERSEDED, reason)
        for decided, double, pairing in zip(self._decided, self._doubles, self._pairings, strict=True):
            decided.clear()
            pairing.clear(reason)
            if double is not self._anchors:
                double.reset_clock()

    def _whole(self) -> list[Group]:
        """Pop the anchors that every pairing has decided; all decide them in one order."""
        groups = []
        while all(self._decided):
            pairs = [decided.popleft() for decided in self._decided]
            groups.append(
                Group(
                    pairs[0].anchor,
                    tuple(pair.partner for pair in pairs),
                    tuple(pair.reason for pair in pairs),
                )
            )
        return groups
