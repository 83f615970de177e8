"""Node drive_simulator: publishes the sensors and ground truth of a seeded drive."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from perception_rt.codec.detections import DetectionEncoder
from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.codec.encode import encode_image, encode_points
from perception_rt.component.parameters import Parameter
from perception_rt.node import drive_messages as messages
from perception_rt.node.drive_messages import OPTICAL_FRAME
from perception_rt.node.run import run
from perception_rt.node.source import SOURCE_PARAMETERS, Event, SourceNode
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.drive import Drive, DriveSample, Odometry
from perception_rt.sim.lidar import LIDAR_FRAME, MIN_POINTS, LidarSample
from perception_rt.sim.recording import IMU_HZ, ODOMETRY_HZ, Course, RecordedImage, Recording
from perception_rt.types import ConfigError

_COURSE = Course()
IMU_PERIOD_NS = round(1e9 / IMU_HZ)
ODOMETRY_STEP_S = 1 / ODOMETRY_HZ  # odometry and /tf at every second tick

# Time since the start, ns, and a function that publishes with a given stamp.
Timed = tuple[int, Callable[[int], None]]


class DriveSimulatorNode(SourceNode):
    """Publishes the sensors of a vehicle on a seeded drive, and the ground truth."""

    PARAMETERS = (
        Parameter("seed", _COURSE.seed, "Which world.", (0, 2**31 - 1)),
        Parameter("width", _COURSE.width, "Image width, px.", (64, 8192)),
        Parameter("height", _COURSE.height, "Image height, px.", (64, 8192)),
        Parameter("camera_hz", _COURSE.camera_hz, "Camera rate; 0: no camera.", (0.0, 240.0)),
        Parameter("lidar_hz", _COURSE.lidar_hz, "Lidar rate; 0: no lidar.", (0.0, 100.0)),
        Parameter("duration_s", _COURSE.duration_s, "Length of the drive; 0: endless.", (0.0, 1e6)),
        Parameter(
            "ahead_s", 0.0, "Part of the drive to render before the start and keep in memory.", (0.0, 60.0)
        ),
        Parameter("recording", "", "Folder of a recording of this drive; empty: render it now."),
        *SOURCE_PARAMETERS,
    )

    def __init__(self, node_name: str = "drive_simulator", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._sensors: list[RecordedSensor] = []
        self._advertised: list[Publisher] = []

    def setup(self) -> None:
        """Build the world and the publishers."""
        self._drive = Drive(self.values["seed"], (self.values["width"], self.values["height"]))
        self._source = self._open_recording() or self._drive
        camera_hz, lidar_hz = self.values["camera_hz"], self.values["lidar_hz"]
        if not camera_hz and not lidar_hz:
            raise ConfigError("camera_hz=0.0, lidar_hz=0.0: give one of them a rate")
        stamp_ns, mounts, self._listened = self.get_clock().now().nanoseconds, [], []
        # The lidar first: of one stamp the image goes out last, since subscribers wait for it.
        if lidar_hz:
            self._points = self._advertise(PointCloud2, "lidar/points", 5)
            self._truth_3d = self._advertise(Detection3DArray, "~/ground_truth_3d", 50)
            self._encoder_3d = Detection3DEncoder(SIM_CLASSES)
            self._sensors.append(self._sensor("lidar", lidar_hz, self._source.lidar, self._emit_lidar))
            self._listened.append(self._points)
            mounts.append(messages.lidar_mount(stamp_ns))
        if camera_hz:
            self._image = self._advertise(Image, "camera/image_raw", 5)
            self._info = self._advertise(CameraInfo, "camera/camera_info", 5)
            self._truth = self._advertise(Detection2DArray, "~/ground_truth", 50)
            self._encoder = DetectionEncoder(SIM_CLASSES)
            self._sensors.append(self._sensor("camera", camera_hz, self._source.sample, self._emit_camera))
            self._listened.append(self._image)
            mounts.append(messages.camera_mount(self._drive.camera, stamp_ns))
        self._odometry = self._advertise(OdometryMessage, "odom", 10)
        self._true_odometry = self._advertise(OdometryMessage, "~/ground_truth_odometry", 10)
        self._imu = self._advertise(Imu, "imu", 10)
        self._tf = self._advertise(TFMessage, "/tf", 100)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._advertise(TFMessage, "/tf_static", latched).publish(TFMessage(transforms=mounts))

    def _open_recording(self) -> Recording | None:
        if not self.values["recording"]:
            return None
        recording = Recording(Path(self.values["recording"]))
        for name, recorded in recording.course._asdict().items():
            if self.values[name] != recorded:
                raise ConfigError(f"{name}={self.values[name]}: the recording is of a drive with {recorded}")
        return recording

    def _sensor(
        self, name: str, rate_hz: float, sample: Callable[[float], Any], emit: Callable[[Any, int], None]
    ) -> RecordedSensor:
        if self.values["recording"]:
            return RecordedSensor(rate_hz, sample, emit)
        return SimulatedSensor(name, rate_hz, sample, emit)

    def _advertise(self, message_type: type, topic: str, qos: int | QoSProfile) -> Publisher:
        self._advertised.append(self.create_publisher(message_type, topic, qos))
        return self._advertised[-1]

    def teardown(self) -> None:
        """Stop the sensors and destroy their publishers."""
        while self._sensors:
            self._sensors.pop().close()
        while self._advertised:
            self.destroy_publisher(self._advertised.pop())

    def listened(self) -> list[Publisher]:
        """Return the publishers of image and cloud."""
        return self._listened

    def prepare(self) -> None:
        """Render the first part of the drive."""
        ahead_s, duration_s = self.values["ahead_s"], self.values["duration_s"] or math.inf
        if self.values["recording"]:
            ahead_s = 0.0  # already rendered
        if ahead_s:
            self.get_logger().info(f"making the first {min(ahead_s, duration_s):g} s of the drive")
        for sensor in self._sensors:
            sensor.rewind(ahead_s, duration_s)
        while not all(sensor.ready() for sensor in self._sensors):
            if self.halt.wait(0.05):
                return

    def events(self) -> Iterator[Event]:
        """Yield the samples of the sensors, and IMU, odometry and /tf in between, stamped from now on."""
        duration_s = self.values["duration_s"]
        end_ns = round(duration_s * 1e9) if duration_s else math.inf
        epoch_ns = time.time_ns()
        # At one time, the vehicle's messages come first, then the sensors' in order.
        streams = [self._vehicle(), *(sensor.events() for sensor in self._sensors)]
        for t_ns, emit in heapq.merge(*streams, key=lambda timed: timed[0]):
            if t_ns >= end_ns:
                return
            yield epoch_ns + t_ns, partial(emit, epoch_ns + t_ns)

    def _emit_camera(self, sample: DriveSample | RecordedImage, stamp_ns: int) -> None:
        # The image last: a node that reacts to it finds the other messages.
        self._truth.publish(self._encoder.encode(sample.truth, stamp_ns, OPTICAL_FRAME))
        self._info.publish(messages.camera_info(sample.camera, stamp_ns))
        self._image.publish(encode_image(sample.image, "rgb8", stamp_ns, OPTICAL_FRAME))

    def _emit_lidar(self, sample: LidarSample, stamp_ns: int) -> None:
        seen = sample.truth_points >= MIN_POINTS
        ids = [str(number) for number in sample.truth_ids[seen]]
        truth = self._encoder_3d.encode(sample.truth[seen], stamp_ns, LIDAR_FRAME, ids)
        self._truth_3d.publish(truth)
        self._points.publish(encode_points(sample.points, stamp_ns, LIDAR_FRAME))

    def _vehicle(self) -> Iterator[Timed]:
        self._pose = 0.0, 0.0, 0.0
        for tick in itertools.count():
            yield tick * IMU_PERIOD_NS, partial(self._emit_vehicle, tick)

    def _emit_vehicle(self, tick: int, stamp_ns: int) -> None:
        t_s = tick * IMU_PERIOD_NS / 1e9
        self._imu.publish(messages.imu(self._source.imu(t_s), stamp_ns))
        if tick % 2:
            return
        measured, true = self._source.odometry(t_s), self._source.ego(t_s)
        if tick:
            self._pose = _moved(self._pose, measured)
        self._odometry.publish(messages.odometry("odom", self._pose, measured.v, measured.yaw_rate, stamp_ns))
        self._true_odometry.publish(messages.true_odometry(true, stamp_ns))
        self._tf.publish(messages.base_transform(self._pose, stamp_ns))


def _moved(pose: tuple[float, float, float], measured: Odometry) -> tuple[float, float, float]:
    """Integrate the measured twist; like real wheel odometry it drifts."""
    x, y, yaw = pose
    turned, travelled = measured.yaw_rate * ODOMETRY_STEP_S, measured.v * ODOMETRY_STEP_S
    middle = yaw + turned / 2
    return x + travelled * math.cos(middle), y + travelled * math.sin(middle), yaw + turned


class RecordedSensor:
    """Takes samples that are rendered already.

    Args:
        rate_hz: of the samples. sample: returns the sample of a time, s.
        emit: publishes a sample with a stamp, ns.
    """

    def __init__(
        self, rate_hz: float, sample: Callable[[float], Any], emit: Callable[[Any, int], None]
    ) -> None:
        self._rate_hz, self._sample, self._emit = rate_hz, sample, emit

    def rewind(self, ahead_s: float, duration_s: float) -> None:
        """Do nothing: all is there."""

    def ready(self) -> bool:
        """Return True."""
        return True

    def events(self) -> Iterator[Timed]:
        """Yield all samples by time."""
        for number in itertools.count():
            yield self._time_ns(number), partial(self._emit_sample, self._time_ns(number) / 1e9)

    def close(self) -> None:
        """Do nothing."""

    def _emit_sample(self, t_s: float, stamp_ns: int) -> None:
        self._emit(self._sample(t_s), stamp_ns)

    def _time_ns(self, number: int) -> int:
        return round(number * 1e9 / self._rate_hz)


class SimulatedSensor(RecordedSensor):
    """Renders samples ahead on a thread of its own, so that a stamp is the time of publishing.

    Args:
        name: of the thread. rate_hz: of the samples. sample: renders the sample of a time, s.
        emit: publishes a sample with a stamp, ns.
    """

    def __init__(
        self, name: str, rate_hz: float, sample: Callable[[float], Any], emit: Callable[[Any, int], None]
    ) -> None:
        super().__init__(rate_hz, sample, emit)
        self._thread = ThreadPoolExecutor(1, name)
        self._ahead: deque[Future] = deque()

    def rewind(self, ahead_s: float, duration_s: float) -> None:
        """Start to render the samples of the first `ahead_s`, at least one; none after `duration_s`."""
        self._count = math.ceil(duration_s * self._rate_hz) if duration_s < math.inf else math.inf
        self._next = 0
        while self._ahead:
            self._ahead.pop().cancel()
        for _ in range(max(1, math.ceil(ahead_s * self._rate_hz))):
            self._make()

    def ready(self) -> bool:
        """Return whether all started samples are rendered."""
        return self._ahead[-1].done()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _emit_sample(self, t_s: float, stamp_ns: int) -> None:
        sample = self._ahead.popleft().result()
        self._make()
        self._emit(sample, stamp_ns)

    def _make(self) -> None:
        if self._next < self._count:
            self._ahead.append(self._thread.submit(self._sample, self._time_ns(self._next) / 1e9))
            self._next += 1


def main(args: list[str] | None = None) -> int:
    """Run the node until the drive ends."""
    return run([DriveSimulatorNode], args)
