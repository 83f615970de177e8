"""Callbacks that raise, clocks that jump, executors that die, and the end of a graph."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time

import pytest
import yaml
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from tf2_msgs.msg import TFMessage

from perception_rt.node.drive_simulator import DriveSimulatorNode
from perception_rt.node.run import Graph
from perception_rt.node.vehicle_state import VehicleStateNode
from perception_rt.stage.vehicle_state.filter import VehicleStateFilter

from .conftest import wait_for

S = 1_000_000_000


class SimulatedVehicle:
    """A vehicle_state under /clock, and what drives it."""

    def __init__(self, bench) -> None:
        self.bench = bench
        self.node = bench.start(VehicleStateNode, use_sim_time=True, odometry_topic="odom", imu_topic="")
        assert bench.up
        self.clock = bench.node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
        self.odom = bench.node.create_publisher(Odometry, "/odom", QoSProfile(depth=10))
        self.answers = bench.listen("/vehicle_state/odometry", Odometry)
        assert wait_for(self.clock.get_subscription_count)
        assert wait_for(self.odom.get_subscription_count)

    def set_clock(self, seconds: int, nanoseconds: int = 0) -> None:
        """Publish /clock, by its bytes: a message object would refuse what a broken player sends."""
        self.clock.publish(struct.pack("<4BiI", 0, 1, 0, 0, seconds, nanoseconds))

    def drive(self, begin_s: float, count: int = 40) -> int:
        """Drive at 5 m/s for a while; returns how many answers came."""
        before = len(self.answers)
        for k in range(count):
            ns = round(begin_s * S) + k * 20_000_000
            self.set_clock(*divmod(ns, S))
            message = Odometry()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, S)
            message.header.frame_id, message.child_frame_id = "odom", "base_link"
            message.pose.pose.orientation.w = 1.0
            message.twist.twist.linear.x = 5.0
            self.odom.publish(message)
            time.sleep(0.02)
        time.sleep(0.1)
        return len(self.answers) - before


def test_a_clock_of_negative_seconds_is_counted_and_the_node_goes_on(bench):
    vehicle = SimulatedVehicle(bench)
    assert vehicle.drive(1_000) > 10
    vehicle.set_clock(-5)
    assert wait_for(lambda: vehicle.node.callback_errors == 1)
    assert wait_for(lambda: bench.diagnostics("vehicle_state").get("callback_errors") == "1")
    assert bench.said("a callback raised")
    assert vehicle.drive(1_010) > 10


def test_a_clock_that_jumps_back_a_little_begins_anew(bench):
    """A short bag in a loop: .9 s, thrice."""
    vehicle = SimulatedVehicle(bench)
    vehicle.drive(1_000)
    for _ in range(3):
        assert vehicle.drive(1_000.1) > 10
    (stats,) = vehicle.node.component.stats.values()
    # DDS may lose one of the 160, which the node never receives; none that it received ends otherwise.
    states = stats.ledger.snapshot()["states"]
    assert {state for state, n in states.items() if n} == {"published"}, states
    assert states["published"] > 150
    assert wait_for(lambda: int(bench.diagnostics("vehicle_state").get("restarts", 0)) >= 3)


def test_a_callback_that_raises_is_logged_counted_and_the_next_is_called(bench, monkeypatch):
    vehicle = SimulatedVehicle(bench)
    assert vehicle.drive(1_000) > 10

    def fail(*_: object) -> None:
        raise ZeroDivisionError("of a test")

    monkeypatch.setattr(VehicleStateFilter, "state_at", fail)
    assert vehicle.drive(1_001) == 0
    assert vehicle.node.callback_errors > 10
    monkeypatch.undo()
    assert wait_for(lambda: "ZeroDivisionError" in bench.diagnostics("vehicle_state")["last_callback_error"])
    assert vehicle.drive(1_002) > 10


def test_an_executor_that_keeps_failing_ends_the_process_with_a_code(bench):
    """What breaks the executor itself: every slice of spinning raises."""
    program = """
import rclpy
from perception_rt.node import run
from perception_rt.node.vehicle_state import VehicleStateNode

class Broken(run.SingleThreadedExecutor):
    def spin_until_future_complete(self, future, timeout_sec=None):
        raise RuntimeError("broken for a test")

run.make_executor = lambda context=None: Broken(context=context)
run.run([VehicleStateNode], [])
"""
    child = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ROS_DOMAIN_ID": str(bench.domain)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    bench.status.clear()  # its last words are of the errors
    assert child.returncode == 70, child.stderr
    assert "the executor ended" in child.stderr


@pytest.mark.parametrize("repetitions", [10])
def test_a_graph_winds_down_in_silence_however_often(bench, repetitions):
    """A drive, and a filter whose timer publishes at 500 Hz, taken down while they publish."""
    bench.listen("/vehicle_state/odometry", Odometry)
    bench.listen("/tf", TFMessage)
    for _ in range(repetitions):
        drive = DriveSimulatorNode(
            context=bench.context,
            parameter_overrides=[
                Parameter("camera_hz", value=0.0),
                Parameter("wait_for_listener", value=False),
            ],
        )
        vehicle = VehicleStateNode(
            context=bench.context,
            parameter_overrides=[
                Parameter("odometry_topic", value="odom"),
                Parameter("rate_hz", value=500.0),
                Parameter("path_rate_hz", value=100.0),
            ],
        )
        graph = Graph([drive, vehicle], bench.context)
        assert graph.start()
        assert wait_for(lambda: vehicle.component._published_ns > 0)  # noqa: B023
        graph.end()
        assert drive.callback_errors == vehicle.callback_errors == 0
    loud = [line for line in bench.logs if "ERROR" in line or "Traceback" in line or "Invalid" in line]
    assert not loud, loud


LIGHT = """
import sys
from perception_rt.component.graph import read_graph
from perception_rt.node.run import check_names_of
graph = read_graph(sys.argv[1])
own = [node for node in graph if node.name == "vehicle_state"]
check_names_of(graph, own, {"": {"autostart": True}, "camera_detector": {"rate_hz": 5.0}})
assert "torch" not in sys.modules
check_names_of(graph, own, {"": {"bundle": "sim_camera"}})  # which the camera alone declares
assert "torch" in sys.modules
"""


def test_a_light_node_beside_a_detector_does_not_import_torch(tmp_path):
    """In a process of its own, as with `up --separate`."""
    config = tmp_path / "graph.yaml"
    shared = {"ros__parameters": {"use_sim_time": True}}
    nodes = {name: {"ros__parameters": {}} for name in ("camera_detector", "vehicle_state")}
    config.write_text(yaml.safe_dump({"/**": shared, **nodes}))
    subprocess.run([sys.executable, "-c", LIGHT, str(config)], check=True)
