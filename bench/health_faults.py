"""Drives of two sensors with injected faults, to test sensor health."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from bench.inputs import CITY
from perception_rt.codec import encode_image, encode_points
from perception_rt.codec.camera_info import CameraModel, parse_camera_info
from perception_rt.codec.transforms import parse_transforms
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.sim.drive import Drive
from perception_rt.sim.lidar import LIDAR_POSITION
from perception_rt.stage.health.monitor import IMAGE, POINTS, HealthMonitor
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.types import CameraFrame, LidarFrame

CAMERA, LIDAR = "/camera/image_raw", "/lidar/points"
START_NS = 1_700_000_000_000_000_000
DELAY_S = 0.01  # from stamp to arrival
RATE_HZ = 10.0
OPTICAL_FROM_BASE = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])


@dataclass(frozen=True, eq=False)
class SensorDrive:
    """Frames of a camera and a lidar at 10 Hz; repeated if more are needed.

    Attributes:
        pictures: (H, W, 3) uint8 each. clouds: (N, 4) float32 each.
        model: the camera. camera_from_lidar: (4, 4).
    """

    pictures: list[np.ndarray]
    clouds: list[np.ndarray]
    model: CameraModel
    camera_from_lidar: np.ndarray


def simulated(seed: int, seconds: float, size: tuple[int, int] = (960, 540)) -> SensorDrive:
    """The simulator's drive."""
    drive, times = Drive(seed, size), np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    matrix = np.eye(4)
    matrix[:3, :3] = OPTICAL_FROM_BASE
    matrix[:3, 3] = OPTICAL_FROM_BASE @ (np.array(LIDAR_POSITION) - np.array(drive.camera.position))
    model = CameraModel(0, "camera", size[1], size[0], "plumb_bob", np.zeros(0), drive.camera.k)
    return SensorDrive(
        [drive.sample(t).image for t in times], [drive.lidar(t).points for t in times], model, matrix
    )


def recorded() -> SensorDrive:
    """The 24 frames of kitti_city."""
    frames: dict[type, list] = {CameraFrame: [], LidarFrame: []}
    transforms = TransformBuffer(10**15)
    with Bag(CITY) as bag:
        for message in bag.messages():
            if message.topic == "/tf_static":
                for t in parse_transforms(message.data):
                    transforms.add(t.parent, t.child, t.stamp_ns, t.translation, t.quaternion, True)
            elif message.message_type.endswith("CameraInfo"):
                model = parse_camera_info(message.data)
            elif message.message_type in (IMAGE, POINTS):
                frame = frame_of(message)
                frames[type(frame)].append(frame)
    pictures, clouds = frames[CameraFrame], frames[LidarFrame]
    matrix = transforms.lookup(pictures[0].frame_id, clouds[0].frame_id, clouds[0].stamp_ns)
    return SensorDrive([f.pixels for f in pictures], [f.points for f in clouds], model, matrix)


Made = Callable[[np.ndarray], np.ndarray]


def dark(pixels: np.ndarray) -> np.ndarray:
    """Mean grey of 8."""
    return (pixels * (8.0 / max(float(pixels.mean()), 8.0))).astype(np.uint8)


def overexposed(pixels: np.ndarray) -> np.ndarray:
    """55 % of the values saturated."""
    return cv2.convertScaleAbs(pixels, alpha=256.0 / max(float(np.percentile(pixels, 45)), 1.0))


def blurred(pixels: np.ndarray) -> np.ndarray:
    """Gaussian blur of sigma 5 px."""
    return cv2.GaussianBlur(pixels, (0, 0), 5)


def covered(side: str, grey: int, pixels: np.ndarray) -> np.ndarray:
    """30 % of the picture in one grey, from one side."""
    pixels = pixels.copy()
    height, width = pixels.shape[:2]
    rows, columns = round(0.3 * height), round(0.3 * width)
    half = slice(0, round(0.55 * height)), slice(width - round(0.55 * width), width)
    part = {
        "left": (slice(None), slice(0, columns)),
        "bottom": (slice(height - rows, height), slice(None)),
        "top": (slice(0, rows), slice(None)),
        "corner": half,
    }[side]
    pixels[part] = grey
    return pixels


def sector(first_deg: float, points: np.ndarray) -> np.ndarray:
    """Without 60 degrees."""
    azimuth = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    return points[((azimuth - first_deg) % 360) >= 60]


def thinned(points: np.ndarray) -> np.ndarray:
    """Every second point of each ring: points of a ring follow one another."""
    return points[::2]


def thinned_at_random(points: np.ndarray) -> np.ndarray:
    """Half of the points."""
    return points[np.random.default_rng(len(points)).random(len(points)) < 0.5]


def blocked(points: np.ndarray) -> np.ndarray:
    """All returns from something at .4 m."""
    near = points.copy()
    near[:, :3] *= 0.4 / np.maximum(np.linalg.norm(points[:, :3], axis=1, keepdims=True), 1e-3)
    return near


def emptied(points: np.ndarray) -> np.ndarray:
    """No points."""
    return points[:0]


@dataclass(frozen=True)
class Fault:
    """A fault of one sensor.

    Attributes:
        check: that must find it. sensor: topic.
        picture, cloud: what becomes of one. stamp_s: added to stamps. keep: every which message is sent.
        frozen: the last message before the fault is repeated. silent: nothing is sent.
        jitter_s: of stamps. turn_deg: of the extrinsics, about x, y, z of the optical frame.
        allowed_s: for finding it.
    """

    check: str
    sensor: str
    picture: Made | None = None
    cloud: Made | None = None
    stamp_s: float = 0.0
    keep: int = 1
    frozen: bool = False
    silent: bool = False
    jitter_s: float = 0.0
    turn_deg: tuple[float, float, float] | None = None
    allowed_s: float = 2.0


FAULTS = {
    "camera/repeated": Fault("repeated", CAMERA, frozen=True),
    "camera/dark": Fault("mean_grey", CAMERA, dark),
    "camera/overexposed": Fault("saturated", CAMERA, overexposed),
    "camera/blurred": Fault("sharpness", CAMERA, blurred),
    **{
        f"camera/covered_{side}_{grey}": Fault("covered", CAMERA, partial(covered, side, grey))
        for side in ("left", "bottom", "top", "corner")
        for grey in (0, 60)
    },
    "lidar/sector": Fault("sector_deg", LIDAR, cloud=partial(sector, -40.0)),
    "lidar/half_the_points": Fault("points", LIDAR, cloud=thinned),
    "lidar/half_the_points_at_random": Fault("points", LIDAR, cloud=thinned_at_random),
    "lidar/blocked": Fault("near", LIDAR, cloud=blocked),
    "lidar/empty": Fault("empty", LIDAR, cloud=emptied),
    **{
        f"{name}/{what}": fault
        for name, topic in (("camera", CAMERA), ("lidar", LIDAR))
        for what, fault in {
            "stamps_ahead": Fault("stamps_ahead_s", topic, stamp_s=0.5),
            "stamps_behind": Fault("stamps_behind_s", topic, stamp_s=-0.5),
            "half_the_rate": Fault("rate", topic, keep=2),
            "jitter": Fault("jitter", topic, jitter_s=0.05),
            "silent": Fault("silence_s", topic, silent=True),
        }.items()
    },
    **{
        f"extrinsics/{axis}_{sign}3": Fault("rotation_deg", CAMERA, turn_deg=turn, allowed_s=10.0)
        for axis, unit in (("pitch", (1, 0, 0)), ("yaw", (0, 1, 0)), ("roll", (0, 0, 1)))
        for sign, turn in (
            ("+", tuple(3.0 * one for one in unit)),
            ("-", tuple(-3.0 * one for one in unit)),
        )
    },
}
FROM_START = (
    "dark",
    "overexposed",
    "blurred",
    "covered",
    "blocked",
    "empty",
    "stamps",
    "jitter",
    "extrinsics",
    "repeated",
)
"""Parts of names of faults that an absolute rule finds though they are there from the start."""

Event = tuple[int, str, bytes | None]


def events(drive: SensorDrive, fault: Fault | None, at_s: float, seconds: float) -> Iterator[Event]:
    """Time of arrival, topic and serialized message, in order; None for a moment without one."""
    rng = np.random.default_rng(1)
    count = len(drive.pictures)
    held: dict[str, Any] = {}
    for number in range(round(seconds * RATE_HZ)):
        t_s = number / RATE_HZ
        stamp_ns = START_NS + round(t_s * 1e9)
        arrival_ns = stamp_ns + round(DELAY_S * 1e9)
        for topic, value in ((LIDAR, drive.clouds[number % count]), (CAMERA, drive.pictures[number % count])):
            own, sent = stamp_ns, True
            if fault is not None and fault.sensor == topic and t_s >= at_s:
                make = fault.picture if topic == CAMERA else fault.cloud
                value = make(value) if make is not None else value
                value = held.get(topic, value) if fault.frozen else value
                own += round((fault.stamp_s + rng.uniform(-1, 1) * fault.jitter_s) * 1e9)
                sent = not fault.silent and number % fault.keep == 0
            held[topic] = value
            arrival_ns += 1000
            if not sent:
                yield arrival_ns, topic, None
            elif topic == LIDAR:
                yield arrival_ns, topic, encode_points(value, own, "lidar")
            else:
                yield arrival_ns, topic, encode_image(value, "bgr8", own, "camera")


def monitor_of(drive: SensorDrive, turn: Callable[[], np.ndarray] | None = None) -> HealthMonitor:
    """A monitor of both sensors; `turn` returns a (3, 3) that spoils the extrinsics."""

    def lookup(target: str, source: str, stamp_ns: int) -> np.ndarray:
        matrix = np.eye(4)
        if turn is not None:
            matrix[:3, :3] = turn()
        return matrix @ drive.camera_from_lidar

    monitor = HealthMonitor({CAMERA: IMAGE, LIDAR: POINTS}, lookup)
    monitor.sensors[CAMERA].model = drive.model
    return monitor


def play(drive: SensorDrive, fault: Fault | None, at_s: float, seconds: float) -> HealthMonitor:
    """Play a drive with a fault from `at_s` on, and return the monitor with what it found."""
    now_s = 0.0

    def turn() -> np.ndarray:
        spoilt = fault is not None and fault.turn_deg is not None and now_s >= at_s
        return cv2.Rodrigues(np.radians(fault.turn_deg if spoilt and fault else np.zeros(3)))[0]

    monitor = monitor_of(drive, turn)
    for arrival_ns, topic, data in events(drive, fault, at_s, seconds):
        now_s = (arrival_ns - START_NS) / 1e9
        monitor.poll(arrival_ns)
        if data is not None:
            monitor.take(topic, data, arrival_ns)
    return monitor


def found_s(monitor: HealthMonitor, fault: Fault, at_s: float) -> float | None:
    """Return the time from the start of a fault to its detection; None if it was missed."""
    since_ns = START_NS + round(at_s * 1e9)
    times = [
        (finding.found_ns - since_ns) / 1e9
        for finding in monitor.findings
        if (finding.sensor, finding.check) == (fault.sensor, fault.check) and finding.found_ns >= since_ns
    ]
    return min(times, default=None)
