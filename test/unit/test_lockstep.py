"""Virtual time: order of calls, times of inference, and what a slow model drops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.component.component import Component
from perception_rt.component.graph import GraphNode
from perception_rt.component.parameters import Parameter
from perception_rt.component.streams import DEPTH
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import FramePipeline
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.replay.bag import BagMessage
from perception_rt.replay.lockstep.graph import check_overrides, overrides_of
from perception_rt.replay.lockstep.host import LockstepHost
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.lockstep.router import Router
from perception_rt.replay.lockstep.timing import parse_inference
from perception_rt.replay.lockstep.worker import LockstepWorker
from perception_rt.types import ConfigError

MS = 1_000_000
IMAGE, ARRAY = "sensor_msgs/msg/Image", "vision_msgs/msg/Detection2DArray"


@given(st.lists(st.integers(0, 50), max_size=40))
def test_calls_are_made_in_order_of_time_and_then_of_asking(times):
    loop, made = EventLoop(0), []
    for number, time_ns in enumerate(times):
        loop.at(time_ns, lambda pair=(time_ns, number): made.append((*pair, loop.now_ns())))
    loop.run_until(25)
    assert all(time_ns <= 25 for time_ns, _, _ in made)
    assert loop.now_ns() == 25
    loop.run_until(60)
    assert [(time_ns, number) for time_ns, number, _ in made] == sorted(
        (time_ns, number) for number, time_ns in enumerate(times)
    )
    assert all(time_ns == now for time_ns, _, now in made)


def test_a_call_of_the_past_is_made_now_and_ticks_end():
    loop, made = EventLoop(100), []
    loop.every(10, lambda: made.append(loop.now_ns()))
    loop.run_until(125)
    loop.at(0, lambda: made.append(-loop.now_ns()))
    loop.end_ticks()
    assert made == [110, 120, -125]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fast", "must be measured, fixed:MS"),
        ("fixed:soon", "number of milliseconds"),
        ("fixed:-1", "number of milliseconds"),
        ("fixed:nan", "number of milliseconds"),
        ("trace:", "must be measured"),
        ("trace:/nowhere.csv", "No such file"),
    ],
)
def test_what_is_no_time_of_inference_is_refused(text, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_inference(text)


def test_a_trace_tells_each_frame_and_the_one_before_for_frames_that_it_lacks(tmp_path):
    path = tmp_path / "ledger.csv"
    path.write_text(
        "node,stamp_ns,decode_ms,infer_ms,publish_ms\n/a,2000,1.5,9.75,0.25\n/a,1000,,5,\n/a,3000,,,\n/b,1,,7.25,\n",
        encoding="utf-8",
    )
    timing = parse_inference(f"trace:{path}").timing
    assert [timing("/a", stamp) // 1000 for stamp in (0, 1000, 1999, 2000, 9000)] == [
        5000,
        5000,
        5000,
        11500,
        11500,
    ]
    assert timing("/b", 1) == 7_250_000
    with pytest.raises(ConfigError, match="has no inference times of /c"):
        timing("/c", 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n1,2\n", "no column node, stamp_ns, infer_ms"),
        ("node,stamp_ns,infer_ms\n", "has no inference times"),
        ("node,stamp_ns,infer_ms\n/a,1,inf\n", "line 2: inf ms is no valid inference time"),
        ("node,stamp_ns,infer_ms\n/a,1,-5\n", "line 2: -5.0 ms is no valid inference time"),
        ("node,stamp_ns,infer_ms\n/a,1,nan\n", "line 2: nan ms is no valid inference time"),
    ],
)
def test_a_file_that_is_no_trace_says_so(tmp_path, content, reason):
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        parse_inference(f"trace:{path}")


class Frame:
    """A parsed message whose content is its stamp."""

    def __init__(self, data: bytes) -> None:
        self.stamp_ns = int(data)

    def decode(self) -> Frame:
        return self


class Echo(Component):
    """A detector without a model: a real pipeline, scheduler and mailbox."""

    NAME = "echo"
    PARAMETERS = (Parameter("rate_hz", 30.0, "", (0.1, 1000.0)),)

    def setup(self) -> None:
        """Wire it."""
        output = self.host.create_publisher(ARRAY, "~/detections", 5)
        pipeline = FramePipeline(
            {"/image": Frame},
            lambda frames: [str(frame.stamp_ns).encode() for frame in frames],
            lambda stream, frame, result: output.publish(result),
            lambda stream, frame, result: None,
            clock=self.host,
            warn=self.host.warn,
        )
        scheduler = FairScheduler(self.values["rate_hz"])
        self.worker = self.host.make_worker(pipeline, scheduler, Mailbox(["/image"]))
        self.listen(
            IMAGE,
            "/image",
            pipeline.stats["/image"],
            lambda data, entry: pipeline.receive("/image", data, entry, self.worker.put),
        )
        self.pipeline = pipeline

    def stop(self) -> None:
        """End what waits."""
        self.pipeline.cancel_pending(self.worker.clear(), "the end")


class Seen:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, int]] = []

    def delivered(self, message) -> None: ...

    def published(self, topic, message_type, time_ns, data) -> None:
        if message_type == ARRAY:
            self.answers.append((int(data), time_ns))

    def shown(self, *_) -> None: ...

    def refused(self, *_) -> None: ...


def play(
    arrivals: list[int],
    inference: str,
    rate_hz: float = 30.0,
    told: Callable[[LockstepWorker], None] | None = None,
) -> tuple[list[tuple[int, int]], dict]:
    """Stamps and publish times of answers, and the ledger; each message is announced just before."""
    loop, seen = EventLoop(0), Seen()
    router = Router(loop, {"/image": IMAGE}, {}, seen, False)
    timing = parse_inference(inference).timing
    host = LockstepHost(Echo, GraphNode("echo", "/", {}), {"rate_hz": rate_hz}, loop, router, timing)
    host.component.setup()
    host.activate()
    for arrival in arrivals:
        if told is not None:
            host.component.worker.anticipate("/image", str(arrival).encode())
            told(host.component.worker)
        loop.run_until(arrival)
        router.deliver(BagMessage("/image", IMAGE, arrival, str(arrival).encode()))
    loop.run_until(loop.now_ns() + 10**9)
    while host.component.worker.busy:
        loop.step()
    host.deactivate()
    loop.end_ticks()
    host.component.worker.stop(1)
    return seen.answers, host.component.stats["/image"].ledger.snapshot()


def test_a_model_that_keeps_up_answers_every_frame_when_its_time_is_over():
    arrivals = [round(k * 1e9 / 30) for k in range(90)]
    answers, book = play(arrivals, "fixed:20")
    assert answers == [(arrival, arrival + 20 * MS) for arrival in arrivals]
    assert book["states"]["published"] == book["received"] == 90


def test_a_slow_model_answers_the_newest_frame_and_drops_the_rest():
    arrivals = [round(k * 1e9 / 30) for k in range(300)]
    answers, book = play(arrivals, "fixed:80")
    assert book["received"] == 300 == sum(book["states"].values())
    assert book["states"]["published"] == len(answers)
    # It is never idle: one run follows the other, on the newest frame of its time.
    starts = [published - 80 * MS for _, published in answers]
    assert all(after - before == 80 * MS for before, after in pairwise(starts[1:]))
    for (stamp, _), start in zip(answers, starts, strict=True):
        # What arrives in the very moment in which a run begins may miss it.
        assert stamp == max(arrival for arrival in arrivals if arrival < start or arrival == stamp)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 120), min_size=1, max_size=60),
    st.sampled_from(["fixed:0", "fixed:7.5", "fixed:33.4", "fixed:200"]),
    st.sampled_from([5.0, 10.0, 30.0]),
)
def test_any_arrivals_are_accounted_for_and_never_answered_early(gaps_ms, inference, rate_hz):
    arrivals, now = [], 0
    for gap in gaps_ms:
        now += gap * MS
        arrivals.append(now)
    answers, book = play(arrivals, inference, rate_hz)
    assert book["pending"] == 0
    assert book["received"] == len(arrivals)
    took_ns = round(float(inference.partition(":")[2]) * MS)
    assert all(published >= stamp + took_ns for stamp, published in answers)
    stamps = [stamp for stamp, _ in answers]
    assert stamps == sorted(stamps)
    assert play(arrivals, inference, rate_hz) == (answers, book)


def test_measured_time_is_the_machine_s_own():
    arrivals = [k * 100 * MS for k in range(10)]
    answers, book = play(arrivals, "measured")
    assert book["states"]["published"] == 10
    assert all(0 < published - stamp < 50 * MS for stamp, published in answers)


def test_nothing_more_is_computed_ahead_for_a_model_that_is_long_at_work():
    begun = []
    arrivals = [k * 33 * MS for k in range(300)]
    answers, book = play(arrivals, "fixed:60000", told=lambda worker: begun.append(len(worker._ahead)))
    assert begun[0] == 1
    assert max(begun) <= 2
    assert begun[-1] == 0
    assert book["states"]["superseded"] == 298
    assert len(answers) == 2


def test_what_was_begun_ahead_is_answered_as_if_it_was_not():
    arrivals = [k * 33 * MS + (k % 7) * MS for k in range(200)]
    for inference in ("fixed:5", "fixed:33.4", "fixed:80"):
        assert play(arrivals, inference, told=lambda worker: None) == play(arrivals, inference)


class Slow(Component):
    """Every message and every tick takes 4 ms of the machine's."""

    def setup(self) -> None:
        """Wire it."""
        self.calls: list[tuple[str, int]] = []
        self.heard = self.host.create_subscription(
            IMAGE, "/image", lambda data: self._work(data.decode()), "reliable"
        )
        self.host.create_timer(0.001, lambda: self._work("tick"))

    def _work(self, name: str) -> None:
        self.calls.append((name, self.host.now_ns()))
        until = time.perf_counter_ns() + 4 * MS
        while time.perf_counter_ns() < until:
            pass


def slow_host(loop: EventLoop, router: Router) -> LockstepHost:
    host = LockstepHost(Slow, GraphNode("slow", "/", {}), {}, loop, router, None)
    host.component.setup()
    return host


def test_callbacks_of_a_busy_node_wait_in_order_the_oldest_are_lost_and_missed_ticks_are_made_once():
    loop = EventLoop(0)
    router = Router(loop, {"/image": IMAGE}, {}, Seen(), False)
    slow = slow_host(loop, router).component
    for number in range(40):  # more than twice as fast as the node is
        loop.run_until(number * 2 * MS)
        router.deliver(BagMessage("/image", IMAGE, loop.now_ns(), str(number).encode()))
    loop.run_until(300 * MS)
    done = [int(name) for name, _ in slow.calls if name != "tick"]
    assert done == sorted(set(done))
    assert done[0] == 0
    assert done[-DEPTH:] == list(range(40 - DEPTH, 40))
    assert slow.heard.lost == 40 - len(done) > 10
    assert all(after - before >= 4 * MS for (_, before), (_, after) in pairwise(slow.calls))
    ticks = sum(name == "tick" for name, _ in slow.calls)
    assert 0 < ticks < 75  # of 300; how many depends on the load of the machine


def test_what_fails_at_drawing_is_told_and_is_no_fault_of_the_recording(caplog):
    refused = []

    class Watch(Seen):
        def refused(self, topic, *_) -> None:
            refused.append(topic)

    loop = EventLoop(0)
    host = slow_host(loop, Router(loop, {"/image": IMAGE}, {}, Watch(), False))
    with caplog.at_level(logging.WARNING):
        host.warn("slow", ValueError("no pen"))
    assert refused == []
    assert "/slow: ValueError: no pen" in caplog.text
    host.warn("/image", ValueError("no picture"))
    assert refused == ["/image"]


def test_topics_are_remapped_once_and_an_unused_remapping_is_refused():
    loop = EventLoop(0)
    router = Router(loop, {}, {"/image": "/b", "/b": "/image"}, Seen(), False)
    slow_host(loop, router)
    assert list(router.subscriptions) == ["/b"]
    with pytest.raises(ConfigError, match="-r /b:=/image: no node uses /b; the topics are /b, /diagnostics"):
        router.check_remaps()


GRAPH = [
    GraphNode("camera_detector", "/front", {}),
    GraphNode("camera_detector", "/rear", {}),
    GraphNode("fusion", "/", {}),
]


def test_an_override_that_names_the_node_more_exactly_wins():
    overrides = {
        "/front/camera_detector": {"rate_hz": 3.0},
        "": {"rate_hz": 1.0, "half": True},
        "camera_detector": {"rate_hz": 2.0},
    }
    check_overrides(GRAPH, overrides)
    found = [overrides_of(node, overrides)["rate_hz"] for node in GRAPH]
    assert found == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"camera_detektor": {"half": True}},
            "the nodes of the graph are /front/camera_detector",
        ),
        ({"/camera_detector": {"half": True}}, "no such node"),
        (
            {"camera_detector": {"rate_hs": 1.0}},
            "rate_hs: not a parameter of camera_detector; did you mean rate_hz",
        ),
        (
            {"fusion": {"rate_hz": 1.0}},
            "not a parameter of fusion; known parameters: base_frame, camera_info_topic",
        ),
        ({"": {"bag": "drive"}}, "bag: not a parameter of any node"),
    ],
)
def test_an_unknown_override_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        check_overrides(GRAPH, overrides)


def test_overrides_of_what_the_recording_plays_and_of_ros_are_let_pass():
    nodes = [*GRAPH, GraphNode("bag_player", "/", {})]
    check_overrides(nodes, {"": {"bag": "drive"}, "bag_player": {"rate": 2.0}})
    check_overrides(GRAPH, {"": {"use_sim_time": True}, "fusion": {"autostart": False}})
