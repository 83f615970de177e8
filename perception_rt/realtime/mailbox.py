"""The mailbox between receiving and inference: one slot for each stream, the newest item wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from perception_rt.realtime.scheduler import BATCH

Item = TypeVar("Item")

LIVE_NS = 1_000_000_000  # a stream that was silent for longer is not waited for


class Mailbox(Generic[Item]):
    """The newest item of each of several streams, which are processed as one batch or one at a time.

    Not thread-safe: the caller holds a lock around every call.

    Args:
        streams: names of the streams.
        batch_wait_ns: how long the first item of a batch waits for those of the other live streams, ns;
            None: every stream by itself. May be set between two batches.
    """

    def __init__(self, streams: Sequence[str], batch_wait_ns: int | None = 0) -> None:
        self.batch_wait_ns = batch_wait_ns
        self._slots: dict[str, tuple[Item, int]] = {}
        self._last_arrival_ns: dict[str, int | None] = dict.fromkeys(streams)

    def put(self, stream: str, item: Item, now_ns: int) -> Item | None:
        """Store `item` as the newest of `stream`; returns the one that it supersedes, if any."""
        superseded = self._slots.get(stream)
        # After a jump back of the clock no item may have arrived in its future.
        self._slots = {name: (old, min(arrival, now_ns)) for name, (old, arrival) in self._slots.items()}
        self._slots[stream] = (item, now_ns)
        self._last_arrival_ns[stream] = now_ns
        return superseded[0] if superseded else None

    def ready(self) -> dict[str, int]:
        """Return when what waits became (or will become) ready, ns: by stream, or of the whole under `BATCH`.

        A batch is ready once every live stream has an item or the first item has waited `batch_wait_ns`.
        """
        arrivals = {stream: arrival for stream, (_, arrival) in self._slots.items()}
        if self.batch_wait_ns is None or not arrivals:
            return arrivals
        first, last = min(arrivals.values()), max(arrivals.values())
        missing = any(
            arrival is not None and stream not in arrivals and last - arrival <= LIVE_NS
            for stream, arrival in self._last_arrival_ns.items()
        )
        return {BATCH: max(last, first + self.batch_wait_ns) if missing else last}

    def take(self, lane: str = BATCH) -> dict[str, tuple[Item, int]]:
        """Remove and return all items, or those of one stream: `{stream: (item, arrival_ns)}`."""
        if lane != BATCH:
            return {lane: self._slots.pop(lane)}
        batch, self._slots = self._slots, {}
        return batch
