"""Two streams paired by stamp, not by arrival: the partner of each anchor is the nearest in time.

Holds no clock and no thread: the caller passes the time.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.ordering import RESET_NS
from perception_rt.realtime.pipeline import StreamStats

HOLD_NS = 1_000_000_000  # a partner waits for its anchor this long: the anchor's detector may be slow
HOLD_COUNT = 256


class PendingMessage(NamedTuple):
    """A message that waits: stamp and arrival in ns, the message, and its entry in the ledger."""

    stamp_ns: int
    arrival_ns: int
    item: Any
    entry: Entry


class Pair(NamedTuple):
    """An anchor whose wait is over; `reason` says why it has no partner."""

    anchor: PendingMessage
    partner: PendingMessage | None
    reason: str


class StampPairing:
    """Finds for each anchor the partner that is nearest in stamp within a window; none is used twice.

    An anchor is decided once an unused partner at or after its stamp has come, or it has waited long enough.
    Pairs do not cross: a partner before one that was taken is not taken later. The caller ends the messages
    of a returned `Pair` in the ledger. All others end here:

    * `late`: behind the newest stamp of its stream, or a partner whose anchor's wait had ended;
    * `superseded`: a message of the same stamp came before; a nearer partner was taken; the partner lies
      between two anchors that have other ones; the run ended or the clock was set back;
    * `unsynced`: a partner without an anchor in its window.

    When a stream restarts (see `StampOrder`), its waiting messages are dropped.

    Args:
        anchors: stats of the anchors' stream.
        partners: stats of the other one.
        window_ns: greatest difference of the stamps of a pair.
        max_wait_ns: how long an anchor waits after its arrival.
        hold_count: most partners that wait for their anchor.
    """

    def __init__(
        self,
        anchors: StreamStats,
        partners: StreamStats,
        window_ns: int,
        max_wait_ns: int,
        hold_count: int = HOLD_COUNT,
    ) -> None:
        self._hold_count = hold_count
        self.window_ns = window_ns
        self.max_wait_ns = max_wait_ns
        self._anchors, self._partners = anchors, partners
        self._waiting: deque[PendingMessage] = deque()  # anchors, in order of stamp
        self._unused: deque[PendingMessage] = deque()  # partners, in order of stamp
        self._newest_anchor_ns: int | None = None
        self._newest_partner_ns: int | None = None
        self._last: tuple[int, bool] | None = (
            None  # stamp of the last decided anchor; whether it has a partner
        )
        self._now_ns: int | None = None

    def put_anchor(self, entry: Entry, stamp_ns: int, item: Any, now_ns: int) -> list[Pair]:
        """Take an anchor that was received; returns what is decided now, in order of stamp."""
        ended: list[Pair] = []
        if self._accept(self._anchors, entry, stamp_ns, self._newest_anchor_ns):
            old_above_ns = self._anchors.order.old_above_ns
            if old_above_ns is not None:
                ended = [self._decide() for _ in range(len(self._waiting))]
                self._end_unused_above(old_above_ns)
                self._last = None
            self._newest_anchor_ns = stamp_ns
            self._waiting.append(PendingMessage(stamp_ns, now_ns, item, entry))
        return ended + self.poll(now_ns)

    def put_partner(self, entry: Entry, stamp_ns: int, item: Any, now_ns: int) -> list[Pair]:
        """Take a message of the other stream; returns what is decided now, in order of stamp."""
        ended: list[Pair] = []
        if self._accept(self._partners, entry, stamp_ns, self._newest_partner_ns):
            old_above_ns = self._partners.order.old_above_ns
            if old_above_ns is not None:
                while self._waiting and self._waiting[0].stamp_ns > old_above_ns:
                    ended.append(self._decide())
                self._end_unused_above(None)
            self._newest_partner_ns = stamp_ns
            self._unused.append(PendingMessage(stamp_ns, now_ns, item, entry))
        return ended + self.poll(now_ns)

    def poll(self, now_ns: int) -> list[Pair]:
        """Return what is decided by now, in order of stamp."""
        if self._now_ns is not None and now_ns < self._now_ns:  # the clock was set back: waits start over
            self._waiting = deque(held._replace(arrival_ns=now_ns) for held in self._waiting)
            self._unused = deque(held._replace(arrival_ns=now_ns) for held in self._unused)
        self._now_ns = now_ns
        decided = []
        while self._waiting and self._is_due(self._waiting[0], now_ns):
            decided.append(self._decide())
        hold_ns = max(HOLD_NS, self.max_wait_ns)
        while self._unused and (
            now_ns - self._unused[0].arrival_ns > hold_ns or len(self._unused) > self._hold_count
        ):
            self._end_unused(self._unused.popleft(), None)
        return decided

    def clear(self, reason: str) -> None:
        """End every waiting message as superseded, and take any next stamps."""
        waiting = [(self._anchors, one) for one in self._waiting] + [
            (self._partners, one) for one in self._unused
        ]
        self._waiting.clear()
        self._unused.clear()
        self._newest_anchor_ns = self._newest_partner_ns = self._last = None
        for stats, one in waiting:
            stats.ledger.finish(one.entry, Outcome.SUPERSEDED, reason)

    def _accept(self, stats: StreamStats, entry: Entry, stamp_ns: int, newest_ns: int | None) -> bool:
        """Return whether the stamp is new and in order; if not, the message has ended."""
        if not stats.in_order(entry, stamp_ns):
            return False
        if stamp_ns == newest_ns:
            reason = f"a message of stamp {stamp_ns / 1e9:.6f} s came before"
            stats.ledger.finish(entry, Outcome.SUPERSEDED, reason)
            return False
        return True

    def _is_due(self, anchor: PendingMessage, now_ns: int) -> bool:
        """Return whether no nearer partner can come, or the wait is over."""
        ahead_ns = self._unused[-1].stamp_ns - anchor.stamp_ns if self._unused else -1
        # One that is far ahead is from before (or after) a jump of the clock.
        return 0 <= ahead_ns <= RESET_NS or now_ns - anchor.arrival_ns >= self.max_wait_ns

    def _decide(self) -> Pair:
        """Pop the first waiting anchor and its partner; end the partners that both leave behind."""
        anchor = self._waiting.popleft()
        nearest = min(self._unused, key=lambda held: abs(held.stamp_ns - anchor.stamp_ns), default=None)
        away_ns = None if nearest is None else abs(nearest.stamp_ns - anchor.stamp_ns)
        partner = nearest if away_ns is not None and away_ns <= self.window_ns else None
        decided = (anchor.stamp_ns, partner is not None)
        while self._unused and self._unused[0].stamp_ns < (partner or anchor).stamp_ns:
            self._end_unused(self._unused.popleft(), decided)
        if partner is not None:
            self._unused.popleft()
        self._last = decided
        return Pair(anchor, partner, "" if partner else self._why_alone(away_ns))

    def _why_alone(self, away_ns: int | None) -> str:
        if away_ns is None:
            return f"no partner came within {self.max_wait_ns / 1e6:g} ms"
        return f"no partner within {self.window_ns / 1e6:g} ms: the nearest is {away_ns / 1e6:.1f} ms away"

    def _end_unused(self, held: PendingMessage, following: tuple[int, bool] | None) -> None:
        """End a partner between the last decided anchor and the following one, where there is one."""
        neighbours = [anchor for anchor in (self._last, following) if anchor is not None]
        near = [paired for stamp, paired in neighbours if abs(stamp - held.stamp_ns) <= self.window_ns]
        if any(near):
            outcome, reason = Outcome.SUPERSEDED, "a nearer one was taken"
        elif near:
            outcome, reason = Outcome.LATE, "its anchor's wait had ended"
        elif len(neighbours) == 2 and all(paired for _, paired in neighbours):
            outcome, reason = Outcome.SUPERSEDED, "the anchors before and after it have nearer ones"
        else:
            outcome, reason = Outcome.UNSYNCED, f"no anchor within {self.window_ns / 1e6:g} ms"
        self._partners.ledger.finish(held.entry, outcome, reason)

    def _end_unused_above(self, limit_ns: int | None) -> None:
        """End the partners stamped after a limit (None: all): the clock was set back."""
        while self._unused and (limit_ns is None or self._unused[-1].stamp_ns > limit_ns):
            held = self._unused.pop()
            self._partners.ledger.finish(held.entry, Outcome.SUPERSEDED, "the clock was set back")
