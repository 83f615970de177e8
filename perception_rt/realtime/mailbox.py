"""The mailbox between receiving and inference: one slot for each stream, the newest item wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

LIVE_NS = 1_000_000_000  # a stream that was silent for longer is not waited for


class Mailbox(Generic[Item]):
    """The newest item of each of several streams that are processed as one batch.

    Not thread-safe: the caller holds a lock around every call.

    Args:
        streams: names of the streams.
        batch_wait_ns: how long the first item of a batch waits for those of the other live streams, ns.
    """

    def __init__(self, streams: Sequence[str], batch_wait_ns: int = 0) -> None:
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

    def ready_ns(self) -> int | None:
        """Return when the batch became (or will become) complete, ns; None while there are no items.

        It is complete once every live stream has an item or the first item has waited `batch_wait_ns`.
        """
        if not self._slots:
            return None
        first = min(arrival for _, arrival in self._slots.values())
        last = max(arrival for _, arrival in self._slots.values())
        missing = any(
            arrival is not None and stream not in self._slots and last - arrival <= LIVE_NS
            for stream, arrival in self._last_arrival_ns.items()
        )
        return max(last, first + self.batch_wait_ns) if missing else last

    def take(self) -> dict[str, tuple[Item, int]]:
        """Remove and return all items: `{stream: (item, arrival_ns)}`."""
        batch, self._slots = self._slots, {}
        return batch
