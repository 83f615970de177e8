"""Node fusion over real topics: pairs, dead and late partners, missing calibration, every message counted."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    ObjectHypothesisWithPose,
)
from visualization_msgs.msg import MarkerArray

from perception_rt.codec import CameraModel, DetectionEncoder, encode_image, parse_image
from perception_rt.codec.detections3d import Detection3DEncoder, decode_named_detections3d
from perception_rt.node.fusion import FusionNode
from perception_rt.node.source import to_time
from perception_rt.node.transforms import Tf2Listener, TransformListener, subscribe_transforms
from perception_rt.stage.fusion.project import project_boxes
from perception_rt.types import Detections2D, Detections3D, TransformError

from .conftest import stamp_of, wait_for

MS = 1_000_000
CAMERA, LIDAR = "/camera_detector/detections", "/lidar_detector/detections"
K = np.array([[400.0, 0, 320], [0, 400, 180], [0, 0, 1]])
MODEL = CameraModel(0, "camera", 360, 640, "plumb_bob", np.zeros(5), K)
CAMERA_FROM_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
CAR = [15.0, 1.0, -0.9, 4.2, 1.8, 1.55, 0.1]
FAR_BEHIND = [-20.0, 1.0, -0.9, 4.2, 1.8, 1.55, 0.1]


class Rig:
    """Publishes what a camera's and a lidar's detector, a calibrated camera and /tf would."""

    def __init__(self, bench, **values) -> None:
        self.bench = bench
        self.node = bench.start(FusionNode, **values)
        assert bench.up, bench.logs
        node = bench.node
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.camera = node.create_publisher(Detection2DArray, CAMERA, 50)
        self.lidar = node.create_publisher(Detection3DArray, LIDAR, 50)
        self.info = node.create_publisher(CameraInfo, "/camera/camera_info", 5)
        self.tf_static = node.create_publisher(TFMessage, "/tf_static", latched)
        self.tf = node.create_publisher(TFMessage, "/tf", 50)
        self.fused: list = []
        node.create_subscription(Detection3DArray, "/fusion/detections", self.fused.append, 100)
        publishers = (self.camera, self.lidar, self.info, self.tf)
        assert wait_for(lambda: all(p.get_subscription_count() for p in publishers))
        assert wait_for(self.node.component._detections.get_subscription_count)
        self.start_ns = bench.now_ns()

    def calibrate(self, info: bool = True, transform: bool = True, frame: str = "camera") -> None:
        if info:
            message = CameraInfo(
                height=360, width=640, distortion_model="plumb_bob", d=[0.0] * 5, k=K.ravel()
            )
            message.header.frame_id = frame
            self.info.publish(message)
            assert wait_for(lambda: self.node.component._stage.cameras[0].model is not None)
        if transform:
            stamped = TransformStamped(child_frame_id="camera")
            stamped.header.frame_id = "lidar"
            turn = stamped.transform.rotation
            turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
            self.tf_static.publish(TFMessage(transforms=[stamped]))
            assert wait_for(self.knows_transform)

    def knows_transform(self) -> bool:
        try:
            self.node._host.transforms().lookup("camera", "lidar", 0)
        except TransformError:
            return False
        return True

    def see(self, at_ms: float, *boxes, score: float = 0.5, frame: str = "camera") -> int:
        """The camera's detector answers an image with these boxes of space; returns its stamp."""
        stamp = self.start_ns + round(at_ms * MS)
        rows = np.array(boxes, np.float32).reshape(-1, 7)
        xyxy = project_boxes(rows, MODEL, CAMERA_FROM_LIDAR).xyxy
        count = len(rows)
        found = Detections2D(xyxy, np.full(count, score, np.float32), np.zeros(count, np.int64))
        self.camera.publish(DetectionEncoder(["car"]).encode(found, stamp, frame))
        return stamp

    def sweep(self, at_ms: float, *boxes, score: float = 0.5) -> int:
        """The lidar's detector answers a cloud; returns its stamp."""
        stamp = self.start_ns + round(at_ms * MS)
        rows = np.array(boxes, np.float32).reshape(-1, 7)
        count = len(rows)
        found = Detections3D(rows, np.full(count, score, np.float32), np.zeros(count, np.int64))
        self.lidar.publish(Detection3DEncoder(["car"]).encode(found, stamp, "lidar"))
        return stamp

    def answer(self, stamp: int):
        assert wait_for(lambda: any(stamp_of(message) == stamp for message in self.fused)), self.states()
        return next(message for message in self.fused if stamp_of(message) == stamp)

    def states(self) -> dict[str, dict[str, int]]:
        """By stream, the states that are not zero."""
        books = {
            "camera": self.node.component.stats[CAMERA].ledger.snapshot(),
            "lidar": self.node.component.stats[LIDAR].ledger.snapshot(),
        }
        return {
            name: {state: n for state, n in {**book["states"], "pending": book["pending"]}.items() if n}
            for name, book in books.items()
        }

    def reason(self, stream: str, state: str) -> str:
        return self.node.component.stats[CAMERA if stream == "camera" else LIDAR].ledger.snapshot()[
            "reasons"
        ][state]


@pytest.fixture
def rig(bench):
    return lambda **values: Rig(bench, **values)


def test_a_pair_becomes_one_message_with_the_lidars_header(rig):
    rig = rig()
    rig.calibrate()
    rig.see(0, CAR, score=0.6)
    stamp = rig.sweep(20, CAR, FAR_BEHIND, score=0.5)
    rig.see(33, CAR)  # nearer in stamp than the first
    message = rig.answer(stamp)
    assert message.header.frame_id == "lidar"
    assert [detection.id for detection in message.detections] == ["camera+lidar", "lidar"]
    result = message.detections[0].results[0]
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("car", pytest.approx(0.75))
    assert result.pose.covariance[0] > 0
    np.testing.assert_allclose(decode_named_detections3d(message).detections.xyzlwh_yaw[0], CAR, atol=1e-4)
    assert wait_for(lambda: rig.states()["camera"] == {"published": 1, "superseded": 1})
    assert rig.states()["lidar"] == {"published": 1}


def test_an_object_of_the_camera_alone_is_marked_and_widely_uncertain(rig):
    rig = rig(lidar_height_m=1.675)
    rig.calibrate()
    rig.see(0, CAR)
    message = rig.answer(rig.sweep(0))
    assert [detection.id for detection in message.detections] == ["camera"]
    pose = message.detections[0].results[0].pose
    assert pose.covariance[0] > 1.0
    assert pose.pose.position.x == pytest.approx(15, abs=2)


def test_empty_is_a_result(rig):
    rig = rig()
    rig.calibrate()
    rig.see(0)
    assert rig.answer(rig.sweep(0)).detections == []


def test_a_dead_camera_does_not_silence_the_lidar(rig):
    rig = rig(max_wait_ms=30.0)
    rig.calibrate()
    message = rig.answer(rig.sweep(0, CAR))
    assert [detection.id for detection in message.detections] == ["lidar"]
    assert message.detections[0].results[0].hypothesis.score == pytest.approx(0.5)
    assert wait_for(lambda: rig.states()["lidar"] == {"unsynced": 1})
    assert rig.reason("lidar", "unsynced") == "no partner came within 30 ms"
    assert wait_for(lambda: "no messages; publishers on" in rig.bench.message(f"fusion: {CAMERA}"))


def test_partners_outside_of_the_window_and_late_ones_are_named(rig):
    rig = rig(slop_ms=20.0)
    rig.calibrate()
    rig.see(0, CAR)
    first = rig.sweep(30, CAR)
    rig.see(60, CAR)
    rig.answer(first)
    assert wait_for(lambda: rig.states()["lidar"] == {"unsynced": 1})
    assert "the nearest is 30.0 ms away" in rig.reason("lidar", "unsynced")
    rig.see(50, CAR)
    assert wait_for(lambda: rig.states()["camera"].get("late") == 1)
    rig.answer(rig.sweep(70, CAR))
    rig.see(75, CAR)
    assert wait_for(lambda: rig.states()["lidar"] == {"unsynced": 1, "published": 1})


def test_what_is_missing_is_said_in_one_line_and_fusion_begins_once_it_is_there(rig):
    rig = rig()
    status = lambda: rig.bench.message("fusion")  # noqa: E731
    rig.see(0, CAR)
    rig.answer(rig.sweep(0, CAR))
    assert wait_for(lambda: status() == "not fused: no CameraInfo on /camera/camera_info yet")
    assert wait_for(lambda: rig.states() == {"camera": {"unsynced": 1}, "lidar": {"unsynced": 1}})
    rig.calibrate(transform=False)
    rig.see(100, CAR)
    rig.answer(rig.sweep(100, CAR))
    assert wait_for(lambda: status().startswith("not fused: transform camera <- lidar: no frame 'camera'"))
    assert rig.bench.status["fusion"].level == b"\x01"
    rig.calibrate(info=False)
    rig.see(200, CAR)
    assert rig.answer(rig.sweep(200, CAR)).detections[0].id == "camera+lidar"
    assert wait_for(lambda: status() == "running")
    assert wait_for(lambda: rig.states() == {s: {"unsynced": 2, "published": 1} for s in ("camera", "lidar")})


def test_the_info_of_another_camera_is_not_used(rig):
    rig = rig()
    rig.calibrate(frame="rear")
    rig.see(0, CAR)
    assert rig.answer(rig.sweep(0, CAR)).detections[0].id == "lidar"
    assert wait_for(lambda: "CameraInfo is of 'rear'" in rig.bench.message("fusion"))


def test_an_uncalibrated_camera_is_named(rig):
    rig = rig()
    rig.calibrate()
    rig.info.publish(CameraInfo(height=360, width=640))
    assert wait_for(lambda: rig.node.component._stage.cameras[0].model is None)
    rig.see(0, CAR)
    rig.answer(rig.sweep(0, CAR))
    assert wait_for(lambda: "not calibrated" in rig.bench.message("fusion"))


def test_malformed_messages_are_counted_and_the_next_is_answered(rig):
    rig = rig()
    rig.calibrate()
    nameless = Detection2DArray(detections=[Detection2D()])
    rig.camera.publish(nameless)
    box = Detection3D()
    box.results.append(ObjectHypothesisWithPose())
    box.bbox.center.orientation.x = 0.7  # tilted
    rig.lidar.publish(Detection3DArray(detections=[box]))
    rig.lidar.publish(serialize_message(Detection3DArray(detections=[box]))[:-30])
    expected = {"camera": {"decode_error": 1}, "lidar": {"decode_error": 2}}
    assert wait_for(lambda: rig.states() == expected), rig.states()
    assert "hypothesis" in rig.reason("camera", "decode_error")
    rig.see(0, CAR)
    assert rig.answer(rig.sweep(0, CAR)).detections[0].id == "camera+lidar"


def test_motion_between_the_stamps_is_undone_through_a_fixed_frame(rig):
    """The car drives at 50 m/s, and the image is 40 ms older than the cloud: 2 m."""
    rig = rig(fixed_frame="odom", slop_ms=50.0, iou_threshold=0.8)
    rig.calibrate()
    for at_ms in (-100, 100):
        stamped = TransformStamped(child_frame_id="lidar")
        stamped.header.frame_id, stamped.header.stamp = "odom", to_time(rig.start_ns + at_ms * MS)
        stamped.transform.translation.x = at_ms * 0.05
        rig.tf.publish(TFMessage(transforms=[stamped]))
    assert wait_for(lambda: knows(rig, rig.start_ns + 90 * MS))
    ahead = [CAR[0] + 2.0, *CAR[1:]]
    rig.see(-40, ahead)
    assert rig.answer(rig.sweep(0, CAR)).detections[0].id == "camera+lidar"
    rig.see(10, ahead)
    found = {detection.id for detection in rig.answer(rig.sweep(10, CAR)).detections}
    assert found == {"camera", "lidar"}


def knows(rig, stamp: int) -> bool:
    try:
        rig.node._host.transforms().lookup("odom", "lidar", stamp)
    except TransformError:
        return False
    return True


def test_a_transform_that_makes_no_sense_is_warned_of(rig):
    rig = rig()
    stamped = TransformStamped(child_frame_id="camera")
    stamped.header.frame_id = "lidar"
    stamped.transform.rotation.w = 0.0
    rig.tf_static.publish(TFMessage(transforms=[stamped]))
    assert wait_for(lambda: rig.bench.said("/tf_static", "rotation"))


@pytest.mark.parametrize("bgr", [False, True])
def test_markers_and_the_annotated_image_are_made_for_who_watches(rig, bgr):
    rig = rig(image_topic="camera/image_raw")
    rig.calibrate()
    markers: list = []
    images: list = []
    node = rig.bench.node
    node.create_subscription(MarkerArray, "/fusion/markers", markers.append, 10)
    node.create_subscription(Image, "/fusion/image_annotated", images.append, 10)
    publisher = node.create_publisher(
        Image, "/camera/image_raw", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    outputs = rig.node.component._markers, rig.node.component._cameras[0].annotated
    assert wait_for(lambda: all(out.get_subscription_count() for out in outputs))
    assert wait_for(publisher.get_subscription_count)
    pixels = np.full((360, 640, 3), 80, np.uint8)
    publisher.publish(encode_image(pixels, "bgr8" if bgr else "rgb8", rig.start_ns, "camera"))
    assert wait_for(lambda: rig.node.component._cameras[0].images)
    rig.see(0, CAR)
    rig.answer(rig.sweep(0, CAR))
    assert wait_for(lambda: markers and images)
    assert any("camera+lidar" in marker.text for marker in markers[0].markers)
    assert (stamp_of(images[0]), images[0].encoding) == (rig.start_ns, "bgr8" if bgr else "rgb8")
    drawn = parse_image(images[0]).decode().pixels
    x1, y1, x2, y2 = project_boxes(np.array([CAR]), MODEL, CAMERA_FROM_LIDAR).xyxy[0].round().astype(int)
    assert (drawn[y1 - 3 : y2 + 3, x1 - 3 : x2 + 3] != 80).any()
    assert (drawn[300:] == 80).all()


def test_deactivation_ends_what_waits_and_a_restart_goes_on(rig):
    rig = rig(max_wait_ms=1000.0)
    rig.calibrate()
    rig.sweep(0, CAR)
    assert wait_for(lambda: rig.states()["lidar"] == {"pending": 1})
    assert rig.bench.change_state(4, "fusion")
    assert rig.states()["lidar"] == {"superseded": 1}
    heard = [
        subscription for subscription in rig.node._host.subscriptions if "detector" in subscription.topic
    ]
    before = sum(subscription._received for subscription in heard)
    rig.sweep(50, CAR)
    rig.see(50, CAR)
    assert wait_for(lambda: sum(subscription._received for subscription in heard) == before + 2)
    assert rig.bench.change_state(3, "fusion")
    assert rig.states() == {"camera": {}, "lidar": {"superseded": 1}}  # inactive: not received
    rig.see(100, CAR)
    rig.answer(rig.sweep(100, CAR))
    assert rig.bench.change_state(4, "fusion")
    assert rig.bench.change_state(2, "fusion")
    assert rig.bench.change_state(1, "fusion")
    assert rig.bench.change_state(3, "fusion")
    assert wait_for(rig.node.component._detections.get_subscription_count)
    assert wait_for(lambda: rig.bench.node.count_subscribers(LIDAR) == 1)


def test_limits_change_live_and_wrong_ones_are_refused(rig):
    rig = rig()
    assert rig.bench.set_parameter("slop_ms", 5.0, "fusion").successful
    assert rig.node.component._grouping._pairings[0].window_ns == 5 * MS
    refused = rig.bench.set_parameter("slop_ms", -1.0, "fusion")
    assert not refused.successful
    assert not rig.bench.set_parameter("image_topic", "x", "fusion").successful


def test_a_topic_must_be_named(bench):
    bench.start(FusionNode, camera_info_topic="")
    assert not bench.up
    assert bench.said("camera_info_topic=''")


def test_the_transforms_of_tf2_are_the_same(monkeypatch, bench):
    """tf2_ros is not on PyPI: a module with its interface stands for it here."""

    class TransformException(Exception):
        pass

    class Buffer:
        def set_transform_static(self, transform, authority):
            raise AssertionError("nothing is published here")

        def lookup_transform(self, target, source, time):
            if target == "nowhere":
                raise TransformException("no such frame")
            assert (target, source, time.nanoseconds) == ("camera", "lidar", 123)
            move = SimpleNamespace(x=1.0, y=2.0, z=3.0)
            turn = SimpleNamespace(x=0.5, y=-0.5, z=0.5, w=0.5)
            return SimpleNamespace(transform=SimpleNamespace(translation=move, rotation=turn))

    closed = []

    class Listener:
        def __init__(self, buffer, node, spin_thread):
            assert not spin_thread

        def unregister(self):
            closed.append(True)

    module = ModuleType("tf2_ros")
    module.Buffer, module.TransformListener = Buffer, Listener
    module.TransformException = TransformException
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    listener = subscribe_transforms(bench.node)
    assert isinstance(listener, Tf2Listener)
    expected = CAMERA_FROM_LIDAR.copy()
    expected[:3, 3] = 1, 2, 3
    np.testing.assert_allclose(listener.lookup("camera", "lidar", 123), expected, atol=1e-12)
    with pytest.raises(TransformError, match="nowhere <- lidar: no such frame"):
        listener.lookup("nowhere", "lidar", 123)
    listener.close()
    assert closed == [True]


@pytest.mark.parametrize(
    "source", ["from tf2_msgs.srv import NoSuchService", "raise RuntimeError('built for another Python')"]
)
def test_a_broken_tf2_ros_is_replaced_by_our_own_buffer_and_said(monkeypatch, bench, tmp_path, source):
    """Found, but its import fails: as with a reduced tf2_msgs."""
    (tmp_path / "tf2_ros.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tf2_ros", raising=False)
    rig = Rig(bench)
    assert bench.up
    assert isinstance(rig.node._host._transforms, TransformListener)
    assert bench.said("tf2_ros cannot be imported", "our own transform buffer")
