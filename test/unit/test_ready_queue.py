"""Messages that wait in order for something that comes later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perception_rt.realtime.ready_queue import MAX_WAITING, ReadyQueue

MS = 1_000_000


def test_what_is_ready_does_not_wait_and_what_follows_keeps_its_place():
    ready = {1, 3}
    queue: ReadyQueue[int] = ReadyQueue(ready.__contains__, 100 * MS)
    assert queue.put(1, 0) == [1]
    assert queue.put(2, 10 * MS) == []
    assert queue.put(3, 20 * MS) == []  # ready, but 2 came first
    assert queue.poll(109 * MS) == []
    assert queue.poll(110 * MS) == [2, 3]
    assert queue.poll(111 * MS) == []


def test_it_goes_on_as_soon_as_it_is_ready():
    ready: set[int] = set()
    queue: ReadyQueue[int] = ReadyQueue(ready.__contains__, 100 * MS)
    assert queue.put(1, 0) == queue.put(2, 0) == []
    ready.add(1)
    assert queue.poll(1) == [1]
    assert queue.clear() == [2]
    assert queue.clear() == []


def test_without_a_wait_nothing_is_held():
    queue: ReadyQueue[int] = ReadyQueue(lambda _: False, 0)
    assert queue.put(1, 5) == [1]


def test_a_clock_that_is_set_back_starts_the_waits_over():
    queue: ReadyQueue[int] = ReadyQueue(lambda _: False, 100 * MS)
    queue.put(1, 900 * MS)
    assert queue.poll(5 * MS) == []
    assert queue.poll(104 * MS) == []
    assert queue.poll(105 * MS) == [1]


def test_the_queue_is_bounded():
    queue: ReadyQueue[int] = ReadyQueue(lambda _: False, 10**12)
    out = [one for k in range(MAX_WAITING + 5) for one in queue.put(k, 0)]
    assert out == [0, 1, 2, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=60))
def test_any_items_leave_in_the_order_they_came(steps):
    now, out, put = 0, [], []
    ready = {k for k, (_, is_ready) in enumerate(steps) if is_ready}
    queue: ReadyQueue[int] = ReadyQueue(ready.__contains__, 100)
    for k, (gap, _) in enumerate(steps):
        now += gap
        put.append(k)
        out += queue.put(k, now)
    out += queue.poll(now + 100)
    assert out == put
