"""Scheduler, mailbox, ledger, statistics and pipeline under virtual time."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.realtime.clock import VirtualClock
from perception_rt.realtime.ledger import FrameLedger, Outcome
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.ordering import StampOrder
from perception_rt.realtime.pipeline import FramePipeline
from perception_rt.realtime.scheduler import BATCH, FairScheduler, FixedRateScheduler
from perception_rt.realtime.statistics import LatencyWindow, RateMeter
from perception_rt.realtime.worker import Worker
from perception_rt.types import CodecError, ModelError

MS = 1_000_000


@dataclass
class Run:
    """One inference in a simulated run, all times ns."""

    start_ns: int
    arrival_ns: int


def simulate(rate_hz: float, arrivals_ns: list[int], work_ns: int, end_ns: int) -> tuple[list[Run], object]:
    """What the worker's loop does, under virtual time: newest wins, `work_ns` for each inference."""
    scheduler = FixedRateScheduler(rate_hz)
    runs: list[Run] = []
    now, waiting, pending = 0, None, list(arrivals_ns)
    while now <= end_ns:
        while pending and pending[0] <= now:
            waiting = pending.pop(0)
        if scheduler.poll(now, waiting):
            runs.append(Run(now, waiting))
            waiting = None
            now += work_ns
            scheduler.finished(now)
            continue
        events = [t for t in (scheduler.wake_ns(waiting), pending[0] if pending else None) if t is not None]
        if not events:
            break
        now = max(now, min(events))
    return runs, scheduler


def every(period_ms: float, count: int, start_ms: float = 0) -> list[int]:
    return [round((start_ms + k * period_ms) * MS) for k in range(count)]


@pytest.mark.parametrize("phase_ms", [0.0, 7.0, 20.0, 33.0])
def test_camera_slower_than_the_rate_never_waits(phase_ms):
    runs, scheduler = simulate(30, every(100, 50, phase_ms), 5 * MS, 6_000 * MS)
    assert [run.start_ns - run.arrival_ns for run in runs] == [0] * 50
    assert scheduler.empty > 50  # the ticks between two frames published nothing, and were counted


@pytest.mark.parametrize("phase_ms", [1.0, 11.0, 25.0, 49.0])
@pytest.mark.parametrize(
    ("camera_hz", "most_ms"), [(20.0, 1.5), (20.02, 1.5), (20.2, 5.0), (40.0, 1.5), (60.0, 1.5)]
)
def test_phase_settles_just_after_arrivals_whatever_the_start(phase_ms, camera_hz, most_ms):
    """A naive timer at 20 Hz would keep a wait of up to 50 ms for ever, by the luck of its start."""
    first_tick = [0]
    arrivals = first_tick + every(1000 / camera_hz, int(camera_hz * 20), 3 + phase_ms)
    runs, _ = simulate(20, arrivals, 5 * MS, 20_000 * MS)
    settled = runs[len(runs) // 2 :]
    waits = [run.start_ns - run.arrival_ns for run in settled]
    assert max(waits) <= most_ms * MS
    assert len(settled) / (settled[-1].start_ns - settled[0].start_ns) * 1e9 == pytest.approx(20, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=200, max_size=200), st.floats(0, 33))
def test_jitter_of_a_camera_at_the_same_rate_becomes_no_wait(jitter_ms, phase_ms):
    """Frames up to an eighth of a period off their time: most run at once, all run."""
    arrivals = [round((phase_ms + 100 + k * 100 / 3 + j) * MS) for k, j in enumerate(jitter_ms)]
    runs, _ = simulate(30, arrivals, 5 * MS, 8_000 * MS)
    assert [run.arrival_ns for run in runs] == arrivals
    waits = sorted(run.start_ns - run.arrival_ns for run in runs[100:])
    assert waits[len(waits) // 2] <= 1 * MS
    assert waits[-1] <= 9 * MS  # the jitter itself, at most


@pytest.mark.parametrize("rate_hz", [10.0, 30.0])
def test_late_frames_do_not_push_the_phase_behind_the_others(rate_hz):
    """Of twenty starts with jitter of 3 ms on average and up to 20, none gives most frames a wait."""
    rng, medians = random.Random(4), []
    for _ in range(20):
        phase_ms = rng.uniform(0, 1000 / rate_hz)
        arrivals = [
            round((phase_ms + k * 1000 / rate_hz + min(rng.expovariate(1 / 3), 20)) * MS) for k in range(300)
        ]
        runs, _ = simulate(rate_hz, arrivals, 8 * MS, 60_000 * MS)
        waits = sorted(run.start_ns - run.arrival_ns for run in runs[30:])
        medians.append(waits[len(waits) // 2])
        assert len(runs) >= 298
    assert max(medians) <= 0.5 * MS


def test_a_run_that_took_too_long_moves_the_phase_for_one_tick_only():
    scheduler, arrivals = FixedRateScheduler(10), every(100, 6)
    for k, arrival in enumerate(arrivals[1:4], start=1):
        assert scheduler.poll(arrival, arrival)
        scheduler.finished(arrival + (130 if k == 2 else 10) * MS)
    assert scheduler.deadline_misses == 1
    assert scheduler.poll(arrivals[4], arrivals[4])  # due at 430, and 400 is in time again
    assert scheduler.wake_ns(arrivals[5]) <= arrivals[5]


def test_rate_is_held_when_the_camera_is_faster_and_does_not_divide():
    runs, _ = simulate(20, every(1000 / 30, 600), 5 * MS, 20_000 * MS)
    assert len(runs) == pytest.approx(400, abs=8)
    assert max(run.start_ns - run.arrival_ns for run in runs) <= 1000 / 30 * MS


def test_a_run_longer_than_the_period_skips_and_never_queues():
    runs, scheduler = simulate(30, every(1000 / 30, 300), 80 * MS, 10_000 * MS)
    busy = [b.start_ns - a.start_ns for a, b in pairwise(runs)]
    assert max(busy) <= (80 + 34) * MS  # back to back, but for the wait for a fresh frame
    assert scheduler.skipped >= len(runs)
    assert scheduler.deadline_misses >= len(runs) - 1
    assert max(run.start_ns - run.arrival_ns for run in runs) <= 34 * MS  # the newest, not the oldest


@settings(max_examples=200, deadline=None)
@given(
    rate_hz=st.floats(1, 100),
    gaps_ms=st.lists(st.floats(0.0, 300.0), min_size=1, max_size=80),
    work_ms=st.floats(0.1, 150.0),
)
def test_any_arrivals(rate_hz, gaps_ms, work_ms):
    arrivals, now = [], 0.0
    for gap in gaps_ms:
        now += gap
        arrivals.append(round(now * MS))
    runs, scheduler = simulate(rate_hz, arrivals, round(work_ms * MS), arrivals[-1] + 5_000 * MS)
    used = [run.arrival_ns for run in runs]
    assert used == sorted(set(used))  # no frame twice, none out of order
    assert used[-1] == arrivals[-1]  # the newest is always answered
    assert all(run.start_ns >= run.arrival_ns for run in runs)
    least = min(scheduler.period_ns * 0.69, work_ms * MS) - 1  # an early one after a late one, and the slew
    assert all(b.start_ns - a.start_ns >= least for a, b in pairwise(runs))
    if work_ms * MS < scheduler.period_ns * 0.9:
        # With time to spare, the rate is an upper bound, slew apart.
        span = runs[-1].start_ns - runs[0].start_ns
        assert len(runs) - 1 <= span / (scheduler.period_ns * 0.95) + 1


def test_ticks_before_the_first_frame_are_none():
    """Simulated time stands at zero until the first /clock, and then is of today."""
    scheduler = FixedRateScheduler(30)
    begins = 1_300_000_000_000 * MS
    assert not scheduler.poll(0, None)
    assert not scheduler.poll(begins, None)
    assert scheduler.poll(begins + 7 * MS, begins + 7 * MS)
    assert scheduler.empty == 0


def test_scheduler_survives_a_clock_set_back():
    scheduler = FixedRateScheduler(10)
    assert scheduler.poll(5_000 * MS, 5_000 * MS)
    assert scheduler.poll(1_000 * MS, 1_000 * MS)


def test_rate_must_be_sensible():
    for rate in (0, -1, 1e6, float("nan")):
        with pytest.raises(ValueError, match="rate_hz"):
            FixedRateScheduler(rate)


def test_mailbox_keeps_the_newest_and_returns_what_it_supersedes():
    mailbox = Mailbox(["a"])
    assert mailbox.put("a", 1, 10) is None
    assert mailbox.put("a", 2, 20) == 1
    assert mailbox.ready().get(BATCH) == 20
    assert mailbox.take() == {"a": (2, 20)}
    assert mailbox.ready().get(BATCH) is None


def test_batch_waits_for_live_streams_only_and_not_for_ever():
    mailbox = Mailbox(["a", "b"], batch_wait_ns=10 * MS)
    mailbox.put("a", 1, 0)
    assert mailbox.ready().get(BATCH) == 0  # b was never seen
    mailbox.put("b", 1, 2 * MS)
    assert mailbox.ready().get(BATCH) == 2 * MS
    mailbox.take()
    mailbox.put("a", 2, 100 * MS)
    assert mailbox.ready().get(BATCH) == 110 * MS  # b lives: wait, but at most batch_wait
    mailbox.put("b", 2, 104 * MS)
    assert mailbox.ready().get(BATCH) == 104 * MS
    mailbox.take()
    mailbox.put("a", 3, 5_000 * MS)
    assert mailbox.ready().get(BATCH) == 5_000 * MS  # b has been silent for too long


def test_mailbox_after_a_clock_set_back_is_not_stuck():
    mailbox = Mailbox(["a", "b"], batch_wait_ns=10 * MS)
    mailbox.put("a", 1, 900_000 * MS)
    mailbox.put("b", 1, 5 * MS)
    assert mailbox.ready().get(BATCH) == 5 * MS


def test_ledger_sums_and_refuses_to_lose_count():
    ledger = FrameLedger()
    ended = []
    ledger.on_end = ended.append
    first, second, third = (ledger.receive(now) for now in (5, 6, 7))
    ledger.finish(second, Outcome.PUBLISHED)
    ledger.finish(first, Outcome.LATE, "too old")
    book = ledger.snapshot()
    assert (book["received"], book["pending"]) == (3, 1)
    assert book["states"] == {
        "published": 1,
        "superseded": 0,
        "late": 1,
        "unsynced": 0,
        "rejected": 0,
        "decode_error": 0,
        "model_error": 0,
    }
    assert book["reasons"] == {"late": "too old"}
    ledger.finish(third, Outcome.PUBLISHED)
    assert [(entry.number, entry.arrival_ns, entry.outcome.value) for entry in ended] == [
        (1, 6, "published"),
        (0, 5, "late"),
        (2, 7, "published"),
    ]
    with pytest.raises(ValueError, match="message 0 ended as late already"):
        ledger.finish(first, Outcome.PUBLISHED)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=300))
def test_percentiles_are_samples_by_nearest_rank(samples):
    window = LatencyWindow()
    for sample in samples:
        window.add(sample)
    ordered = sorted(samples)
    result = window.percentiles()
    assert result["p50"] == ordered[(len(ordered) + 1) // 2 - 1]
    assert sum(s <= result["p99"] for s in samples) >= 0.99 * len(samples)


def test_statistics_before_the_first_sample():
    assert LatencyWindow().percentiles() is None
    assert RateMeter().rate_hz(0) == 0.0


def test_stamps_a_little_behind_are_refused_a_new_beginning_is_not():
    order, now = StampOrder(), 5_010 * MS
    assert order.behind_ns(5_000 * MS, now) == 0
    assert order.behind_ns(4_990 * MS, now) == 10 * MS
    assert order.behind_ns(5_000 * MS, now) == 0
    assert order.behind_ns(4_000 * MS, now) == 1_000 * MS  # exactly a second is not yet a new beginning
    assert order.old_above_ns is None
    assert order.behind_ns(3_999 * MS, now) == 0  # the bag looped
    assert order.old_above_ns == 4_999 * MS
    assert order.behind_ns(4_032 * MS, now) == 0
    assert order.old_above_ns is None
    order.reset()
    assert order.behind_ns(4_031 * MS, now) == 0  # the clock was set back


def test_a_stamp_left_over_from_before_the_clock_was_set_back_delays_nothing():
    """A short bag in a loop: /clock jumped back, then the last image of the loop before came."""
    order = StampOrder()
    assert order.behind_ns(5_900 * MS, 5_020 * MS) == 0
    assert order.behind_ns(5_010 * MS, 5_020 * MS) == 0
    assert order.old_above_ns == 5_120 * MS
    assert order.behind_ns(5_005 * MS, 5_020 * MS) == 5 * MS


def test_stamps_ahead_of_the_clock_are_kept_in_order():
    """A driver whose clock is five seconds ahead, or a little."""
    for ahead in (5_000, 90):
        order = StampOrder()
        assert order.behind_ns((1_000 + ahead) * MS, 1_000 * MS) == 0
        assert order.behind_ns((990 + ahead) * MS, 1_000 * MS) == 10 * MS


class Message:
    """A message of a made-up sensor: what it says happens."""

    def __init__(self, stamp_ns: int, says: str = "") -> None:
        self.stamp_ns = stamp_ns
        self.says = says

    def decode(self) -> Message:
        if self.says == "decode":
            raise CodecError("data", self.says, "broken")
        return self


def parse(message: Message) -> Message:
    if message.says == "parse":
        raise CodecError("step", 0, "wrong")
    return message


def infer(frames: list[Message]) -> list[str]:
    if any(frame.says == "model" for frame in frames):
        raise ModelError("out of memory")
    return ["seen"] * len(frames)


def receive(pipeline: FramePipeline, mailbox: Mailbox, stream: str, message: Message) -> None:
    """What `Component.listen` does with a message of an active node."""
    entry = pipeline.stats[stream].receive(pipeline._clock.now_ns())
    try:
        pipeline.receive(stream, message, entry, lambda s, m: mailbox.put(s, m, pipeline._clock.now_ns()))
    except CodecError as error:
        pipeline.stats[stream].ledger.finish(entry, Outcome.DECODE_ERROR, str(error))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.integers(0, 3_000),
            st.sampled_from(["", "", "", "parse", "decode", "model"]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_every_message_ends_in_exactly_one_state(events):
    """Any mix of good, broken, late and superseded messages sums up."""
    clock = VirtualClock()
    published, complaints = [], []
    pipeline = FramePipeline(
        {"a": parse, "b": parse},
        infer,
        lambda stream, frame, result: published.append((stream, frame.stamp_ns, result)),
        lambda stream, frame, result: None,
        clock,
        lambda stream, error: complaints.append(error),
        max_age_ms=2_000,
    )
    mailbox = Mailbox(["a", "b"])
    clock.advance_to(3_000 * MS)
    sent = {"a": 0, "b": 0}
    for stream, stamp_ms, says, then_run in events:
        sent[stream] += 1
        receive(pipeline, mailbox, stream, Message(stamp_ms * MS, says))
        if then_run:
            pipeline.process(mailbox.take())
    pipeline.cancel_pending(mailbox.take(), "the end")
    for stream, account in pipeline.stats.items():
        book = account.ledger.snapshot()
        assert book["received"] == sent[stream]
        assert book["pending"] == 0
        assert book["states"]["published"] == sum(p[0] == stream for p in published)


def test_worker_runs_jobs_and_batches_on_one_thread_and_stops():
    seen, done = [], threading.Event()

    def process(batch):
        seen.append((threading.current_thread().name, batch))
        done.set()

    clock = VirtualClock()
    worker = Worker(process, FairScheduler(30), Mailbox(["a"]), clock)
    name = worker.call(lambda: threading.current_thread().name).result(5)
    worker.put("a", "frame")
    assert done.wait(5)
    assert seen == [(name, {"a": ("frame", 0)})]
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0).result(5)
    assert worker.stop(5)
    assert worker.call(lambda: 1).cancelled()
