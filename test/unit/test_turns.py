"""Several streams on one worker, in virtual time: one at a time in fair order, or as a batch."""

from __future__ import annotations

import heapq
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.scheduler import FairScheduler

MS = 1_000_000


def simulate(
    rate_hz: float,
    periods_ms: list[float],
    starts_ms: list[float],
    work_ms: float,
    wait_ms: float | None = None,
) -> tuple[dict[int, list[tuple[int, int]]], FairScheduler]:
    """Return arrival and end of every run in 6 s by stream, ns; a batch takes `work_ms` for each item."""
    names = [str(k) for k in range(len(periods_ms))]
    mailbox: Mailbox[int] = Mailbox(names, None if wait_ms is None else round(wait_ms * MS))
    scheduler, runs = FairScheduler(rate_hz), defaultdict(list)
    arrivals = [
        (round((start + n * period) * MS), k)
        for k, (period, start) in enumerate(zip(periods_ms, starts_ms, strict=True))
        for n in range(int(6000 / period))
    ]
    heapq.heapify(arrivals)
    now = 0
    while arrivals:
        while arrivals and arrivals[0][0] <= now:
            at, k = heapq.heappop(arrivals)
            mailbox.put(names[k], at, at)
        ready = mailbox.ready()
        lane = scheduler.poll(now, ready)
        if lane is not None:
            batch = mailbox.take(lane)
            now += round(work_ms * MS) * len(batch)
            scheduler.finished(now)
            for name, (arrival, _) in batch.items():
                runs[int(name)].append((arrival, now))
            continue
        wakes = [scheduler.wake_ns(ready), arrivals[0][0] if arrivals else None]
        now = max(now, min((wake for wake in wakes if wake is not None), default=now))
    return runs, scheduler


def ages_ms(runs: list[tuple[int, int]]) -> list[float]:
    return [(end - arrival) / MS for arrival, end in runs]


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_cameras_that_take_turns_are_answered_after_one_forward(count):
    starts = [100 * k / count for k in range(count)]
    runs, scheduler = simulate(30, [100] * count, starts, 8)
    for k in range(count):
        assert len(runs[k]) == 60
        assert ages_ms(runs[k]) == pytest.approx([8] * 60)
    assert scheduler.skipped == scheduler.deadline_misses == 0
    batched, _ = simulate(30, [100] * count, starts, 8, wait_ms=10)
    if count > 1:  # where a batch does not pay, waiting for it costs its whole wait
        assert min(ages_ms(batched[0])[1:]) > 17


def test_of_synchronous_cameras_the_first_does_not_wait_for_the_last():
    runs, _ = simulate(30, [100] * 4, [0] * 4, 8)
    assert sorted(ages_ms(one)[-1] for one in runs.values()) == pytest.approx([8, 16, 24, 32])


def test_past_saturation_all_streams_get_an_equal_share_and_none_waits_for_longer_than_the_others_take():
    runs, scheduler = simulate(30, [1000 / 30] * 4, [0, 3, 11, 29], 20)
    counts = [len(one) for one in runs.values()]
    assert max(counts) - min(counts) <= 2  # one may have no new frame at its turn
    assert max(age for one in runs.values() for age in ages_ms(one)) <= 4 * 20 + 1000 / 30
    ran = sum(counts)
    assert scheduler.empty == 0  # frames there were: their ticks were skipped
    assert scheduler.skipped >= 0.6 * (4 * 180 - ran)
    assert scheduler.deadline_misses >= 0.9 * ran  # the watchdog takes this for an overload


def test_a_fast_stream_with_always_new_frames_is_not_starved_by_slow_ones_nor_starves_them():
    runs, _ = simulate(1000, [5, 40, 40], [0, 1, 2], 30)
    counts = [len(runs[k]) for k in range(3)]
    assert min(counts) >= 0.9 * max(counts)


def test_a_silent_stream_counts_as_empty_and_holds_up_nothing():
    runs, scheduler = simulate(10, [100, 3000], [0, 0], 20)
    assert len(runs[0]) == 60
    assert scheduler.skipped == 0
    assert scheduler.empty >= 25


def test_batches_and_single_turns_can_change_between_two_runs():
    mailbox: Mailbox[str] = Mailbox(["a", "b"], None)
    scheduler = FairScheduler(10)
    mailbox.put("a", "a1", 0)
    mailbox.put("b", "b1", 0)
    assert scheduler.poll(0, mailbox.ready()) == "a"
    assert mailbox.take("a") == {"a": ("a1", 0)}
    scheduler.finished(10 * MS)
    mailbox.batch_wait_ns = 0
    mailbox.put("a", "a2", 20 * MS)
    lane = scheduler.poll(20 * MS, mailbox.ready())
    assert mailbox.take(lane) == {"a": ("a2", 20 * MS), "b": ("b1", 0)}
    scheduler.finished(450 * MS)
    assert scheduler.skipped == 3  # of the batch; the lanes of single streams rest
    mailbox.batch_wait_ns = None
    mailbox.put("b", "b2", 500 * MS)
    assert scheduler.poll(500 * MS, mailbox.ready()) == "b"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(20, 400), st.floats(0, 400)), min_size=1, max_size=5),
    st.floats(1, 30),
    st.sampled_from([5.0, 30.0]),
)
def test_no_stream_runs_above_the_rate_or_twice_on_a_frame_or_starves(streams, work_ms, rate_hz):
    periods, starts = [period for period, _ in streams], [start for _, start in streams]
    runs, _ = simulate(rate_hz, periods, starts, work_ms)
    for k, period in enumerate(periods):
        arrivals = [arrival for arrival, _ in runs[k]]
        assert arrivals == sorted(set(arrivals))
        assert len(arrivals) <= 6 * rate_hz / 0.95 + 2
        longest = max(period, 1000 / rate_hz) + 1000 / rate_hz + len(streams) * work_ms
        assert len(arrivals) >= int((6000 - starts[k] - period) / longest) - 1
