"""Simulated time between two messages of /clock."""

from __future__ import annotations

import time

import pytest
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from perception_rt.node.shell import PerceptionNode
from perception_rt.node.source import to_time

from .conftest import wait_for

START_NS, MS = 1_700_000_000_000_000_000, 1_000_000


@pytest.fixture
def told(bench):
    """A node under simulated time, and what tells it the time."""
    node = PerceptionNode(
        "late", context=bench.context, parameter_overrides=[Parameter("use_sim_time", value=True)]
    )
    bench.executor.add_node(node)
    publisher = bench.node.create_publisher(
        Clock, "/clock", QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    )
    assert wait_for(publisher.get_subscription_count)

    def tell(time_ns: int) -> None:
        publisher.publish(Clock(clock=to_time(time_ns)))
        assert wait_for(lambda: node.get_clock().now().nanoseconds == time_ns)

    yield node, tell
    bench.executor.remove_node(node)
    node.destroy_node()


def play(tell, start_ns: int, count: int, step_ms: int, speed: float = 1.0) -> int:
    """Tell the time at a fixed rate; the time that was told last."""
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number * step_ms / 1e3 / speed - time.monotonic()))
        tell(start_ns + number * step_ms * MS)
    return start_ns + (count - 1) * step_ms * MS


def test_time_goes_on_between_two_ticks_and_stands_still_when_they_stop(told):
    node, tell = told
    assert node.now_ns() == 0
    last = play(tell, START_NS, 20, 25)
    seen = []
    for _ in range(40):
        seen.append(node.now_ns())
        time.sleep(0.002)
    assert seen == sorted(seen)
    assert len(set(seen)) > 2  # it moved between two ticks; how finely depends on the load
    assert last <= seen[0]
    # A step further than what was told last, and there it waits.
    assert seen[-1] == seen[-2] == pytest.approx(last + 25 * MS, abs=10 * MS)
    tell(last + 25 * MS)
    assert node.now_ns() >= seen[-1]


def test_a_clock_that_is_set_back_is_followed_at_once(told):
    node, tell = told
    play(tell, START_NS, 5, 25)
    tell(START_NS - 10_000 * MS)
    assert node.now_ns() == START_NS - 10_000 * MS


def test_without_simulated_time_it_is_the_machine_s(bench):
    node = PerceptionNode("prompt", context=bench.context)
    before = time.time_ns()
    assert before <= node.now_ns() <= time.time_ns()
    node.destroy_node()
