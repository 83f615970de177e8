"""Messages that wait, in order, for something that comes a little later than they do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

MAX_WAITING = 256


class ReadyQueue(Generic[Item]):
    """Hands out items in the order they came, each once it is ready or has waited long enough.

    Holds no clock and no thread: call `poll` often enough.

    Args:
        is_ready: whether an item needs to wait no longer.
        max_wait_ns: how long an item waits at most.
    """

    def __init__(self, is_ready: Callable[[Item], bool], max_wait_ns: int) -> None:
        self.max_wait_ns = max_wait_ns
        self._is_ready = is_ready
        self._waiting: deque[tuple[Item, int]] = deque()
        self._now_ns: int | None = None

    def put(self, item: Item, now_ns: int) -> list[Item]:
        """Append an item; returns what is due now."""
        self._waiting.append((item, now_ns))
        return self.poll(now_ns)

    def poll(self, now_ns: int) -> list[Item]:
        """Return what is due now, in order."""
        if self._now_ns is not None and now_ns < self._now_ns:  # the clock was set back: waits start over
            self._waiting = deque((item, now_ns) for item, _ in self._waiting)
        self._now_ns = now_ns
        due = []
        while self._waiting:
            item, since_ns = self._waiting[0]
            expired = now_ns - since_ns >= self.max_wait_ns or len(self._waiting) > MAX_WAITING
            if not expired and not self._is_ready(item):
                break
            due.append(item)
            self._waiting.popleft()
        return due

    def clear(self) -> list[Item]:
        """Empty the queue; returns what waited."""
        waiting = [item for item, _ in self._waiting]
        self._waiting.clear()
        return waiting
