"""Merge sorted sources of messages; each is opened only when needed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from perception_rt.replay.storage.values import BagMessage


class Source(NamedTuple):
    """Messages in order of log time, none before `start_ns`; call `read` to iterate over them."""

    start_ns: int
    read: Callable[[], Iterator[BagMessage]]


def merged(sources: Iterable[Source]) -> Iterator[BagMessage]:
    """Yield all messages in order of log time; at equal times, in the order of the sources."""
    waiting = sorted(enumerate(sources), key=lambda item: -item[1].start_ns)
    heap: list[tuple[int, int, BagMessage, Iterator[BagMessage]]] = []

    def advance(number: int, messages: Iterator[BagMessage]) -> None:
        message = next(messages, None)
        if message is not None:
            heapq.heappush(heap, (message.log_ns, number, message, messages))

    while waiting or heap:
        while waiting and (not heap or waiting[-1][1].start_ns <= heap[0][0]):
            number, source = waiting.pop()
            advance(number, source.read())
        if heap:
            _, number, message, messages = heapq.heappop(heap)
            yield message
            advance(number, messages)
