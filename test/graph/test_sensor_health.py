"""Faults of a camera and a lidar over real topics."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2

from bench.health_faults import FAULTS, simulated
from perception_rt.codec import encode_image, encode_points
from perception_rt.node.sensor_health import SensorHealthNode

from .conftest import wait_for

CAMERA, LIDAR = "sensor_health: image_raw", "sensor_health: points"


class Sensors:
    """Sends a small drive at 10 Hz until it is stopped."""

    def __init__(self, bench) -> None:
        self.fault = ""
        self._bench, self._drive = bench, simulated(21, 1.0, (320, 180))
        self._image = bench.publisher("/image_raw", "reliable")
        self._points = bench.publisher("/points", "reliable", PointCloud2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        for number in itertools.count():
            fault = FAULTS.get(self.fault)
            picture, cloud = self._drive.pictures[number % 10], self._drive.clouds[number % 10]
            picture = fault.picture(picture) if fault and fault.picture else picture
            cloud = fault.cloud(cloud) if fault and fault.cloud else cloud
            stamp_ns = self._bench.now_ns()
            self._points.publish(encode_points(cloud, stamp_ns, "lidar"))
            self._image.publish(encode_image(picture, "bgr8", stamp_ns, "camera"))
            due += 0.1
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return


@pytest.fixture
def sensors(bench):
    sensors = Sensors(bench)
    yield sensors
    sensors.stop()


def test_faults_of_both_sensors_come_and_go(bench, sensors):
    bench.start(SensorHealthNode, reliability="reliable")
    known = lambda: bench.diagnostics(LIDAR).get("points") and bench.diagnostics(CAMERA).get("mean_grey")  # noqa: E731
    assert wait_for(known)
    assert bench.diagnostics(CAMERA)["mean_grey_limit"] == "10.00"
    assert bench.status[CAMERA].hardware_id == "camera"
    for name, status, words in (
        ("camera/covered_left_60", CAMERA, "a part of the lens is covered"),
        ("lidar/sector", LIDAR, "a sector is gone"),
    ):
        sensors.fault = name
        assert wait_for(lambda status=status, words=words: words in bench.message(status)), name
        assert bench.status[status].level != b"\x00"
        assert "faults: " in bench.message("sensor_health")
        sensors.fault = ""
        assert wait_for(lambda status=status, words=words: words not in bench.message(status)), name


def test_a_message_that_cannot_be_read_is_counted_and_costs_no_other(bench, sensors):
    bench.start(SensorHealthNode, reliability="reliable")
    other = bench.publisher("/image_raw", "reliable")
    assert wait_for(other.get_subscription_count)
    other.publish(
        encode_image(sensors._drive.pictures[0], "bgr8", bench.now_ns(), "c").replace(b"bgr8", b"bgr9")
    )
    assert wait_for(lambda: bench.diagnostics("sensor_health").get("unreadable") == "1")
    before = int(bench.diagnostics(CAMERA)["received"])
    assert wait_for(lambda: int(bench.diagnostics(CAMERA)["received"]) > before)


def test_a_process_of_its_own_receives_large_pictures(bench):
    """Its segment of shared memory is small; the pictures of others still reach it."""
    words = ["-c", "from perception_rt.node.sensor_health import main; main()", "--ros-args"]
    child = subprocess.Popen(
        [sys.executable, *words, "-p", "points_topics:=['']"],
        env={**os.environ, "ROS_DOMAIN_ID": str(bench.domain)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        publisher, picture = bench.publisher("/image_raw"), np.zeros((1080, 1920, 3), np.uint8)
        for _ in range(150):
            bench.send(publisher, picture)
            if wait_for(lambda: int(bench.diagnostics(CAMERA).get("received", 0)) >= 10, 0.1):
                break
        else:
            pytest.fail(f"of 150 pictures: {bench.diagnostics(CAMERA)}")
    finally:
        child.terminate()
        _, said = child.communicate(timeout=20)
    assert "RTPS" not in said  # Fast DDS takes the profile
