"""Exact counts and times of scheduler, mailbox, meters and worker; `test_realtime` has their properties."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from perception_rt.realtime.clock import VirtualClock
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import StreamStats
from perception_rt.realtime.scheduler import BATCH, MARGIN_NS, WINDOW, FairScheduler, FixedRateScheduler
from perception_rt.realtime.statistics import ClockOffset, RateMeter, stamp_fault
from perception_rt.realtime.worker import Worker

MS = 1_000_000


def run_at(scheduler: FixedRateScheduler, now_ns: int, ready_ns: int | None = None) -> bool:
    return scheduler.poll(now_ns, now_ns if ready_ns is None else ready_ns)


def test_a_run_that_ends_at_the_next_tick_missed_nothing_and_one_after_it_missed_that_one():
    scheduler = FixedRateScheduler(10)
    assert run_at(scheduler, 0)
    scheduler.finished(100 * MS)
    assert (scheduler.deadline_misses, scheduler.skipped) == (0, 0)
    scheduler.finished(100 * MS + 1)
    assert (scheduler.deadline_misses, scheduler.skipped) == (1, 0)


def test_every_tick_under_a_long_run_is_skipped_once():
    scheduler = FixedRateScheduler(10)
    assert run_at(scheduler, 0)
    scheduler.finished(350 * MS)  # due at 100, and 200 and 300 passed
    assert (scheduler.deadline_misses, scheduler.skipped) == (1, 2)
    assert run_at(scheduler, 350 * MS)  # at once
    scheduler.finished(380 * MS)
    assert (scheduler.deadline_misses, scheduler.skipped) == (1, 2)


def test_waits_from_before_a_skipped_tick_do_not_move_the_phase():
    """A frame waits 40 ms at each tick; after a skipped tick the scheduler needs a whole window again."""

    def tick_after(waits: int, skip: bool) -> int:
        scheduler = FixedRateScheduler(10)
        assert run_at(scheduler, 0)
        for _ in range(waits):
            opens = scheduler.wake_ns(0)
            assert run_at(scheduler, opens, opens - 40 * MS)
        if skip:
            scheduler.finished(scheduler._due_ns + 1)
        before = scheduler.wake_ns(0)
        assert run_at(scheduler, before, before - 40 * MS)
        return scheduler.wake_ns(0) - before

    assert tick_after(WINDOW - 1, skip=False) == 95 * MS  # earlier by a twentieth of the period
    assert tick_after(WINDOW - 1, skip=True) == 100 * MS


def test_the_phase_moves_until_the_shortest_wait_is_the_margin():
    for wait, moved in ((MARGIN_NS, 0), (MARGIN_NS + 1000, 1000), (90 * MS, 5 * MS)):
        scheduler = FixedRateScheduler(10)
        assert run_at(scheduler, 0)
        for _ in range(WINDOW):
            opens = scheduler.wake_ns(0)
            assert run_at(scheduler, opens, opens - wait)
        assert scheduler.wake_ns(0) - opens == 100 * MS - moved


@pytest.mark.parametrize(("back_ms", "at_once"), [(99, False), (101, True), (150, True)])
def test_a_clock_set_back_by_more_than_two_periods_runs_at_once(back_ms, at_once):
    """Due at 1100 ms: two periods before it is 900."""
    scheduler = FixedRateScheduler(10)
    assert run_at(scheduler, 1_000 * MS)
    assert run_at(scheduler, (1_000 - back_ms) * MS) is at_once


def test_empty_ticks_are_counted_one_by_one():
    scheduler = FixedRateScheduler(10)
    assert run_at(scheduler, 0)
    assert not scheduler.poll(399 * MS, None)
    assert scheduler.empty == 2  # those of 100 and 200
    assert run_at(scheduler, 400 * MS)
    assert scheduler.empty == 3


def test_a_batch_of_three_waits_from_its_first_item():
    mailbox: Mailbox[int] = Mailbox(["a", "b", "c"], batch_wait_ns=10 * MS)
    for stream in "abc":
        mailbox.put(stream, 1, 0)
    mailbox.take()
    mailbox.put("a", 2, 100 * MS)
    mailbox.put("b", 2, 106 * MS)
    assert mailbox.ready().get(BATCH) == 110 * MS
    mailbox.put("c", 2, 107 * MS)
    assert mailbox.ready().get(BATCH) == 107 * MS


def test_without_a_wait_a_batch_is_ready_at_once():
    mailbox: Mailbox[int] = Mailbox(["a", "b"])
    mailbox.put("a", 1, 0)
    mailbox.put("b", 1, 0)
    mailbox.take()
    mailbox.put("a", 2, 5)
    assert mailbox.ready().get(BATCH) == 5


@pytest.mark.parametrize(("silent_ms", "waited_for"), [(1_000, True), (1_001, False)])
def test_a_stream_that_was_silent_for_more_than_a_second_is_not_waited_for(silent_ms, waited_for):
    mailbox: Mailbox[int] = Mailbox(["a", "b"], batch_wait_ns=10 * MS)
    mailbox.put("b", 1, 0)
    mailbox.take()
    mailbox.put("a", 1, silent_ms * MS)
    assert mailbox.ready().get(BATCH) == (silent_ms + 10 * waited_for) * MS


def test_a_rate_starts_over_when_the_clock_is_set_back_and_not_at_equal_times():
    meter = RateMeter()
    for now in (1_000, 1_100, 1_100, 1_200):
        meter.add(now * MS)
    assert meter.rate_hz(1_200 * MS) == pytest.approx(15)
    meter.add(0)
    assert meter.rate_hz(0) == 0.0
    meter.add(50 * MS)
    assert meter.rate_hz(50 * MS) == pytest.approx(20)


def test_the_silence_of_two_intervals_is_jitter_and_more_counts():
    meter = RateMeter()
    for k in range(3):
        meter.add(k * 100 * MS)
    assert meter.rate_hz(400 * MS) == pytest.approx(10)
    assert meter.rate_hz(401 * MS) == pytest.approx(2 / 0.401)


def test_stats_measure_stage_age_and_rate():
    stats = StreamStats()
    for k in range(3):
        entry = stats.receive(k * 100 * MS)
        assert stats.in_order(entry, k * 100 * MS)
        stats.measure(entry, "infer", 7 * MS)
        stats.answered(entry, k * 100 * MS + 20 * MS)
        assert entry.stages_ms == {"infer": 7.0}
    assert stats.last_arrival_ns == 200 * MS
    assert stats.stages["infer"].percentiles() == {"p50": 7.0, "p99": 7.0}
    assert stats.age.percentiles() == {"p50": 20.0, "p99": 20.0}
    assert stats.rate.rate_hz(220 * MS) == pytest.approx(10)


class Steps:
    """A `process` that waits to be let go, so that a test sees the worker busy."""

    def __init__(self) -> None:
        self.began, self.go_on, self.batches = threading.Event(), threading.Event(), []
        self.errors: list[Exception] = []
        self.raises = False

    def __call__(self, batch) -> None:
        self.batches.append(batch)
        self.began.set()
        assert self.go_on.wait(5)
        if self.raises:
            raise ValueError("broken")


def test_a_worker_is_idle_before_and_after_a_batch_and_not_within():
    steps, clock = Steps(), VirtualClock()
    scheduler = FairScheduler(30)
    worker: Worker[int] = Worker(steps, scheduler, Mailbox(["a"]), clock)
    assert worker.drain(0)
    assert worker.put("a", 1) is None
    assert steps.began.wait(5)
    assert not worker.drain(0)
    assert worker.put("a", 2) is None
    assert worker.put("a", 3) == 2
    assert worker.clear() == {"a": (3, 0)}
    clock.advance_to(100 * MS)
    steps.go_on.set()
    assert worker.drain(5)
    assert scheduler.deadline_misses == 1  # it was told of the end
    assert worker.stop(5)
    assert steps.batches == [{"a": (1, 0)}]


def test_a_worker_whose_process_raises_says_so_and_goes_on():
    steps, clock = Steps(), VirtualClock()
    steps.raises = True
    steps.go_on.set()
    worker: Worker[int] = Worker(
        steps, FairScheduler(30), Mailbox(["a"]), clock, on_error=steps.errors.append
    )
    for number in (1, 2):
        steps.began.clear()
        worker.put("a", number)
        assert steps.began.wait(5)
        assert worker.drain(5)
        clock.advance_to(number * 100 * MS)
    assert [str(error) for error in steps.errors] == ["broken", "broken"]
    assert worker.stop(5)


def test_a_stopped_worker_cancels_the_jobs_that_wait():
    steps = Steps()
    worker: Worker[int] = Worker(steps, FairScheduler(30), Mailbox(["a"]), VirtualClock())
    worker.put("a", 1)
    assert steps.began.wait(5)
    waiting = worker.call(lambda: 1)
    assert not worker.stop(0)  # still busy
    assert waiting.cancelled()
    steps.go_on.set()
    assert worker.stop(5)


COMPUTES = """
import torch
from perception_rt.realtime.clock import VirtualClock
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.realtime.worker import Worker
from threading import Event

began, square = Event(), torch.ones(200, 200)
def process(batch):
    began.set()
    for _ in range(2000):
        square @ square
Worker(process, FairScheduler(30), Mailbox(["a"]), VirtualClock()).put("a", 1)
began.wait()
"""


def test_a_program_that_ends_while_the_model_computes_does_not_abort():
    ended = subprocess.run([sys.executable, "-c", COMPUTES], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("behind_ms", "told_ms"),
    [(30_000, 30_000), (-5_000, -5_000), (1_000, None), (-1_000, None), (1_001, 1_001)],
)
def test_a_clock_offset_is_told_beyond_a_second(behind_ms, told_ms):
    offset = ClockOffset()
    assert offset.behind_ns() is None
    for k in range(10):
        offset.add(k * 100 * MS, (k * 100 - behind_ms) * MS)
    assert offset.behind_ns() == (None if told_ms is None else told_ms * MS)
    offset.reset()
    assert offset.behind_ns() is None


def test_one_wrong_stamp_is_no_other_clock():
    offset = ClockOffset()
    for k in range(3):
        offset.add(k, k)
    offset.add(10, 10 - 99_000 * MS)
    assert offset.behind_ns() is None


def test_waiting_for_other_work_misses_the_periods_that_passed_whole_and_keeps_the_phase():
    scheduler = FixedRateScheduler(10.0)
    assert scheduler.poll(0, 0)
    scheduler.waited(199 * MS)
    assert (scheduler.deadline_misses, scheduler.skipped) == (0, 0)
    scheduler.waited(310 * MS)
    assert (scheduler.deadline_misses, scheduler.skipped) == (1, 2)
    assert scheduler.wake_ns(310 * MS) == 310 * MS
    assert not scheduler.poll(310 * MS, None)


def test_lanes_have_the_period_of_the_rate_also_after_it_changed():
    lanes = FairScheduler(10.0)
    assert lanes.period_ns == 100 * MS
    lanes.rate_hz = 20.0
    assert lanes.period_ns == 50 * MS


@pytest.mark.parametrize(
    ("stamps", "fault"),
    [
        ((4, 3, 2, 1), "run backwards"),
        ((1, 4, 3, 2), "run backwards"),
        ((1, 3, 2, 4, 3), ""),  # as many forwards
        ((1, 2, 2, 2), ""),
        ((4, 3, 2), ""),  # too few to say
        ((7, 7, 7, 7), "are the same"),
        ((0, 0, 0, 0), "are 0"),
    ],
)
def test_what_is_wrong_with_stamps_in_a_row(stamps, fault):
    found = stamp_fault(stamps)
    assert fault in found
    assert bool(found) == bool(fault)
