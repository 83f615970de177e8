"""The ego filter over real topics: a simulated drive is followed, and every message accounted for."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped, TwistWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.qos import DurabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Imu, NavSatFix
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from perception_rt.node import drive_messages as messages
from perception_rt.node.vehicle_state import VehicleStateNode
from perception_rt.sim.drive import Drive
from perception_rt.stage.vehicle_state.geodesy import geodetic_from_enu

from .conftest import stamp_of, wait_for

ORIGIN = np.array([48.0, 11.0, 500.0])


class Vehicle:
    """A simulated drive whose sensors are published as if it ended now."""

    def __init__(self, bench, **values) -> None:
        self.bench = bench
        self.node = bench.start(VehicleStateNode, **values)
        assert bench.up, bench.logs
        kinds = {"odom_in": Odometry, "imu": Imu, "fix": NavSatFix, "twist": TwistWithCovarianceStamped}
        self.out = {topic: bench.publisher(f"/{topic}", "reliable", kind) for topic, kind in kinds.items()}
        self.odometry = bench.listen("/vehicle_state/odometry", Odometry)
        self.path = bench.listen("/vehicle_state/predicted_path", Path)
        self.predictions = bench.listen("/vehicle_state/predictions", Detection3DArray)
        self.markers = bench.listen("/vehicle_state/markers", MarkerArray)
        for name in ("odometry", "imu", "fix", "twist"):
            topic = {"odometry": "odom_in"}.get(name, name)
            if name in self.node.component._sensors:
                assert wait_for(self.out[topic].get_subscription_count), topic
        self.drive, self.began = Drive(3), bench.now_ns()

    def book(self, name: str) -> dict:
        return self.node.component._sensors[name].ledger.snapshot()

    def publish(self, topic: str, message, name: str | None = None) -> dict:
        """Publish and wait for the end of the message; returns the states that changed."""
        name = name or topic
        before = self.book(name)
        self.out[topic].publish(message)
        assert wait_for(lambda: self.book(name)["received"] > before["received"]), "never arrived"
        assert wait_for(lambda: self.book(name)["pending"] == 0), "never ended"
        after = self.book(name)["states"]
        return {s: n - before["states"][s] for s, n in after.items() if n > before["states"][s]}

    def stamp(self, t: float) -> int:
        return self.began + round(t * 1e9)

    def imu(self, t: float) -> Imu:
        return deserialize_message(messages.imu(self.drive.imu(t), self.stamp(t)), Imu)

    def odom(self, t: float) -> Odometry:
        measured = self.drive.odometry(t)
        data = messages.odometry("odom", np.zeros(3), measured.v, measured.yaw_rate, self.stamp(t))
        return deserialize_message(data, Odometry)

    def fix(self, t: float, off: float = 0.0) -> NavSatFix:
        ego = self.drive.ego(t)
        latitude, longitude, altitude = geodetic_from_enu(
            np.array([ego.x + off, ego.y, 0.0]), ORIGIN
        ).tolist()
        message = NavSatFix(latitude=latitude, longitude=longitude, altitude=altitude)
        message.header.stamp = messages.to_time(self.stamp(t))
        message.position_covariance = (np.eye(3) * 0.25).ravel()
        message.position_covariance_type = 2
        return message


def test_a_drive_is_followed_and_its_path_is_ahead(bench):
    vehicle = Vehicle(bench)
    for tick in range(300):  # three seconds of them, faster than they pass: they are of the time to come
        t = tick / 100
        assert vehicle.publish("imu", vehicle.imu(t)) == {"published": 1}
        if tick % 2 == 0:
            assert vehicle.publish("odom_in", vehicle.odom(t), "odometry") == {"published": 1}
    end = vehicle.stamp(2.99)
    assert wait_for(lambda: vehicle.odometry and stamp_of(vehicle.odometry[-1]) > end, 10.0)
    found = next(m for m in vehicle.odometry if stamp_of(m) > end)
    t = (stamp_of(found) - vehicle.began) / 1e9
    start, now = vehicle.drive.ego(0.0), vehicle.drive.ego(t)
    travelled = math.hypot(now.x - start.x, now.y - start.y)
    place = found.pose.pose.position
    assert math.hypot(place.x, place.y) == pytest.approx(travelled, abs=0.03 * travelled + 0.2)
    assert found.twist.twist.linear.x == pytest.approx(now.v, abs=0.3)
    assert (found.header.frame_id, found.child_frame_id) == ("odom", "base_link")
    assert np.linalg.eigvalsh(np.array(found.pose.covariance).reshape(6, 6)).min() >= -1e-9
    assert wait_for(lambda: any(stamp_of(m) > end for m in vehicle.path))
    path = next(m for m in vehicle.path if stamp_of(m) > end)
    stamps = [stamp_of(pose) - stamp_of(path) for pose in path.poses]
    assert stamps == [k * 100_000_000 for k in range(31)]
    first, last = path.poses[0].pose.position, path.poses[-1].pose.position
    assert math.hypot(last.x - first.x, last.y - first.y) == pytest.approx(3 * now.v, rel=0.25)
    of_path = lambda: [m for m in vehicle.predictions if stamp_of(m) == stamp_of(path)]  # noqa: E731
    assert wait_for(of_path)
    boxes = of_path()[0].detections
    assert wait_for(lambda: vehicle.markers)
    (line,) = [marker for marker in vehicle.markers[-1].markers if marker.action == 0]
    assert (line.type, len(line.points)) == (4, 31)  # LINE_STRIP
    spread = [box.results[0].pose.covariance[0] + box.results[0].pose.covariance[7] for box in boxes]
    assert spread == sorted(spread)
    assert spread[-1] > spread[0]


def test_fixes_place_it_and_outliers_are_rejected(bench):
    vehicle = Vehicle(bench, fix_topic="fix", frame_id="map")
    assert wait_for(lambda: bench.message("vehicle_state") == "position and yaw are not known yet")
    states = []
    for tick in range(400):
        t = tick / 100
        vehicle.publish("imu", vehicle.imu(t))
        if tick % 2 == 0:
            vehicle.publish("odom_in", vehicle.odom(t), "odometry")
        if tick % 20 == 0:
            states.append(vehicle.publish("fix", vehicle.fix(t)))
    assert states.count({"published": 1}) >= 18
    assert vehicle.publish("fix", vehicle.fix(4.0, off=80.0)) == {"rejected": 1}
    assert wait_for(lambda: vehicle.odometry)
    assert vehicle.odometry[-1].header.frame_id == "map"
    assert wait_for(lambda: bench.diagnostics("vehicle_state").get("fix_gated") == "1")


def test_a_receiver_without_a_fix_is_no_error(bench):
    vehicle = Vehicle(bench, fix_topic="fix")
    message = vehicle.fix(0.0)
    message.status.status = -1
    assert vehicle.publish("fix", message) == {"rejected": 1}
    assert vehicle.book("fix")["reasons"]["rejected"] == "the receiver has no fix"


def test_what_cannot_be_used_is_counted_with_its_reason(bench):
    vehicle = Vehicle(bench)
    for tick in range(300):
        vehicle.publish("imu", vehicle.imu(tick / 100))
    broken = vehicle.imu(3.0)
    broken.angular_velocity.z = math.nan
    assert vehicle.publish("imu", broken) == {"decode_error": 1}
    assert vehicle.publish("imu", vehicle.imu(2.99)) == {"superseded": 1}
    assert vehicle.publish("imu", vehicle.imu(0.5)) == {"late": 1}
    assert vehicle.publish("imu", vehicle.imu(2.505)) == {"published": 1}  # out of order, within the history
    assert vehicle.publish("imu", vehicle.imu(3.01)) == {"published": 1}


def test_an_imu_that_is_mounted_turned_needs_its_transform(bench):
    vehicle = Vehicle(bench)
    reading = vehicle.imu(0.0)
    reading.header.frame_id = "imu_link"
    assert vehicle.publish("imu", reading) == {"unsynced": 1}
    assert wait_for(lambda: bench.message("vehicle_state").startswith("imu not used: "))
    tf = bench.publisher("/tf_static", "reliable", TFMessage, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    transform = TransformStamped(child_frame_id="imu_link")
    transform.header.frame_id = "base_link"
    transform.transform.rotation.x, transform.transform.rotation.w = 1.0, 0.0  # upside down
    assert wait_for(tf.get_subscription_count)
    tf.publish(TFMessage(transforms=[transform]))

    def settled() -> bool:
        return vehicle.publish("imu", turned_over()) == {"published": 1}

    def turned_over() -> Imu:
        turned_over.t += 0.01
        message = vehicle.imu(turned_over.t)
        message.header.frame_id = "imu_link"
        message.angular_velocity.z, message.angular_velocity.y = -0.3, 0.0
        return message

    turned_over.t = 0.0
    assert wait_for(settled)
    assert wait_for(lambda: vehicle.odometry)
    for _ in range(50):
        vehicle.publish("imu", turned_over())
    assert wait_for(lambda: vehicle.odometry[-1].twist.twist.angular.z > 0.15)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"odometry_topic": "", "imu_topic": ""}, "all are empty"),
        ({"fix_lever_arm_m": [1.0]}, "must be x and y"),
        ({"horizon_s": 1.0, "step_s": 2.0}, "give 0 < step <= horizon"),
        ({"horizon_s": 30.0, "step_s": 0.02}, "1000 steps"),
    ],
)
def test_parameters_that_cannot_work_fail_the_start_with_the_reason(bench, values, reason):
    bench.start(VehicleStateNode, **values)
    assert not bench.up
    assert bench.said("cannot configure", reason), bench.logs


@pytest.mark.parametrize("behind_s", [30.0, -5.0])
def test_stamps_of_another_clock_are_answered_in_it_and_named(bench, behind_s):
    """As any recording that is played into wall time without use_sim_time."""
    node = bench.start(VehicleStateNode, odometry_topic="odom", imu_topic="")
    answers = bench.listen("/vehicle_state/odometry", Odometry)
    publisher = bench.publisher("/odom", "reliable", Odometry)
    assert wait_for(publisher.get_subscription_count)
    sent = []

    def send() -> bool:
        sent.append(bench.now_ns() - round(behind_s * 1e9))
        message = Odometry()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(sent[-1], 10**9)
        message.header.frame_id, message.child_frame_id = "odom", "base_link"
        message.pose.pose.orientation.w = 1.0
        message.twist.twist.linear.x = 10.0
        publisher.publish(message)
        time.sleep(0.02)
        return len(answers) > 20

    assert wait_for(send)
    assert abs(stamp_of(answers[-1]) - sent[-1]) < 1e9
    name = f"{node.get_name()}: /odom"
    side = "behind" if behind_s > 0 else "ahead of"
    assert wait_for(lambda: send() and f"{abs(behind_s)} s {side} the node's clock" in bench.message(name))
    assert bench.status[name].level == b"\x01"
