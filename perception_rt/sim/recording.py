"""A drive rendered in advance: images, clouds, ground truth and the vehicle's signals, mostly memory-mapped.

Images are stored as raw pixels, as decoding a JPEG costs more than a tenth of a detector's time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from perception_rt.sim.camera import Camera
from perception_rt.sim.drive import Drive, ImuSample, Odometry
from perception_rt.sim.lidar import AZIMUTH_STEPS, ELEVATIONS, LidarSample
from perception_rt.sim.path import SimulatedEgo
from perception_rt.types import ConfigError, Detections2D, Detections3D

IMAGES, POINTS, TRUTH, INDEX = "images.npy", "points.npy", "truth.npz", "index.json"
CLOUD_BYTES = AZIMUTH_STEPS * len(ELEVATIONS) * 16
IMU_HZ, ODOMETRY_HZ = 100.0, 50.0
_VEHICLE_BYTES = 8 * int(6 * IMU_HZ + 8 * ODOMETRY_HZ)  # a second
_BLOCK = 1 << 22


class Course(NamedTuple):
    """The settings of a recording: seed, image size in px, rates in Hz, and length in s."""

    seed: int = 1
    width: int = 960
    height: int = 540
    camera_hz: float = 30.0
    lidar_hz: float = 10.0
    duration_s: float = 0.0

    def times(self, rate_hz: float) -> list[float]:
        """Return the times of a sensor's samples, s, in whole ns like stamps."""
        count = math.ceil(self.duration_s * rate_hz)
        return [round(number * 1e9 / rate_hz) / 1e9 for number in range(count)]

    def bytes(self) -> int:
        """The maximum size of a recording."""
        images = len(self.times(self.camera_hz)) if self.camera_hz else 0
        clouds = len(self.times(self.lidar_hz)) if self.lidar_hz else 0
        vehicle = math.ceil(self.duration_s) * _VEHICLE_BYTES
        return images * self.width * self.height * 3 + clouds * CLOUD_BYTES + vehicle

    @property
    def key(self) -> str:
        """A name for this course, drawn by this version of the simulator."""
        return hashlib.sha256(json.dumps([_version(), *self]).encode()).hexdigest()[:20]


class RecordedImage(NamedTuple):
    """The image of one moment and its truth, as in DriveSample."""

    image: np.ndarray
    truth: Detections2D
    camera: Camera


@lru_cache(maxsize=1)
def _version() -> str:
    """Return a hash of the simulator's sources and the versions of its drawing libraries."""
    digest = hashlib.sha256(f"numpy {np.__version__} cv2 {cv2.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _drive(seed: int, size: tuple[int, int]) -> Drive:
    return Drive(seed, size)


class Part(NamedTuple):
    """A range of samples of one sensor, from `first` to before `last`, which any process can render."""

    folder: Path
    course: Course
    camera: bool
    first: int
    last: int


def create(folder: Path, course: Course, size: int = 5) -> list[Part]:
    """Allocate the files in an existing folder, and return the parts to `render`, of `size` samples each."""
    images = len(course.times(course.camera_hz)) if course.camera_hz else 0
    clouds = len(course.times(course.lidar_hz)) if course.lidar_hz else 0
    shape = images, course.height, course.width, 3
    np.lib.format.open_memmap(folder / IMAGES, "w+", np.uint8, shape).flush()
    with (folder / IMAGES).open(
        "r+b"
    ) as file:  # else a full disk would kill the process that writes to the map
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return [
        Part(folder, course, camera, first, min(first + size, count))
        for camera, count in ((True, images), (False, clouds))
        for first in range(0, count, size)
    ]


def render(part: Part) -> list[Any]:
    """Render a part: write images to the file and return their truths, or return clouds (LidarSample)."""
    course = part.course
    drive = _drive(course.seed, (course.width, course.height))
    times = course.times(course.camera_hz if part.camera else course.lidar_hz)[part.first : part.last]
    if not part.camera:
        return [drive.lidar(t_s) for t_s in times]
    images = np.lib.format.open_memmap(part.folder / IMAGES, "r+")
    truths = []
    for number, t_s in enumerate(times, part.first):
        sample = drive.sample(t_s)
        images[number] = sample.image
        truths.append(sample.truth)
    return truths


def finish(
    folder: Path, course: Course, truths: Sequence[Detections2D], clouds: Sequence[LidarSample]
) -> None:
    """Write the results of `render` in order of time, and the index last."""
    np.save(folder / POINTS, np.concatenate([np.zeros((0, 4), np.float32), *(c.points for c in clouds)]))
    arrays = {
        "counts2d": [len(truth) for truth in truths],
        "xyxy": _joined([truth.xyxy for truth in truths], np.zeros((0, 4), np.float32)),
        "labels2d": _joined([truth.labels for truth in truths], np.zeros(0, np.int64)),
        "points": [len(cloud.points) for cloud in clouds],
        "stamps": [cloud.stamp_ns for cloud in clouds],
        "counts3d": [len(cloud.truth) for cloud in clouds],
        "boxes": _joined([cloud.truth.xyzlwh_yaw for cloud in clouds], np.zeros((0, 7), np.float32)),
        "labels3d": _joined([cloud.truth.labels for cloud in clouds], np.zeros(0, np.int64)),
        "truth_points": _joined([cloud.truth_points for cloud in clouds], np.zeros(0, np.int64)),
        "ids": _joined([cloud.truth_ids for cloud in clouds], np.zeros(0, np.int64)),
        "velocity": _joined([cloud.truth_velocity for cloud in clouds], np.zeros((0, 2))),
        **_vehicle(course),
    }
    stored: dict[str, Any] = {name: np.asarray(values) for name, values in arrays.items()}
    np.savez(folder / TRUTH, **stored)
    sums = {name: _checksum(folder / name) for name in (IMAGES, POINTS, TRUTH)}
    (folder / INDEX).write_text(json.dumps({"key": course.key, "course": course._asdict(), "crc32": sums}))


def _vehicle(course: Course) -> dict[str, list]:
    """Return the vehicle's signals at each of their times: to seed their noise costs more than to read it."""
    drive = _drive(course.seed, (course.width, course.height))
    imu = [drive.imu(t_s) for t_s in course.times(IMU_HZ)]
    times = course.times(ODOMETRY_HZ)
    return {
        "imu": [np.concatenate([one.angular_velocity, one.linear_acceleration]) for one in imu],
        "odometry": [astuple(drive.odometry(t_s)) for t_s in times],
        "ego": [astuple(drive.ego(t_s)) for t_s in times],
    }


def _joined(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *parts])


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file; this also loads it into the page cache."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


class Recording:
    """A rendered course; it has the samples of `Drive`, at the rendered times only.

    Args:
        folder: written by `create`, `render` and `finish`.

    Attributes:
        course: the settings.

    Raises:
        ConfigError: it is incomplete, damaged, or of another version of the simulator.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = json.loads((folder / INDEX).read_text())
            self.course = Course(**index["course"])
            if index["key"] != self.course.key:
                raise ValueError("of another version of the simulator")
            for name in (IMAGES, POINTS, TRUTH):
                if index["crc32"][name] != _checksum(folder / name):
                    raise ValueError(f"{name} is damaged")
            # An empty array cannot be mapped.
            self._images = np.load(folder / IMAGES, mmap_mode="r" if self.course.camera_hz else None)
            points = np.load(folder / POINTS, mmap_mode="r" if self.course.lidar_hz else None)
            with np.load(folder / TRUTH) as truth:
                self._truths, self._clouds = list(_truths(truth)), list(_clouds(truth, points))
                self._imu = [ImuSample(row[:3], row[3:]) for row in truth["imu"]]
                self._odometry = [Odometry(*row) for row in truth["odometry"].tolist()]
                self._ego = [SimulatedEgo(*row) for row in truth["ego"].tolist()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"recording={folder}: {error}") from error
        self.camera = Camera.of_size((self.course.width, self.course.height))

    def sample(self, t_s: float) -> RecordedImage:
        """Return the image at t_s [s] and its truth."""
        number = _number(t_s, self.course.camera_hz, len(self._truths))
        return RecordedImage(self._images[number], self._truths[number], self.camera)

    def lidar(self, t_s: float) -> LidarSample:
        """Return the cloud at t_s [s] and its truth."""
        return self._clouds[_number(t_s, self.course.lidar_hz, len(self._clouds))]

    def imu(self, t_s: float) -> ImuSample:
        """Return the IMU's reading at t_s [s], at IMU_HZ."""
        return self._imu[_number(t_s, IMU_HZ, len(self._imu))]

    def odometry(self, t_s: float) -> Odometry:
        """Return measured speed and yaw rate at t_s [s], at ODOMETRY_HZ."""
        return self._odometry[_number(t_s, ODOMETRY_HZ, len(self._odometry))]

    def ego(self, t_s: float) -> SimulatedEgo:
        """Return the true state at t_s [s], at ODOMETRY_HZ."""
        return self._ego[_number(t_s, ODOMETRY_HZ, len(self._ego))]


def _number(t_s: float, rate_hz: float, count: int) -> int:
    number = round(t_s * rate_hz)
    if not (0 <= number < count and abs(number / rate_hz - t_s) < 1e-6):
        raise ConfigError(f"t_s={t_s!r}: is no time of this recording ({count} at {rate_hz:g} Hz)")
    return number


def _truths(stored: Any) -> Iterator[Detections2D]:
    cuts = np.cumsum(stored["counts2d"].astype(np.int64))[:-1]
    boxes, labels = (np.split(stored[name], cuts) for name in ("xyxy", "labels2d"))
    for xyxy, label in zip(boxes, labels, strict=True):
        yield Detections2D(xyxy, np.ones(len(xyxy), np.float32), label)


def _clouds(stored: Any, points: np.ndarray) -> Iterator[LidarSample]:
    if not len(stored["points"]):
        return
    clouds = np.split(points, np.cumsum(stored["points"])[:-1])
    cuts = np.cumsum(stored["counts3d"])[:-1]
    names = "boxes", "labels3d", "truth_points", "ids", "velocity"
    columns = [np.split(stored[name], cuts) for name in names]
    for stamp, cloud, boxes, labels, *rest in zip(stored["stamps"].tolist(), clouds, *columns, strict=True):
        yield LidarSample(stamp, cloud, Detections3D(boxes, np.ones(len(boxes), np.float32), labels), *rest)
