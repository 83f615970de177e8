"""What vehicles in the field bring, over real topics: late, doubled, looped, misnamed and broken messages."""

from __future__ import annotations

import math
import threading

import cv2
import numpy as np
import pytest
import yaml
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from perception_rt.codec import DetectionEncoder, encode_compressed, encode_points
from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.node.fusion import FusionNode
from perception_rt.node.source import to_time
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.stage.fusion.project import project_boxes
from perception_rt.types import Detections2D, Detections3D
from test.domains import claim_domain

from .conftest import block, stamp_of, wait_for
from .recorded import Ear, up
from .test_fusion import CAMERA_FROM_LIDAR, CAR, MODEL, MS, K, Rig
from .test_object_tracker import Driver, known
from .test_vehicle_state import Vehicle

VAN = [25.0, -4.0, -0.7, 5.0, 2.0, 2.0, 0.0]
S = 1_000_000_000


def ids(message) -> list[str]:
    return sorted(detection.id for detection in message.detections)


def info_of(frame: str) -> CameraInfo:
    message = CameraInfo(height=360, width=640, distortion_model="plumb_bob", d=[0.0] * 5, k=K.ravel())
    message.header.frame_id = frame
    return message


def mounting(parent: str, child: str, x: float = 0.0, yaw: float = 0.0) -> TransformStamped:
    """A camera that looks to one side, `x` m ahead of its parent."""
    stamped = TransformStamped(child_frame_id=child)
    stamped.header.frame_id = parent
    stamped.transform.translation.x = x
    turn = stamped.transform.rotation
    s, c = np.sin(yaw / 2) / 2, np.cos(yaw / 2) / 2
    turn.x, turn.y, turn.z, turn.w = -c - s, c - s, s - c, c + s
    return stamped


def test_one_camera_in_the_field(bench):
    """One graph run: slashes, an offset of 80 ms, a doubled stamp, broken boxes, numeric classes, a loop."""
    rig = Rig(bench, max_wait_ms=40.0)
    # The CameraInfo comes late, and its frame and those of /tf have the slash of ROS 1.
    rig.see(0, CAR)
    assert ids(rig.answer(rig.sweep(0, CAR))) == ["lidar"]
    rig.info.publish(info_of("/camera"))
    rig.tf_static.publish(TFMessage(transforms=[mounting("/lidar", "/camera")]))
    assert wait_for(lambda: rig.node.component._stage.cameras[0].model is not None)
    assert wait_for(rig.knows_transform)
    rig.see(100, CAR, frame="/camera")
    assert ids(rig.answer(rig.sweep(100, CAR))) == ["camera+lidar"]

    # The camera's stamps are 80 ms off: named, and within a wider window fused.
    rig.see(280, CAR)
    assert ids(rig.answer(rig.sweep(200, CAR))) == ["lidar"]
    assert wait_for(lambda: "the nearest is 80.0 ms away" in rig.reason("lidar", "unsynced"))
    assert rig.bench.set_parameter("slop_ms", 100.0, "fusion").successful
    rig.see(580, CAR)
    assert ids(rig.answer(rig.sweep(500, CAR))) == ["camera+lidar"]

    # One stamp twice: answered once, the second is counted.
    before, count = rig.states()["lidar"].get("superseded", 0), len(rig.fused)
    rig.sweep(500, CAR, VAN)
    assert wait_for(lambda: rig.states()["lidar"].get("superseded", 0) == before + 1)
    assert len(rig.fused) == count

    # One box that is none loses no other; classes that are numbers stay what they are.
    boxes = np.array([CAR, CAR, CAR], np.float32)
    boxes[0, 0], boxes[1, 3] = np.nan, -4.0
    found = Detections3D(boxes, np.full(3, 0.5, np.float32), np.zeros(3, np.int64))
    stamp = rig.start_ns + 1000 * MS
    rig.see(1000, CAR)
    rig.lidar.publish(Detection3DEncoder(["car"]).encode(found, stamp, "lidar"))
    assert ids(rig.answer(stamp)) == ["camera+lidar"]
    assert wait_for(lambda: rig.bench.diagnostics("fusion").get("rejected_boxes") == "2")
    numbers = Detections3D(boxes[2:], np.full(1, 0.5, np.float32), np.array([2]))
    stamp = rig.start_ns + 1100 * MS
    seen = project_boxes(boxes[2:], MODEL, CAMERA_FROM_LIDAR).xyxy
    image = Detections2D(seen, np.full(1, 0.5, np.float32), np.array([2]))
    rig.camera.publish(DetectionEncoder(["0", "1", "2"]).encode(image, stamp, "camera"))
    rig.lidar.publish(Detection3DEncoder(["0", "1", "2"]).encode(numbers, stamp, "lidar"))
    answer = rig.answer(stamp)
    assert [(d.id, d.results[0].hypothesis.class_id) for d in answer.detections] == [("camera+lidar", "2")]

    # The recording begins anew: 10 s back.
    rig.see(-10_000, CAR)
    assert ids(rig.answer(rig.sweep(-10_000, CAR))) == ["camera+lidar"]
    assert set(rig.states()["lidar"]) == {"published", "unsynced", "superseded"}


def test_transforms_late_with_gaps_and_volatile(bench):
    """One graph run: a volatile /tf_static, odometry that comes after its frame, then a gap in it."""
    rig = Rig(bench, fixed_frame="odom", transform_wait_ms=1000.0)
    rig.info.publish(info_of("camera"))
    rig.bench.node.destroy_publisher(rig.tf_static)
    volatile = rig.bench.node.create_publisher(TFMessage, "/tf_static", QoSProfile(depth=1))
    assert wait_for(lambda: volatile.get_subscription_count() >= 1)
    rig.see(0, CAR)
    stamp = rig.sweep(0, CAR)
    volatile.publish(TFMessage(transforms=[mounting("lidar", "camera")]))
    assert wait_for(lambda: rig.bench.said("/tf_static is volatile", "bench"))
    assert wait_for(rig.knows_transform)
    move(rig, -100)
    move(rig, 100)  # after the frame: it waited
    assert ids(rig.answer(stamp)) == ["camera+lidar"]
    # Interpolated over a gap of 3 s; beyond the newest transform nothing is made up.
    move(rig, 3100)
    rig.see(2000, CAR)
    assert ids(rig.answer(rig.sweep(2000, CAR))) == ["camera+lidar"]
    assert rig.bench.set_parameter("transform_wait_ms", 50.0, "fusion").successful
    rig.see(4000, CAR)
    assert ids(rig.answer(rig.sweep(4000, CAR))) == ["lidar"]
    assert wait_for(lambda: "after the newest transform" in rig.reason("lidar", "unsynced"))


def move(rig: Rig, at_ms: float) -> None:
    stamped = TransformStamped(child_frame_id="lidar")
    stamped.header.frame_id, stamped.header.stamp = "odom", to_time(rig.start_ns + at_ms * MS)
    rig.tf.publish(TFMessage(transforms=[stamped]))


def test_two_of_everything(bench):
    """Cameras that look ahead and to the left, two lidars, one list in base_link; then one of each dies."""
    cameras, lidars = ("/front/detections", "/left/detections"), ("/roof/detections", "/rear/detections")
    infos = ("/front/camera_info", "/left/camera_info")
    node = bench.start(
        FusionNode,
        detections_2d_topics=list(cameras),
        camera_info_topics=list(infos),
        detections_3d_topics=list(lidars),
        base_frame="base_link",
        max_wait_ms=200.0,
    )
    assert bench.up, bench.logs
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    out2 = [bench.publisher(topic, "reliable", Detection2DArray) for topic in cameras]
    out3 = [bench.publisher(topic, "reliable", Detection3DArray) for topic in lidars]
    out_info = [bench.publisher(topic, "reliable", CameraInfo) for topic in infos]
    static = bench.node.create_publisher(TFMessage, "/tf_static", latched)
    fused = bench.listen("/fusion/detections", Detection3DArray)
    assert wait_for(lambda: all(p.get_subscription_count() for p in (*out2, *out3, *out_info)))
    assert wait_for(node.component._detections.get_subscription_count)
    yaw = np.deg2rad(60)
    lidar_frames = [TransformStamped(child_frame_id=name) for name in ("roof", "rear")]
    for one, x in zip(lidar_frames, (1.0, -2.0), strict=True):
        one.header.frame_id, one.transform.translation.x = "base_link", x
    mounts = [mounting("base_link", "front", 1.0), mounting("base_link", "left", 1.0, yaw)]
    static.publish(TFMessage(transforms=[*lidar_frames, *mounts]))
    for out, frame in zip(out_info, ("front", "left"), strict=True):
        out.publish(info_of(frame))
    assert wait_for(lambda: all(camera.model for camera in node.component._stage.cameras))

    # In base_link: ahead, in both images, and behind; cameras and lidar `roof` are 1 m ahead of it.
    ahead, both = [21.0, 0, -0.9, 4.2, 1.8, 1.55, 0], [13.0, 7.5, -0.9, 4.2, 1.8, 1.55, 0]
    behind = [-15.0, 2, -0.9, 4.2, 1.8, 1.55, 0]
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]]
    shift = np.eye(4)
    shift[0, 3] = -1
    ways = [CAMERA_FROM_LIDAR @ shift, CAMERA_FROM_LIDAR @ turn @ shift]

    def see(index: int, stamp: int, boxes: list) -> None:
        seen = project_boxes(np.array(boxes), MODEL, ways[index])
        xyxy = seen.xyxy[seen.visible]
        count = len(xyxy)
        message = Detections2D(xyxy, np.full(count, 0.5, np.float32), np.zeros(count, np.int64))
        out2[index].publish(DetectionEncoder(["car"]).encode(message, stamp, ("front", "left")[index]))

    def sweep(index: int, stamp: int, boxes: list) -> None:
        rows = np.array(boxes, np.float32)
        rows[:, 0] -= (1.0, -2.0)[index]
        message = Detections3D(rows, np.full(len(rows), 0.6, np.float32), np.zeros(len(rows), np.int64))
        out3[index].publish(Detection3DEncoder(["car"]).encode(message, stamp, ("roof", "rear")[index]))

    stamp = bench.now_ns()
    see(0, stamp, [ahead, both])
    see(1, stamp + 10 * MS, [both])
    sweep(1, stamp + 5 * MS, [behind, both])  # the rear lidar sees one of the roof's too
    sweep(0, stamp, [ahead, both])
    assert wait_for(lambda: fused)
    answer = fused[0]
    assert (answer.header.frame_id, stamp_of(answer)) == ("base_link", stamp)
    assert ids(answer) == ["camera+lidar", "camera+lidar", "lidar"]
    places = sorted(round(one.bbox.center.position.x) for one in answer.detections)
    assert places == [-15, 13, 21]

    def states() -> dict[str, dict[str, int]]:
        books = {topic: stats.ledger.snapshot()["states"] for topic, stats in node.component.stats.items()}
        return {topic: {state: n for state, n in book.items() if n} for topic, book in books.items()}

    assert wait_for(lambda: states() == {topic: {"published": 1} for topic in (*lidars, *cameras)}), states()
    # The left camera and the rear lidar are gone: the others go on.
    later = stamp + 500 * MS
    see(0, later, [ahead, both])
    sweep(0, later, [ahead, both])
    assert wait_for(lambda: len(fused) == 2)
    assert ids(fused[1]) == ["camera+lidar", "camera+lidar"]
    assert wait_for(lambda: states()[lidars[0]] == states()[cameras[0]] == {"published": 2}), states()
    # Neither camera: the lidar alone, with the reason.
    sweep(0, stamp + S, [ahead])
    assert wait_for(lambda: len(fused) == 3)
    assert wait_for(lambda: states()[lidars[0]] == {"published": 2, "unsynced": 1})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"detections_2d_topics": ["/a", "/b"], "camera_info_topics": ["/i"]}, "one for each of 2 cameras"),
        ({"detections_2d_topics": ["/a", "/a"], "camera_info_topics": ["/i", "/j"]}, "each once"),
    ],
)
def test_lists_that_do_not_fit_fail_the_start_with_the_reason(bench, values, reason):
    bench.start(FusionNode, **values)
    assert not bench.up
    assert bench.said(reason)


def test_a_tracker_in_the_field(bench):
    """One graph run: a doubled stamp (dt 0), NaN and negative sizes, numeric classes, a loop."""
    driver = Driver(bench, fixed_frame="")
    for k in range(5):
        assert driver.boxes(k, (10 + k, 3, 0)) == {"published": 1}
    again = driver.boxes(4, (14, 3, 0))  # the same moment twice: no speed comes of it
    assert set(again) <= {"published", "superseded", "late"}
    rows = np.array([(15, 3, 0.8, 4.2, 1.8, 1.6, 0)] * 3, np.float32)
    rows[0, 1], rows[1, 4] = np.nan, -1.8
    found = Detections3D(rows, np.full(3, 0.95, np.float32), np.zeros(3, np.int64))
    message = Detection3DEncoder(("car",)).encode(found, 1_000 * S + 5 * S // 10, "lidar")
    assert driver.publish(message) == {"published": 1}
    assert len(driver.last(driver.tracks, 5).detections) == 1
    assert wait_for(lambda: bench.diagnostics("object_tracker").get("rejected_boxes") == "2")
    one = found[np.array([False, False, True])]
    numeric = Detection3DEncoder(("7",)).encode(one, 1_000 * S + 6 * S // 10, "lidar")
    assert driver.publish(numeric) == {"published": 1}
    for k in range(-100, -90):  # the recording begins anew
        assert driver.boxes(k, (10 + k, 3, 0)) == {"published": 1}
    assert len(driver.last(driver.tracks, -91).detections) == 1
    tracked = driver.last(driver.tracks, -91).detections[0]
    assert tracked.bbox.center.position.x == pytest.approx(10 - 91, abs=0.5)


def test_a_tracker_whose_transforms_come_late_or_with_gaps(bench):
    """One graph run: odometry comes after its frame, with a gap of 3 s, and stops; frames have slashes."""
    driver = Driver(bench, fixed_frame="/odom", transform_wait_ms=1000.0)
    driver.pose(-1, -1.0)
    assert wait_for(lambda: known(driver, -1))
    sent = threading.Timer(0.2, driver.pose, (1, 1.0))  # while the frame waits for it
    sent.start()
    assert driver.boxes(0, (40, 2, 0), frame="/lidar") == {"published": 1}
    sent.join()
    driver.pose(31, 31.0)
    assert wait_for(lambda: known(driver, 31))
    for k in (2, 3, 4):  # between two transforms 3 s apart
        assert driver.boxes(k, (40 - k, 2, 0)) == {"published": 1}
    (track,) = driver.last(driver.tracks, 4).detections
    assert driver.last(driver.tracks, 4).header.frame_id == "odom"
    assert track.bbox.center.position.x == pytest.approx(40, abs=0.3)
    assert bench.set_parameter("transform_wait_ms", 50.0, "object_tracker").successful
    assert driver.boxes(40, (0, 2, 0)) == {"unsynced": 1}
    assert "after the newest transform" in driver.book()["reasons"]["unsynced"]
    driver.pose(42, 42.0)
    assert wait_for(lambda: known(driver, 41))
    assert driver.boxes(41, (-1, 2, 0)) == {"published": 1}


def test_a_vehicle_in_the_field(bench):
    """One graph run: doubled stamps, slashes, broken covariances, a quantity not given, a loop."""
    vehicle = Vehicle(bench, frame_id="/odom", base_frame="/base_link")
    for tick in range(40):
        reading, odometry = vehicle.imu(tick / 50), vehicle.odom(tick / 50)
        reading.header.frame_id = odometry.child_frame_id = "/base_link"
        odometry.header.frame_id = "/odom"
        assert vehicle.publish("imu", reading) == {"published": 1}
        assert vehicle.publish("odom_in", odometry, "odometry") == {"published": 1}
    # The same moment once more: at most once in the estimate, and no division by a time of 0.
    assert set(vehicle.publish("imu", vehicle.imu(39 / 50))) <= {"published", "superseded"}
    again = vehicle.odom(39 / 50)
    assert set(vehicle.publish("odom_in", again, "odometry")) <= {"published", "superseded"}
    odometry = vehicle.odom(0.79)
    odometry.twist.covariance[0] = math.nan  # as if it were not given: the speed is used
    assert vehicle.publish("odom_in", odometry, "odometry") == {"published": 1}
    odometry = vehicle.odom(0.8)
    odometry.twist.covariance[0] = odometry.pose.covariance[0] = -1.0
    assert set(vehicle.publish("odom_in", odometry, "odometry")) <= {"published", "rejected"}
    odometry = vehicle.odom(0.82)
    odometry.pose.pose.orientation.w = odometry.pose.pose.orientation.z = 0.0
    assert vehicle.publish("odom_in", odometry, "odometry") == {"published": 1}
    # The recording begins anew, 100 s back.
    vehicle.began = bench.now_ns() - 100 * S
    states = [vehicle.publish("odom_in", vehicle.odom(tick / 50), "odometry") for tick in range(80)]
    first = states.index({"published": 1})
    assert first <= 50  # a few could be stray ones
    assert states[first:] == [{"published": 1}] * (80 - first)
    begun = vehicle.stamp(0.0)
    assert wait_for(lambda: any(begun <= stamp_of(m) < begun + 50 * S for m in vehicle.odometry))
    last = vehicle.odometry[-1]
    assert (last.header.frame_id, last.child_frame_id) == ("odom", "base_link")
    assert np.isfinite([*last.pose.covariance, last.pose.pose.position.x, last.twist.twist.linear.x]).all()


def test_a_lidar_in_the_field(run_lidar):
    """One graph run: one stamp twice, NaN everywhere, a frame with a slash, a loop."""
    lidar = run_lidar()
    now = lidar.bench.now_ns()
    for stamp in (now, now, now - 60 * S, now - 59 * S, now):
        lidar.ask(stamp_ns=stamp)
    assert (lidar.count("published"), lidar.count("late")) == (5, 0)
    nothing = np.full((50, 4), np.nan, np.float32)
    assert list(lidar.ask(nothing, stamp_ns=now + S).detections) == []
    lidar.publisher.publish(encode_points(block(), now + 2 * S, "/lidar"))
    assert len(lidar.answer(now + 2 * S).detections) == 1


def test_pictures_in_the_field(run_camera):
    """One graph run: a dark picture of 12 bits, JPEGs of a mosaic, without end mark and cut, a video."""
    raw, jpeg = run_camera.several(["/a/image_raw", "/b/image_raw/compressed"])
    pixels = np.zeros((120, 160), np.uint16)
    pixels[20:50, 10:40] = 0x0FFF
    for _ in range(2):
        message = Image(height=120, width=160, encoding="mono16", step=320, data=pixels.tobytes())
        message.header.frame_id = "dim"
        assert raw.publish(message) == {"published": 1}
    said = [line for line in raw.bench.logs if "'dim' is nearly black, its values use 12" in line]
    assert len(said) == 1

    # What the detector finds is red: of a grey mosaic it would find nothing.
    mosaic = np.zeros((120, 160), np.uint8)
    mosaic[20:50:2, 10:40:2] = 255
    data = cv2.imencode(".jpg", mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()

    def show(data: bytes, named: str, stamp: int) -> dict:
        return jpeg.publish(encode_compressed(data, named, stamp, "camera"))

    stamp = jpeg.bench.now_ns()
    assert show(data, "bayer_rggb8; jpeg compressed ", stamp) == {"published": 1}
    assert len(jpeg.answer(stamp).detections) == 1
    assert show(data[:-2], "bayer_rggb8; jpeg compressed ", stamp + 1) == {"published": 1}
    assert show(data[: len(data) * 2 // 3] + b"\xff\xd9", "jpeg", stamp + 2) == {"decode_error": 1}
    assert "ends before its picture does" in jpeg.book()["reasons"]["decode_error"]
    assert show(b"\0\0\0\1\x67" + bytes(40), "h264", stamp + 3) == {"decode_error": 1}
    assert "image_transport republish" in jpeg.book()["reasons"]["decode_error"]


@pytest.mark.parametrize("separate", [False, True], ids=["one process", "a process each"])
def test_a_recording_of_one_moment_is_answered_though_nothing_follows(tmp_path, separate):
    """Fusion waits in simulated time for a camera that never comes, and the player is at its end."""
    domain, _lock = claim_domain()
    found = Detections3D(np.array([CAR], np.float32), np.full(1, 0.5, np.float32), np.zeros(1, np.int64))
    with BagWriter(tmp_path / "moment") as writer:
        data = Detection3DEncoder(["car"]).encode(found, 1_700_000_000 * S, "lidar")
        writer.write("/boxes", "vision_msgs/msg/Detection3DArray", 1_700_000_000 * S, data)
    graph = {
        "fusion": {"use_sim_time": True, "detections_3d_topic": "/boxes", "max_wait_ms": 1000.0},
        "bag_player": {"bag": str(tmp_path / "moment"), "speed": 0.2, "listeners": ["/fusion/detections"]},
    }
    config = tmp_path / "graph.yaml"
    config.write_text(yaml.safe_dump({name: {"ros__parameters": one} for name, one in graph.items()}))
    with Ear(domain) as ear, up(domain, config, separate=separate) as process:
        assert wait_for(lambda: ear.answers["/fusion/detections"] or process.poll() is not None, 60)
        assert ear.answers["/fusion/detections"]
        assert process.wait(20) == 0
        assert wait_for(lambda: "fusion: /boxes" in ear.status)
        assert ear.status["fusion: /boxes"]["pending"] == "0"


@pytest.mark.parametrize("node", ["lidar_detector", "object_tracker", "vehicle_state"])
def test_stamps_of_zero_are_named_and_answered(bench, run_lidar, node):
    """Of a driver that never sets them."""
    if node == "lidar_detector":
        lidar = run_lidar()
        for _ in range(6):
            lidar.ask(stamp_ns=0)
        assert lidar.count("published") == 6
        name, answers = f"{node}: /points", lidar.found
    elif node == "object_tracker":
        driver = Driver(bench, fixed_frame="")
        car = Detections3D(np.array([CAR], np.float32), np.full(1, 0.9, np.float32), np.zeros(1, np.int64))
        for _ in range(6):
            driver.publish(Detection3DEncoder(("car",)).encode(car, 0, "lidar"))
        name, answers = driver.name, driver.tracks
    else:
        vehicle = Vehicle(bench, imu_topic="")
        vehicle.stamp = lambda t: 0
        for _ in range(6):
            vehicle.publish("odom_in", vehicle.odom(0.0), "odometry")
        name, answers = f"{node}: /odom_in", vehicle.odometry
    assert wait_for(lambda: "all stamps are 0: the driver must set header.stamp" in bench.message(name))
    assert bench.status[name].level == b"\x01"
    assert answers
