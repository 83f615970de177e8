"""Read a recording ahead on a separate thread, so that decompression overlaps with inference."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence

from perception_rt.replay.bag import Bag, BagMessage, Damage

AHEAD_BYTES = 32_000_000
AHEAD_MESSAGES = 1000


def read(bag: Bag, topics: Sequence[str]) -> Iterator[BagMessage | Damage]:
    """Yield the messages of some topics in order, and each damage at the place where it was found."""
    reported = 0
    for message in bag.messages(topics):
        yield from bag.damage[reported:]
        reported = len(bag.damage)
        yield message
    yield from bag.damage[reported:]


class ReadAhead:
    """A context manager that gives the items of `read`, prefetched on a thread."""

    def __init__(self, bag: Bag, topics: Sequence[str]) -> None:
        self._source = read(bag, topics)
        self._items: deque[BagMessage | Damage] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="read", daemon=True)

    def __enter__(self) -> Iterator[BagMessage | Damage]:
        self._thread.start()
        return self._drain()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _fill(self) -> None:
        try:
            for item in self._source:
                with self._changed:
                    while self._full() and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                    self._items.append(item)
                    self._bytes += _size(item)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _full(self) -> bool:
        return self._bytes > AHEAD_BYTES or len(self._items) > AHEAD_MESSAGES

    def _drain(self) -> Iterator[BagMessage | Damage]:
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    self._changed.wait()
                if not self._items:
                    break
                item = self._items.popleft()
                self._bytes -= _size(item)
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error


def _size(item: BagMessage | Damage) -> int:
    return len(item.data) if isinstance(item, BagMessage) else 0
