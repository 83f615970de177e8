"""The mailbox between receiving and inference: one slot a stream, the newest wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

LIVE_NS = 1_000_000_000  # a stream that was silent for longer is not waited for


class Mailbox(Generic[Item]):
    """Newest item of each of several streams that are processed as one batch.

    Not locked: its owner holds a lock around every call.

    Args:
        streams: names of the streams.
        batch_wait_ns: how long the first stream of a batch waits for the other live ones.
    """

    def __init__(self, streams: Sequence[str], batch_wait_ns: int = 0) -> None:
        self.batch_wait_ns = batch_wait_ns
        self._slots: dict[str, tuple[Item, int]] = {}
        self._last_arrival_ns: dict[str, int | None] = dict.fromkeys(streams)

    def put(self, stream: str, item: Item, now_ns: int) -> Item | None:
        """Store `item` as the newest of `stream`; returns the one it supersedes, if any."""
        superseded = self._slots.get(stream)
        # A clock that was set back must not leave other streams' items in its future.
        self._slots = {name: (held, min(arrival, now_ns)) for name, (held, arrival) in self._slots.items()}
        self._slots[stream] = (item, now_ns)
        self._last_arrival_ns[stream] = now_ns
        return superseded[0] if superseded else None

    def ready_ns(self) -> int | None:
        """When the batch became (or will become) complete, ns; None while there is nothing.

        Complete is: every live stream has an item, or the first item has waited `batch_wait_ns`.
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
        """Empty the mailbox: `{stream: (item, arrival_ns)}`."""
        batch, self._slots = self._slots, {}
        return batch
