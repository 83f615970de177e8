"""The tracker over real topics: ids that stay, frames that stand still, every message accounted for."""

from __future__ import annotations

import math
import time
from threading import Thread

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from perception_rt.codec.detections import DetectionEncoder
from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.codec.encode import encode_image
from perception_rt.node.object_tracker import ObjectTrackerNode
from perception_rt.node.source import to_time
from perception_rt.types import Detections2D, Detections3D

from .conftest import stamp_of, wait_for

CLASSES = ("car", "pedestrian")
START, STEP = 1_000 * 10**9, 10**8
TOPIC = "/lidar_detector/detections"


class Driver:
    """Feeds a tracker frame by frame, in lockstep."""

    def __init__(self, bench, kind=Detection3DArray, **values) -> None:
        self.bench = bench
        self.node = bench.start(ObjectTrackerNode, **values)
        assert bench.up, bench.logs
        topic = values.get("detections_topic", TOPIC)
        self.publisher = bench.publisher(topic, "reliable", kind)
        self.tf = bench.publisher("/tf", "reliable", TFMessage)
        self.tracks = bench.listen("/object_tracker/tracks", kind)
        self.predictions = bench.listen("/object_tracker/predictions", Detection3DArray)
        self.name = f"object_tracker: {topic}"
        assert wait_for(self.publisher.get_subscription_count)
        assert wait_for(self.node.component._tracks.get_subscription_count)

    def book(self) -> dict:
        return self.node.component._stats.ledger.snapshot()

    def publish(self, message: bytes) -> dict:
        """Publish and wait for the end of the message; returns the states that changed."""
        before = self.book()
        self.publisher.publish(message)
        assert wait_for(lambda: self.book()["received"] > before["received"]), "never arrived"
        assert wait_for(lambda: self.book()["pending"] == 0)
        after = self.book()["states"]
        return {s: n - before["states"][s] for s, n in after.items() if n > before["states"][s]}

    def boxes(self, k: int, *boxes: tuple, labels=None, frame: str = "lidar", step_ns: int = STEP) -> dict:
        """Publish the k-th frame: boxes are x y yaw."""
        rows = np.array([(x, y, 0.8, 4.2, 1.8, 1.6, yaw) for x, y, yaw in boxes], np.float32).reshape(-1, 7)
        labels = np.array(labels if labels is not None else [0] * len(rows), np.int64)
        found = Detections3D(rows, np.full(len(rows), 0.95, np.float32), labels)
        return self.publish(Detection3DEncoder(CLASSES).encode(found, START + k * step_ns, frame))

    def last(self, kept: list, k: int):
        """The message of the k-th frame."""
        assert wait_for(lambda: any(stamp_of(m) == START + k * STEP for m in kept))
        return next(m for m in kept if stamp_of(m) == START + k * STEP)

    def pose(self, k: int, x: float, yaw: float = 0.0) -> None:
        """Where the lidar is in odom at the k-th frame."""
        transform = TransformStamped(child_frame_id="lidar")
        transform.header.frame_id, transform.header.stamp = "odom", to_time(START + k * STEP)
        transform.transform.translation.x = float(x)
        transform.transform.rotation.z, transform.transform.rotation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        self.tf.publish(TFMessage(transforms=[transform]))


def test_ids_stay_and_a_moving_car_is_predicted_ahead(bench):
    driver = Driver(bench, fixed_frame="", horizon_s=2.0, step_s=0.5)
    for k in range(20):  # 10 m/s along x, and a car that stands
        assert driver.boxes(k, (10 + k, 3, 0), (30, -4, 1.0)) == {"published": 1}
    tracks = driver.last(driver.tracks, 19)
    assert tracks.header.frame_id == "lidar"
    ids = {round(t.bbox.center.position.x): t.id for t in tracks.detections}
    assert set(ids) == {29, 30}
    first = {t.id for t in driver.last(driver.tracks, 5).detections}
    assert first == set(ids.values())
    assert all(t.results[0].hypothesis.class_id == "car" for t in tracks.detections)
    assert all(t.results[0].pose.covariance[0] > 0 for t in tracks.detections)
    ahead = [p for p in driver.last(driver.predictions, 19).detections if p.id == ids[29]]
    stamps = [stamp_of(p) - (START + 19 * STEP) for p in ahead]
    assert stamps == [k * 500_000_000 for k in (1, 2, 3, 4)]
    for seconds, p in zip((0.5, 1.0, 1.5, 2.0), ahead, strict=True):
        assert p.bbox.center.position.x == pytest.approx(29 + 10 * seconds, abs=1.5)
        assert p.bbox.size.x == pytest.approx(4.2, abs=0.2)
    spread = [p.results[0].pose.covariance[0] for p in ahead]
    assert spread == sorted(spread)
    still = [p for p in driver.last(driver.predictions, 19).detections if p.id == ids[30]]
    assert still[-1].bbox.center.position.x == pytest.approx(30, abs=1.0)


def test_empty_frames_age_tracks_and_end_them(bench):
    driver = Driver(bench, fixed_frame="")
    for k in range(6):
        driver.boxes(k, (10, 0, 0))
    assert len(driver.last(driver.tracks, 5).detections) == 1
    for k in range(6, 30):
        assert driver.boxes(k) == {"published": 1}
    assert list(driver.last(driver.tracks, 29).detections) == []
    driver.boxes(30, (10, 0, 0))
    for k in range(31, 34):
        driver.boxes(k, (10, 0, 0))
    assert driver.last(driver.tracks, 33).detections[0].id != driver.last(driver.tracks, 5).detections[0].id


def test_the_vehicles_own_motion_is_no_motion_of_what_stands(bench):
    driver = Driver(bench, fixed_frame="odom")
    for k in range(12):
        driver.pose(k, k, 0.02 * k)
        angle = 0.02 * k
        dx, dy = 40 - k, 2.0
        x, y = math.cos(angle) * dx + math.sin(angle) * dy, math.cos(angle) * dy - math.sin(angle) * dx
        assert wait_for(lambda k=k: known(driver, k))
        assert driver.boxes(k, (x, y, -angle)) == {"published": 1}
    tracks = driver.last(driver.tracks, 11)
    assert tracks.header.frame_id == "odom"
    (track,) = tracks.detections
    assert (track.bbox.center.position.x, track.bbox.center.position.y) == pytest.approx((40, 2), abs=0.3)
    last = driver.last(driver.predictions, 11).detections[-1]
    assert last.bbox.center.position.x == pytest.approx(40, abs=2.0)


def known(driver: Driver, k: int) -> bool:
    """Whether the transform of a frame has arrived."""
    from perception_rt.types import TransformError

    try:
        driver.node._host.transforms().lookup("odom", "lidar", START + k * STEP)
    except TransformError:
        return False
    return True


def test_without_a_transform_the_message_is_unsynced_and_says_why(bench):
    driver = Driver(bench, fixed_frame="odom")
    assert driver.boxes(0, (10, 0, 0)) == {"unsynced": 1}
    assert "odom" in driver.book()["reasons"]["unsynced"]
    assert wait_for(lambda: bench.message("object_tracker").startswith("not tracked: "))


@pytest.mark.parametrize("active", [True, False])
def test_a_system_clock_that_is_set_back_makes_room_for_new_transforms(bench, monkeypatch, active):
    driver = Driver(bench, fixed_frame="odom")
    if not active:
        assert bench.change_state(Transition.TRANSITION_DEACTIVATE, "object_tracker")
    driver.pose(600, 0)
    assert wait_for(lambda: known(driver, 600))
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() - 600 * STEP)
    assert wait_for(lambda: not known(driver, 600))
    driver.pose(0, 0)
    assert wait_for(lambda: known(driver, 0))


def test_what_is_late_or_broken_is_counted_and_loses_nothing_else(bench):
    driver = Driver(bench, fixed_frame="")
    for k in range(4):
        driver.boxes(k, (10, 0, 0))
    assert driver.boxes(1, (10, 0, 0)) == {"late": 1}
    good = Detection3DEncoder(CLASSES).encode(Detections3D.empty(), START + 4 * STEP, "lidar")
    assert driver.publish(good[:-3]) == {"decode_error": 1}
    assert driver.boxes(5, (10, 0, 0)) == {"published": 1}
    assert len(driver.last(driver.tracks, 5).detections) == 1


def test_classes_may_come_later(bench):
    driver = Driver(bench, fixed_frame="")
    for k in range(6):
        rows = ((10, 0, 0), (20, 5, 0))
        assert driver.boxes(k, *rows[: 1 + (k > 1)], labels=[0, 1][: 1 + (k > 1)]) == {"published": 1}
    names = {t.results[0].hypothesis.class_id for t in driver.last(driver.tracks, 5).detections}
    assert names == {"car", "pedestrian"}


def test_boxes_in_the_image_are_tracked_too(bench):
    driver = Driver(bench, Detection2DArray, detections_topic="/camera_detector/detections", dimensions="2d")
    for k in range(8):
        box = np.array([[100 + 5 * k, 50, 160 + 5 * k, 120]], np.float32)
        found = Detections2D(box, np.full(1, 0.9, np.float32), np.zeros(1, np.int64))
        message = DetectionEncoder(CLASSES).encode(found, START + k * STEP, "camera")
        assert driver.publish(message) == {"published": 1}
    (track,) = driver.last(driver.tracks, 7).detections
    assert track.id == driver.last(driver.tracks, 3).detections[0].id
    assert track.bbox.center.position.x == pytest.approx(165, abs=3)


IMAGES = "/camera/image_raw"


class CameraDriver(Driver):
    """Feeds a 2d tracker with detections, and images of a wall that a camera swings across."""

    def __init__(self, bench, **values) -> None:
        super().__init__(bench, Detection2DArray, dimensions="2d", image_topic=IMAGES, **values)
        self.images = bench.publisher(IMAGES, "best_effort", Image)
        assert wait_for(self.images.get_subscription_count)
        blocks = np.random.default_rng(0).integers(0, 255, (20, 60, 3)).astype(np.uint8)
        self.wall = blocks.repeat(16, 0).repeat(16, 1)

    def image_book(self) -> dict:
        return self.node.component._images.ledger.snapshot()

    def image(self, k: int, left: int, cut: int | None = None) -> None:
        """Publish the k-th image, which begins at column `left`; with `cut`, fewer bytes of it."""
        before = self.image_book()["received"]
        data = encode_image(self.wall[:, left : left + 480], "rgb8", START + k * STEP, "camera")
        self.images.publish(data[:cut])
        assert wait_for(lambda: self.image_book()["received"] > before)

    def posters(self, k: int, left: int) -> dict:
        """Publish what is detected on the wall: two boxes that stand."""
        box = np.array([[300 - left, 50, 360 - left, 120], [420 - left, 150, 470 - left, 260]], np.float32)
        found = Detections2D(box, np.full(2, 0.9, np.float32), np.zeros(2, np.int64))
        return self.publish(DetectionEncoder(CLASSES).encode(found, START + k * STEP, "camera"))


def test_ids_in_the_image_of_a_camera_that_swings(bench):
    driver = CameraDriver(bench)
    ids = []
    for k in range(16):
        left = 100 + 45 * (k % 4 if k % 8 < 4 else 4 - k % 4)
        if k % 2:  # images come before or after their detections
            driver.image(k, left)
            assert driver.posters(k, left) == {"published": 1}
        else:
            sent = Thread(target=driver.image, args=(k, left))
            sent.start()
            assert driver.posters(k, left) == {"published": 1}
            sent.join()
        ids += [track.id for track in driver.last(driver.tracks, k).detections]
    assert len(set(ids)) == 2
    assert len(ids) > 20
    assert driver.image_book()["states"]["published"] == 16
    assert wait_for(lambda: bench.diagnostics("object_tracker").get("camera_motion") == "compensated")


def test_detections_wait_no_longer_than_told_for_their_image(bench):
    driver = CameraDriver(bench, image_wait_ms=300.0)
    driver.image(0, 100)
    driver.posters(0, 100)
    began = time.monotonic()
    assert driver.posters(1, 100) == {"published": 1}  # none came
    assert time.monotonic() - began > 0.25
    assert wait_for(lambda: "camera motion is not compensated" in bench.message("object_tracker"))
    driver.image(3, 100)
    began = time.monotonic()
    assert driver.posters(2, 100) == {"published": 1}  # a later one is there: its own was lost
    assert time.monotonic() - began < 0.25
    driver.posters(3, 100)
    driver.image(4, 100, cut=-1000)
    assert driver.image_book()["states"]["decode_error"] == 1
    assert driver.posters(4, 100) == {"published": 1}
    for k in range(5, 45):  # images without detections are let go
        driver.image(k, 100)
    assert driver.image_book()["pending"] <= 16
    assert driver.posters(45, 100) == {"published": 1}


def test_markers_show_boxes_and_paths_to_subscribers(bench):
    driver = Driver(bench, fixed_frame="")
    seen = bench.listen("/object_tracker/markers", MarkerArray)
    assert wait_for(driver.node.component._markers.get_subscription_count)
    for k in range(5):
        driver.boxes(k, (10 + k, 0, 0))
    assert wait_for(lambda: len(seen) == 5)
    kinds = {marker.type for marker in seen[-1].markers if marker.action == 0}
    assert {1, 4, 9} <= kinds  # CUBE, LINE_STRIP, TEXT_VIEW_FACING


def test_markers_that_fail_cost_no_track(bench, monkeypatch):
    driver = Driver(bench, fixed_frame="")
    bench.listen("/object_tracker/markers", MarkerArray)
    assert wait_for(driver.node.component._markers.get_subscription_count)

    def fail(*_: object) -> None:
        raise ValueError("no pen")

    monkeypatch.setattr(driver.node.component, "_publish_markers", fail)
    for k in range(3):
        assert driver.boxes(k, (10, 0, 0)) == {"published": 1}
    assert bench.said("no pen")
    assert driver.book()["received"] == driver.book()["states"]["published"] == 3


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"detections_topic": ""}, "must name a topic"),
        ({"dimensions": "4d"}, "must be one of 3d, 2d"),
        ({"image_topic": "/image_raw"}, "dimensions 3d uses no images"),
    ],
)
def test_parameters_that_cannot_work_fail_the_start_with_the_reason(bench, values, reason):
    bench.start(ObjectTrackerNode, **values)
    assert not bench.up
    assert bench.said(reason), bench.logs
