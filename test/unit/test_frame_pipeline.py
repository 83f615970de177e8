"""The frame pipeline: each stream of a batch stands for itself, and every duration is measured."""

from __future__ import annotations

import pytest

from perception_rt.realtime.clock import VirtualClock
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import FramePipeline
from perception_rt.types import CodecError

MS = 1_000_000
STAMP = 1_000 * MS


class Message:
    """A frame that takes time, and raises if its stream is configured so."""

    def __init__(self, rig: Rig, stream: str) -> None:
        self.rig, self.stream, self.stamp_ns = rig, stream, STAMP

    def decode(self) -> Message:
        self.rig.pass_by(2 * MS)
        self.rig.maybe_raise("decode", self.stream)
        return self


class Rig:
    """A pipeline of two cameras; `fails` says which step raises for which stream."""

    def __init__(self, fails: dict[str, str], error: Exception | None = None) -> None:
        self.fails, self.error = fails, error or ValueError("broken")
        self.clock = VirtualClock(STAMP + 10 * MS)
        self.published: list[str] = []
        self.shown: list[str] = []
        self.warned: list[tuple[str, str]] = []
        self.batches: list[int] = []
        self.pipeline = FramePipeline(
            {"a": lambda m: m, "b": lambda m: m},
            self.infer,
            self.publish,
            self.show,
            self.clock,
            lambda stream, error: self.warned.append((stream, str(error))),
            pending=lambda: bool(self.mailbox.ready()),
        )
        self.mailbox: Mailbox = Mailbox(["a", "b"])
        for stream in "ab":
            self.pipeline.stats[stream].ledger.on_end = lambda entry, s=stream: self.maybe_raise("on_end", s)

    def pass_by(self, ns: int) -> None:
        self.clock.advance_to(self.clock.now_ns() + ns)

    def maybe_raise(self, step: str, stream: str) -> None:
        if self.fails.get(step) == stream:
            raise self.error

    def infer(self, frames: list[Message]) -> list[str]:
        self.batches.append(len(frames))
        self.pass_by(30 * MS)
        for frame in frames:
            self.maybe_raise("infer", frame.stream)
        return ["ok"] * len(frames)

    def publish(self, stream: str, frame: Message, result: str) -> None:
        self.pass_by(1 * MS)
        self.maybe_raise("publish", stream)
        self.published.append(stream)

    def show(self, stream: str, frame: Message, result: str) -> None:
        self.maybe_raise("extras", stream)
        self.shown.append(stream)

    def receive(self) -> dict[str, Entry]:
        """Receive one message of each camera."""
        now, entries = self.clock.now_ns(), {}
        for stream in "ab":
            entries[stream] = self.pipeline.stats[stream].receive(now)
            put = lambda s, w: self.mailbox.put(s, w, now)  # noqa: E731
            self.pipeline.receive(stream, Message(self, stream), entries[stream], put)
        return entries

    def run(self) -> None:
        self.receive()
        self.pass_by(5 * MS)
        self.pipeline.process(self.mailbox.take())

    def book(self, stream: str) -> tuple[dict[str, int], dict[str, str]]:
        book = self.pipeline.stats[stream].ledger.snapshot()
        assert book["pending"] == 0
        return {state: n for state, n in book["states"].items() if n}, book["reasons"]


@pytest.mark.parametrize("bad", ["a", "b"])
@pytest.mark.parametrize(
    ("step", "outcome"), [("decode", "decode_error"), ("infer", "model_error"), ("publish", "model_error")]
)
def test_one_camera_s_failure_leaves_the_other_its_result(step, outcome, bad):
    rig = Rig({step: bad})
    rig.run()
    good = "b" if bad == "a" else "a"
    assert rig.published == rig.shown == [good]
    assert rig.book(good) == ({"published": 1}, {})
    states, reasons = rig.book(bad)
    assert states == {outcome: 1}
    assert "broken" in reasons[outcome]
    assert ("publish" in reasons[outcome]) == (step == "publish")
    assert rig.warned == [(bad, "broken")]


def test_a_decode_error_of_the_codec_is_told_apart_by_its_text():
    rig = Rig({"decode": "a"}, CodecError("data", 3, "cut off"))
    rig.run()
    assert rig.book("a") == ({"decode_error": 1}, {"decode_error": "data=3: cut off"})


@pytest.mark.parametrize("bad", ["a", "b"])
def test_a_failed_visualization_costs_no_result(bad):
    rig = Rig({"extras": bad})
    rig.run()
    assert rig.published == ["a", "b"]
    assert rig.shown == ["b" if bad == "a" else "a"]
    assert rig.book("a") == rig.book("b") == ({"published": 1}, {})
    assert rig.warned == [(bad, "broken")]


@pytest.mark.parametrize("bad", ["a", "b"])
def test_an_error_of_on_end_is_raised_as_itself_after_all_streams_are_done(bad):
    rig = Rig({"on_end": bad}, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        rig.run()
    assert rig.published == ["a", "b"]
    assert rig.book("a") == rig.book("b") == ({"published": 1}, {})


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("bad", ["a", "b"])
def test_an_error_of_on_end_cancels_no_other_stream(bad, running):
    rig = Rig({"on_end": bad}, OSError(28, "No space left on device"))
    rig.receive()
    batch = rig.mailbox.take()
    if running:
        rig.pipeline.take(batch)
    with pytest.raises(OSError, match="No space left"):
        rig.pipeline.cancel_running("x") if running else rig.pipeline.cancel_pending(batch, "x")
    assert rig.book("a") == rig.book("b") == ({"superseded": 1}, {"superseded": "x"})


def test_a_model_that_returns_too_few_results_is_a_model_error():
    rig = Rig({})
    rig.pipeline._infer = lambda frames: []
    rig.run()
    assert rig.book("a")[0] == rig.book("b")[0] == {"model_error": 1}
    assert rig.published == []


def test_a_whole_batch_is_inferred_at_once_and_alone_only_after_a_failure():
    rig = Rig({})
    rig.run()
    assert rig.batches == [2]
    rig = Rig({"infer": "b"})
    rig.run()
    assert rig.batches == [2, 1, 1]


def test_every_duration_is_that_of_its_stage():
    rig = Rig({})
    rig.run()
    ages, waits = [], []
    for stream in "ab":
        stats = rig.pipeline.stats[stream]
        times = {stage: window.percentiles()["p50"] for stage, window in stats.stages.items()}
        waits.append(times.pop("wait"))
        assert times == {"decode": 2.0, "infer": 30.0, "publish": 1.0}
        ages.append(stats.age.percentiles()["p50"])
    assert waits == [5.0, 5.0]
    assert ages == [10 + 5 + 2 * 2 + 30 + 1, 10 + 5 + 2 * 2 + 30 + 2]


def test_what_is_cancelled_while_it_is_computed_is_not_published():
    rig = Rig({})
    entries = rig.receive()
    computed = rig.pipeline.compute(rig.pipeline.take(rig.mailbox.take()))
    rig.pipeline.cancel_running("deactivated")
    rig.pipeline.finish(computed)
    assert rig.published == rig.shown == rig.warned == []
    assert {entry.outcome for entry in entries.values()} == {Outcome.SUPERSEDED}


def test_a_frame_that_is_too_old_at_its_turn_is_late_and_the_limit_is_inclusive():
    for limit_ms, states in ((15.0, {"published": 1}), (14.9, {"late": 1})):
        rig = Rig({})
        rig.pipeline.max_age_ms = limit_ms
        rig.run()
        assert rig.book("a")[0] == rig.book("b")[0] == states


def test_while_newer_frames_wait_one_picture_a_second_is_drawn():
    rig, rounds = Rig({}), 60
    for _ in range(rounds):
        rig.receive()
        batch = rig.mailbox.take()
        rig.receive()  # while the batch is computed
        rig.pipeline.process(batch)
        rig.pipeline.cancel_pending(rig.mailbox.take(), "the next round brings others")
    took_s = (rig.clock.now_ns() - STAMP - 10 * MS) / 1e9
    assert len(rig.published) == 2 * rounds
    assert took_s - 1 <= len(rig.shown) / 2 <= took_s + 1
    shown = len(rig.shown)
    rig.run()
    assert len(rig.shown) == shown + 2, "nothing waits: every result is drawn"
