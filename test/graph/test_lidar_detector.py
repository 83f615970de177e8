"""The lidar detector over real topics: the camera's guarantees, and what only clouds do."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2, PointField
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from perception_rt.codec.encode import encode_points
from perception_rt.node.source import to_time
from perception_rt.types import TransformError

from .conftest import block, check_sum, stamp_of, wait_for


def numbers(detection) -> list[float]:
    """Centre, size, and the two parts of the orientation that a yaw turns."""
    box = detection.bbox
    place, turn, size = box.center.position, box.center.orientation, box.size
    return [place.x, place.y, place.z, size.x, size.y, size.z, turn.z, turn.w]


def cloud(lidar, points: np.ndarray, **fields) -> PointCloud2:
    """A good cloud of x y z float32 and the fields given instead."""
    data = np.ascontiguousarray(points[:, :3], np.float32)
    named = [
        PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate("xyz")
    ]
    values = {"height": 1, "width": len(data), "point_step": 12, "row_step": 12 * len(data)}
    message = PointCloud2(**values | {"fields": named, "data": data.tobytes(), "is_dense": True} | fields)
    message.header.stamp = lidar.bench.node.get_clock().now().to_msg()
    message.header.frame_id = "lidar"
    return message


def test_every_cloud_is_answered_with_its_own_stamp_and_frame(run_lidar):
    lidar = run_lidar(rate_hz=20.0)
    stamps = [stamp_of(lidar.ask(block(x))) for x in (10, 20, 30)]
    assert [stamp_of(message) for message in lidar.found] == stamps
    for message, x in zip(lidar.found, (10, 20, 30), strict=True):
        assert message.header.frame_id == "lidar"
        (detection,) = message.detections
        assert numbers(detection) == pytest.approx([x, 0, 0, 4, 2, 1, 0, 1], abs=1e-5)
        assert detection.results[0].hypothesis.class_id == "thing"
        assert detection.results[0].hypothesis.score == pytest.approx(0.9)
        assert detection.results[0].pose.pose == detection.bbox.center
    assert lidar.book()["received"] == lidar.count("published") == 3


def test_a_cloud_without_points_publishes_an_empty_array(run_lidar):
    lidar = run_lidar()
    assert list(lidar.ask(np.zeros((0, 4), np.float32)).detections) == []
    assert list(lidar.ask(block()[:50]).detections) == []


def test_points_without_a_place_are_dropped_and_counted(run_lidar):
    lidar = run_lidar()
    points = block()
    points[3, 0], points[5, 2], points[7, 1] = np.nan, np.inf, -np.inf
    points[9, 3] = np.nan  # an intensity is no place
    (detection,) = lidar.ask(points).detections
    assert numbers(detection)[:3] == pytest.approx([10, 0, 0], abs=1e-5)
    lidar.ask(points)
    assert wait_for(lambda: lidar.status().get("points_dropped") == "6")


@pytest.mark.parametrize("big", [False, True])
def test_any_layout_is_read(run_lidar, big):
    lidar, points = run_lidar(), block()
    order = ">" if big else "<"
    layout = np.dtype(
        {
            "names": ["ring", "z", "intensity", "y", "x"],
            "formats": [f"{order}u2", f"{order}f8", "u1", f"{order}f8", f"{order}f8"],
            "offsets": [0, 4, 13, 16, 32],
            "itemsize": 48,
        }
    )
    data = np.zeros(len(points), layout)
    for name, column in (("x", 0), ("y", 1), ("z", 2)):
        data[name] = points[:, column]
    kinds = {"u2": PointField.UINT16, "f8": PointField.FLOAT64, "u1": PointField.UINT8}
    fields = [
        PointField(name=name, offset=offset, datatype=kinds[kind.str[1:]], count=1)
        for name, (kind, offset) in layout.fields.items()
    ]
    organised = {"height": 4, "width": len(points) // 4, "point_step": 48, "row_step": 48 * len(points) // 4}
    message = cloud(lidar, points, fields=fields, data=data.tobytes(), is_bigendian=big, **organised)
    assert lidar.publish(message) == {"published": 1}
    assert wait_for(lambda: lidar.found)
    assert numbers(lidar.found[0].detections[0])[:6] == pytest.approx([10, 0, 0, 4, 2, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"fields": []}, "fields"),
        ({"point_step": 0}, "point_step=0"),
        ({"point_step": 8}, "point_step"),
        ({"data": b""}, "data=0"),
        ({"row_step": 7, "width": 1}, "row_step=7"),
        ({"width": 2**31, "height": 2**31}, "row_step"),
    ],
)
def test_a_malformed_cloud_is_counted_and_named(run_lidar, fields, reason):
    lidar = run_lidar()
    assert lidar.publish(cloud(lidar, block(), **fields)) == {"decode_error": 1}
    assert reason in lidar.book()["reasons"]["decode_error"]
    lidar.ask()
    assert lidar.count("published") == 1


def test_an_oversized_cloud_and_a_torn_one_are_refused(run_lidar):
    lidar = run_lidar(max_cloud_mb=0.1)
    assert lidar.publish(encode_points(block(n=5000), lidar.bench.now_ns(), "lidar")) == {"decode_error": 1}
    assert "limit" in lidar.book()["reasons"]["decode_error"]
    assert lidar.publish(encode_points(block(), lidar.bench.now_ns(), "lidar")[:90]) == {"decode_error": 1}
    lidar.ask()


def test_a_model_that_raises_costs_one_cloud(run_lidar):
    lidar = run_lidar()
    assert lidar.publish(encode_points(block()[:13], lidar.bench.now_ns(), "lidar")) == {"model_error": 1}
    assert "thirteen" in lidar.book()["reasons"]["model_error"]
    lidar.ask()


def test_a_burst_leaves_no_queue_and_the_newest_is_answered(run_lidar):
    lidar = run_lidar(rate_hz=5.0)
    lidar.ask()
    for _ in range(100):
        last = lidar.send()
        time.sleep(0.002)
    lidar.answer(last, timeout_s=5.0)
    assert wait_for(lambda: lidar.book()["pending"] == 0)
    book = lidar.book()
    assert book["states"]["published"] + book["states"]["superseded"] == book["received"]
    assert book["states"]["superseded"] > book["states"]["published"]


def test_several_lidars_have_topics_and_books_of_their_own(run_lidar):
    front, rear = run_lidar("/front/points", "/rear/points", batch_wait_ms=300.0)
    assert (front.output, rear.output) == (
        "/lidar_detector/front/detections",
        "/lidar_detector/rear/detections",
    )
    stamps = front.send(block(10)), rear.send(block(20, 50))
    assert front.answer(stamps[0]).detections[0].bbox.center.position.x == pytest.approx(10)
    assert rear.answer(stamps[1]).detections[0].bbox.center.position.x == pytest.approx(20)
    assert front.book()["received"] == rear.book()["received"] == 1


def test_markers_are_published_for_subscribers(run_lidar):
    lidar = run_lidar()
    lidar.ask()
    seen = lidar.bench.listen("/lidar_detector/markers", MarkerArray)
    assert wait_for(lidar.node.component._markers[lidar.topic].get_subscription_count)
    stamp = stamp_of(lidar.ask())
    assert wait_for(lambda: seen)
    drawn = [marker for marker in seen[0].markers if marker.action == 0]
    assert {marker.header.frame_id for marker in drawn} == {"lidar"}
    assert {stamp_of(marker) for marker in drawn} == {stamp}
    assert any((m.scale.x, m.scale.y, m.scale.z) == pytest.approx((4, 2, 1)) for m in drawn)
    assert any("thing" in marker.text for marker in drawn)


def test_diagnostics_tell_ledger_times_and_bundle(run_lidar):
    lidar = run_lidar()
    for _ in range(3):
        lidar.ask()
    assert wait_for(lambda: lidar.status().get("published") == "3")
    whole, stream = lidar.bench.diagnostics("lidar_detector"), lidar.status()
    assert whole["bundle"] == "tall"
    check_sum(stream)
    assert stream["points_dropped"] == "0"
    for stage in ("age", "wait", "decode", "infer", "publish"):
        assert 0 <= float(stream[f"{stage}_ms_p50"]) <= float(stream[f"{stage}_ms_p99"])


def test_the_bundle_is_swapped_while_it_runs_and_a_cameras_is_refused(run_lidar, failing):
    lidar = run_lidar(bundle_folders=[str(Path(failing).parent)])
    bench = lidar.bench
    lidar.ask()
    assert bench.set_parameter("bundle", failing, "lidar_detector").successful
    answer = bench.swap("lidar_detector")
    assert wait_for(answer.done, 30.0)
    assert not answer.result().success
    assert "task is detect2d, this node needs detect3d" in answer.result().message
    lidar.ask()
    assert bench.set_parameter("bundle", "bev_cluster", "lidar_detector").successful
    answer = bench.swap("lidar_detector")
    assert wait_for(answer.done, 60.0)
    assert answer.result().success, answer.result().message
    lidar.ask()
    assert wait_for(lambda: bench.diagnostics("lidar_detector").get("bundle") == "bev_cluster")


def bent_block(x: float, speed: float, yaw_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """The block as a lidar at the base sees it that moves so: points, and their times before the stamp, s."""
    still = block(x)[:, :3].astype(np.float64)
    times = np.random.default_rng(1).uniform(-0.1, 0, len(still))
    times[:2] = -0.1, 0.0
    angle = yaw_rate * times
    moved = still[:, :2] - speed / yaw_rate * np.column_stack((np.sin(angle), 1 - np.cos(angle)))
    seen = still.copy()
    seen[:, 0] = np.cos(angle) * moved[:, 0] + np.sin(angle) * moved[:, 1]
    seen[:, 1] = np.cos(angle) * moved[:, 1] - np.sin(angle) * moved[:, 0]
    return seen.astype(np.float32), times.astype(np.float32)


def timed(lidar, points: np.ndarray, times: np.ndarray, frame: str, stamp: int) -> PointCloud2:
    """A cloud as Velodyne's driver publishes it: each point with its time before the stamp."""
    kind = {"datatype": PointField.FLOAT32, "count": 1}
    fields = [PointField(name=n, offset=4 * i, **kind) for i, n in enumerate(("x", "y", "z", "time"))]
    data = np.column_stack((points, times)).astype(np.float32).tobytes()
    message = cloud(lidar, points, fields=fields, data=data, point_step=16, row_step=16 * len(points))
    message.header.frame_id, message.header.stamp = frame, to_time(stamp)
    return message


def test_the_motion_within_a_sweep_is_undone_by_what_tf_tells(run_lidar):
    """Two lidars; odometry comes live after the first clouds, at 50 Hz and 60 ms late, then stops."""
    front, rear = run_lidar("/front/points", "/rear/points", batch_wait_ms=0.0)
    speed, yaw_rate, bench = 15.0, 0.3, front.bench
    static = bench.node.create_publisher(
        TFMessage, "/tf_static", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    moving = bench.node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
    assert wait_for(lambda: static.get_subscription_count() and moving.get_subscription_count())
    began = bench.now_ns()

    def see(lidar, frame: str, x: float) -> list[float]:
        stamp = bench.now_ns()
        assert lidar.publish(timed(lidar, *bent_block(x, speed, yaw_rate), frame, stamp)) == {"published": 1}
        return numbers(lidar.answer(stamp).detections[0])

    def drive(until: int, since: int) -> None:
        for at in range(since, until, 20_000_000):
            turned = yaw_rate * (at - began) / 1e9
            pose = TransformStamped(child_frame_id="base_link")
            pose.header.frame_id, pose.header.stamp = "odom", to_time(at)
            place, turn = pose.transform.translation, pose.transform.rotation
            place.x, place.y = speed / yaw_rate * np.sin(turned), speed / yaw_rate * (1 - np.cos(turned))
            turn.z, turn.w = np.sin(turned / 2), np.cos(turned / 2)
            moving.publish(TFMessage(transforms=[pose]))

    # Without /tf the cloud goes on as it is: more than 1 m too long, counted, and said once.
    for _ in range(2):
        assert see(front, "base_link", 20)[3] > 5
    assert wait_for(lambda: front.status().get("clouds_without_motion") == "2")
    assert len([line for line in bench.logs if "motion within a sweep is not undone" in line]) == 1

    # The rear lidar looks back: what lies ahead of it is behind the vehicle.
    back = TransformStamped(child_frame_id="rear")
    back.header.frame_id, back.transform.rotation.z, back.transform.rotation.w = "base_link", 1.0, 0.0
    static.publish(TFMessage(transforms=[back]))
    drive(bench.now_ns() - 60_000_000, began - 500_000_000)
    transforms = front.node.component._transforms
    assert wait_for(lambda: knows(transforms, "odom", "base_link") and knows(transforms, "base_link", "rear"))
    assert see(front, "base_link", 20)[:6] == pytest.approx([20, 0, 0, 4, 2, 1], abs=0.03)
    points, times = bent_block(-20, speed, yaw_rate)
    points[:, :2] *= -1
    stamp = bench.now_ns()
    assert rear.publish(timed(rear, points, times, "rear", stamp)) == {"published": 1}
    assert numbers(rear.answer(stamp).detections[0])[:6] == pytest.approx([20, 0, 0, 4, 2, 1], abs=0.03)
    rear.ask()  # no times
    assert wait_for(lambda: rear.status().get("clouds_without_times") == "1")
    for lidar, skewed in ((front, "2"), (rear, "0")):
        assert wait_for(lambda lidar=lidar: lidar.status().get("clouds_deskewed") == "1")
        assert lidar.status()["clouds_without_motion"] == skewed


def knows(transforms, target: str, source: str) -> bool:
    """Whether the buffer has a way between two frames."""
    try:
        transforms.lookup(target, source, 0)
    except TransformError:
        return False
    return True


def test_it_goes_round(run_lidar):
    lidar = run_lidar()
    for _ in range(2):
        lidar.ask()
        assert lidar.count("published") == 1
        for transition in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
            number = getattr(Transition, f"TRANSITION_{transition}")
            assert lidar.bench.change_state(number, "lidar_detector"), transition
        lidar.rewire()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"points_topics": ["/a/points", "/a/points"]}, "each once"),
        ({"bundle": "sim_camera"}, "task is detect2d"),
    ],
)
def test_parameters_that_cannot_work_fail_the_start_with_the_reason(bench, tall, values, reason):
    from perception_rt.node.lidar_detector import LidarDetectorNode

    bench.start(LidarDetectorNode, **{"bundle": tall, "device": "cpu"} | values)
    assert not bench.up
    assert bench.said("cannot configure", reason), bench.logs
