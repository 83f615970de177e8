"""Monitor the health of all sensors of a vehicle, from their parsed messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perception_rt.codec.camera_info import CameraModel, parse_camera_info
from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.codec.points import parse_points
from perception_rt.stage.health.agreement import AgreementHealth
from perception_rt.stage.health.alignment import AlignmentHealth
from perception_rt.stage.health.checks import Check, Finding, Limits
from perception_rt.stage.health.cloud import CloudHealth, measure_cloud
from perception_rt.stage.health.picture import PictureHealth, fingerprint, measure_picture
from perception_rt.stage.health.timing import TimingHealth
from perception_rt.stage.transforms import Lookup, camera_way
from perception_rt.types import CodecError, PerceptionError
from perception_rt.types.status import Level

if TYPE_CHECKING:  # with OpenCV; the parsers of images are imported on use
    from perception_rt.codec.compressed import EncodedImage
    from perception_rt.codec.image import RawImage

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
POINTS, CAMERA_INFO = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/CameraInfo"
FUSED = "vision_msgs/msg/Detection3DArray"
POLL_S = 0.1
PICTURE_HZ = 3.0
ALIGNMENT_S = 1.0  # between two looks
PAIRED_NS = 30_000_000  # stamps of a cloud and a picture may differ by this
KEPT_PICTURES = 4
BROKEN = Limits(0.3, 0.8, "messages cannot be read")
LAST_MESSAGES = 10


class SensorReport(NamedTuple):
    """The diagnostics of a sensor.

    Attributes:
        topic, frame_id: of the sensor. level: the highest. faults: in words. values: by name, limits too.
    """

    topic: str
    frame_id: str
    level: Level
    faults: list[str]
    values: dict[str, object]


class Sensor:
    """One topic: its timing and further checks.

    Args:
        topic: absolute. message_type: of any type with a header. findings: list that faults are added to.
        expected_hz: 0 to learn it. picture_hz: rate at which pictures are measured.
        image_options: `max_bytes` and `significant_bits` of `parse_image`.
    """

    def __init__(
        self,
        topic: str,
        message_type: str,
        findings: list[Finding],
        expected_hz: float = 0.0,
        picture_hz: float = PICTURE_HZ,
        image_options: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.topic, self.message_type = topic, message_type
        self.frame_id = ""
        self.received = 0
        self.timing = TimingHealth(topic, findings, expected_hz)
        self.picture = PictureHealth(topic, findings) if message_type in (IMAGE, COMPRESSED) else None
        self.cloud = CloudHealth(topic, findings) if message_type == POINTS else None
        self.alignment = AlignmentHealth(topic, findings) if self.picture else None
        self.agreement = AgreementHealth(topic, findings) if message_type == FUSED else None
        self._image_options = image_options
        self._broken = Check(topic, "broken", BROKEN, findings)
        self._failures: deque[bool] = deque(maxlen=LAST_MESSAGES)
        self._look_ns, self._look_every_ns = -(10**18), 1e9 / picture_hz
        self.pictures: deque[RawImage | EncodedImage] = deque(maxlen=KEPT_PICTURES)
        self.points: tuple[int, np.ndarray] | None = None
        self.model: CameraModel | None = None
        self.aligned_ns = -(10**18)

    def checks(self) -> list[Check]:
        """All checks of the sensor."""
        return [self._broken, *(check for part in self._parts() for check in part.checks.values())]

    def _parts(self) -> list[Any]:
        parts = (self.timing, self.picture, self.cloud, self.alignment, self.agreement)
        return [part for part in parts if part is not None]

    def reset(self) -> None:
        """Forget the latest messages after the clock was set back."""
        for part in self._parts():
            part.reset()
        self._broken.clear(0)
        self._failures.clear()
        self._look_ns = self.aligned_ns = -(10**18)
        self.pictures.clear()
        self.points = None

    def take(self, data: bytes, now_ns: int) -> None:
        """Process a serialized message; raises CodecError if it is invalid."""
        self.received += 1
        try:
            if self.picture is not None:
                self._take_picture(self.picture, data, now_ns)
            elif self.cloud is not None:
                self._take_cloud(self.cloud, data, now_ns)
            elif self.agreement is not None:
                fused = decode_named_detections3d(data)
                self.frame_id = fused.frame_id
                self.agreement.update(now_ns, fused.ids)
            else:
                stamp_ns, self.frame_id = CdrReader(data).header()
                self.timing.update(now_ns, stamp_ns)
        except CodecError:
            self._failed(True, now_ns)
            raise
        self._failed(False, now_ns)

    def _failed(self, failed: bool, now_ns: int) -> None:
        self._failures.append(failed)
        if len(self._failures) >= 3:
            self._broken.update(now_ns, sum(self._failures) / len(self._failures))

    def _take_picture(self, health: PictureHealth, data: bytes, now_ns: int) -> None:
        from perception_rt.codec.compressed import parse_compressed
        from perception_rt.codec.image import parse_image

        parse = parse_compressed if self.message_type == COMPRESSED else parse_image
        image = parse(data, **self._image_options)
        self.frame_id = image.frame_id
        self.timing.update(now_ns, image.stamp_ns)
        health.update(now_ns, fingerprint(image.data))
        if not 0 <= now_ns - self._look_ns < self._look_every_ns:
            health.look(now_ns, measure_picture(pixels_of(image)))
            self._look_ns = now_ns  # after one that cannot be decoded, the next is tried at once
        self.pictures.append(image)

    def _take_cloud(self, health: CloudHealth, data: bytes, now_ns: int) -> None:
        cloud = parse_points(data)
        self.frame_id = cloud.frame_id
        self.timing.update(now_ns, cloud.stamp_ns)
        points = cloud.decode().points
        health.update(now_ns, measure_cloud(points))
        self.points = cloud.stamp_ns, points

    def report(self) -> SensorReport:
        """Return the diagnostics."""
        checks = self.checks()
        values: dict[str, object] = {"received": self.received, "usual_rate_hz": self.timing.rate_hz}
        for check in checks:
            values[check.name] = check.value
            values[f"{check.name}_limit"] = check.limits.warn
        if self.alignment is not None and self.alignment.best_deg is not None:
            values["rotation_pitch_yaw_roll_deg"] = " ".join(f"{one:g}" for one in self.alignment.best_deg)
        faults = [
            f"{check.limits.what} ({check.name})"
            for level in (Level.ERROR, Level.WARN)
            for check in checks
            if check.level == level
        ]
        return SensorReport(self.topic, self.frame_id, max(check.level for check in checks), faults, values)


def pixels_of(image: RawImage | EncodedImage) -> np.ndarray:
    """Return (H, W) or (H, W, 3) uint8 pixels at full size; for a JPEG only the luma, which is faster.

    Raises:
        CodecError: OpenCV cannot decode it.
    """
    import cv2

    from perception_rt.codec.image import RawImage, to_8_bit

    if isinstance(image, RawImage):
        return image.decode().pixels
    try:
        grey = cv2.imdecode(image.data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise CodecError("data", bytes(image.data[:16]), f"not decodable: {error.err}") from error
    if grey is None:
        raise CodecError("data", bytes(image.data[:16]), f"not a decodable {image.encoding}")
    return grey if grey.dtype == np.uint8 else to_8_bit(grey, image.significant_bits)


class HealthMonitor:
    """Monitors several sensors, and the calibration between cameras and lidar.

    Args:
        sensors: by absolute topic, the message type. lookup: of transforms.
        expected_hz: by topic, where it is known. picture_hz: rate at which pictures are measured.
        image_is_rectified: P of CameraInfo holds for the pictures, not K and D.
        image_options: `max_bytes` and `significant_bits` of `parse_image`.

    Attributes:
        findings: all faults, newest last; bounded.
    """

    def __init__(
        self,
        sensors: Mapping[str, str],
        lookup: Lookup,
        expected_hz: Mapping[str, float] | None = None,
        picture_hz: float = PICTURE_HZ,
        image_is_rectified: bool = False,
        image_options: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.findings: list[Finding] = []
        self.sensors = {
            topic: Sensor(
                topic, kind, self.findings, (expected_hz or {}).get(topic, 0.0), picture_hz, image_options
            )
            for topic, kind in sensors.items()
        }
        self._lookup, self._rectified = lookup, image_is_rectified
        self._lidars = [sensor for sensor in self.sensors.values() if sensor.cloud is not None]

    def take(self, topic: str, data: bytes, now_ns: int) -> None:
        """Process a serialized message of a sensor; raises PerceptionError if it is invalid."""
        sensor = self.sensors[topic]
        sensor.take(data, now_ns)
        if sensor.cloud is not None:
            for camera in self.sensors.values():
                if camera.alignment is not None:
                    self._align(camera, sensor, now_ns)
        elif sensor.alignment is not None and self._lidars:
            self._align(sensor, self._lidars[0], now_ns)

    def take_camera_info(self, topic: str, data: bytes) -> None:
        """Process the CameraInfo for the camera of `topic`; raises CodecError if it is invalid."""
        self.sensors[topic].model = parse_camera_info(data, self._rectified)

    def poll(self, now_ns: int) -> None:
        """Check for silence; call it every `POLL_S`."""
        for sensor in self.sensors.values():
            if sensor.agreement is None:  # the rate of fused objects depends on the detectors
                sensor.timing.poll(now_ns)

    def reset(self) -> None:
        """Forget the latest messages after the clock was set back."""
        for sensor in self.sensors.values():
            sensor.reset()

    def level(self) -> Level:
        """The highest level of all checks."""
        return max(check.level for sensor in self.sensors.values() for check in sensor.checks())

    def levels(self) -> tuple[Level, ...]:
        """The levels of all checks, in a fixed order."""
        return tuple(check.level for sensor in self.sensors.values() for check in sensor.checks())

    def _align(self, camera: Sensor, lidar: Sensor, now_ns: int) -> None:
        """Compare a picture with a cloud at intervals."""
        if lidar is not self._lidars[0] or lidar.points is None or camera.model is None:
            return
        if camera.alignment is None or not camera.pictures:
            return
        if 0 <= now_ns - camera.aligned_ns < ALIGNMENT_S * 1e9:
            return
        stamp_ns, points = lidar.points
        picture = min(camera.pictures, key=lambda image: abs(image.stamp_ns - stamp_ns))
        if abs(picture.stamp_ns - stamp_ns) > PAIRED_NS:
            return
        camera.aligned_ns = now_ns
        try:
            matrix = camera_way(self._lookup, camera.model, lidar.frame_id, stamp_ns)
        except PerceptionError:
            return  # without a transform there is no calibration to check
        camera.alignment.look(now_ns, pixels_of(picture), points, camera.model, matrix)


def camera_info_topic(image_topic: str) -> str:
    """Return the CameraInfo topic of an absolute image topic, as in image_transport: beside the raw image."""
    return image_topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
