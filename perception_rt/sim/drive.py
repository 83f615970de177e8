"""A seeded drive: camera image, point cloud, ground truth and vehicle signals at any time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from perception_rt.sim.camera import Camera
from perception_rt.sim.lidar import AZIMUTH_STEPS, Lidar, LidarSample
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.render import draw_objects
from perception_rt.sim.scene import Look, background, draw_road, to_base
from perception_rt.sim.world import World, WorldObjects
from perception_rt.types import ConfigError, Detections2D

# Objects that an annotator would label: large enough, visible enough, not a sliver at the image's edge.
MIN_HEIGHT_PX = 14.0
MIN_WIDTH_PX = 5.0
MIN_VISIBLE = 0.4
MIN_INSIDE = 0.2
MIN_AREA = 0.01  # of the image: an object this large is labelled even if most of it lies outside

_KEPT_BYTES = 16 << 20
GRAVITY = 9.80665
GYRO_SIGMA = 0.003
ACCEL_SIGMA = 0.06
ODOM_V_SIGMA = 0.05
ODOM_YAW_RATE_SIGMA = 0.004


@dataclass(frozen=True, slots=True, eq=False)
class Objects3D:
    """Labelled objects within sensor range in base_link, including occluded ones.

    Attributes:
        xyzlwh_yaw: (N, 7) float64, centre x y z, length width height, yaw (relative to the ego), m and rad.
        velocity: (N, 2) float64, over ground, in base_link axes, m/s.
        labels: (N,) int64, index into SIM_CLASSES. ids: (N,) int64.
    """

    xyzlwh_yaw: np.ndarray
    velocity: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class ImuSample:
    """An IMU in base_link: (3,) rad/s and (3,) m/s^2; at rest it measures gravity upward (REP 145)."""

    angular_velocity: np.ndarray
    linear_acceleration: np.ndarray


@dataclass(frozen=True, slots=True)
class Odometry:
    """Wheel odometry in base_link: forward speed, m/s, and yaw rate, rad/s, with white noise."""

    v: float
    yaw_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class DriveSample:
    """One moment of a drive.

    Attributes:
        stamp_ns: time since the drive's start, ns.
        image: (H, W, 3) uint8 RGB.
        truth: the labelled objects, with score 1 and labels into SIM_CLASSES.
        truth_ids: (N,) int64, constant over the drive; the same ids as in objects3d.
        objects3d: the labelled objects around the vehicle, in base_link.
        ego: the true state. camera: intrinsics and mounting.
    """

    stamp_ns: int
    image: np.ndarray
    truth: Detections2D
    truth_ids: np.ndarray
    objects3d: Objects3D
    ego: SimulatedEgo
    camera: Camera


class Drive:
    """An endless drive through a random world; every method depends only on seed, time and sensor.

    Args:
        seed: any non-negative int. size: (width, height) of the image, px.
        azimuth_steps: columns of a lidar revolution, with 64 rings each.

    Raises:
        ConfigError: an invalid seed, size or number of steps.
    """

    def __init__(
        self, seed: int, size: tuple[int, int] = (960, 540), azimuth_steps: int = AZIMUTH_STEPS
    ) -> None:
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ConfigError(f"seed={seed!r}: give a non-negative integer")
        if len(size) != 2 or min(size) < 64 or max(size) > 8192:
            raise ConfigError(f"size={size!r}: give (width, height), each 64 to 8192 px")
        self.seed, self.size = int(seed), (int(size[0]), int(size[1]))
        self.camera = Camera.of_size(self.size)
        self.world = World(self.seed)
        self.look = Look(self.camera, self.seed)
        self._lidar = Lidar(self.world, azimuth_steps)
        # After freeing a large block, glibc keeps blocks of that size (mallopt(3), M_MMAP_THRESHOLD).
        # Otherwise the blocks of every image and cloud return to the kernel, which clears them each time.
        np.empty(_KEPT_BYTES, np.uint8)

    @cached_property
    def _grain(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the camera's noise, uint8 to add and to subtract; larger than the image, to be shifted."""
        rng = np.random.default_rng([self.seed, 5])
        width, height = self.size
        grain = rng.standard_normal((height + 64, width + 64, 3), np.float32) * np.float32(self.look.noise)
        return cv2.convertScaleAbs(np.maximum(grain, 0)), cv2.convertScaleAbs(np.minimum(grain, 0))

    def sample(self, t_s: float) -> DriveSample:
        """Return everything at t_s: the rendered image and the ground truth.

        Args:
            t_s: seconds since the start, >= 0.

        Raises:
            ConfigError: a time that is negative or not finite.
        """
        ego, objects = self.ego(t_s), self.world.objects(t_s)
        image = background(self.look, ego)
        draw_road(image, self.look, self.world, ego, self.world.ego.s(t_s))
        drawn = draw_objects(image, self.look, ego, objects, MIN_HEIGHT_PX)
        rng = self._rng(6, t_s)
        oy, ox = rng.integers(0, 64, 2)
        roi = slice(oy, oy + self.size[1]), slice(ox, ox + self.size[0])
        brighter, darker = self._grain
        cv2.add(image, brighter[roi], image)
        cv2.subtract(image, darker[roi], image)
        wide, high = drawn.xyxy[:, 2] - drawn.xyxy[:, 0], drawn.xyxy[:, 3] - drawn.xyxy[:, 1]
        keep = (high >= MIN_HEIGHT_PX) & (wide >= MIN_WIDTH_PX) & (drawn.visible >= MIN_VISIBLE)
        large = np.minimum(MIN_INSIDE * drawn.unclipped_area, MIN_AREA * self.size[0] * self.size[1])
        keep &= (objects.labels >= 0) & (wide * high >= large)
        truth = Detections2D(drawn.xyxy[keep], np.ones(int(keep.sum()), np.float32), objects.labels[keep])
        return DriveSample(
            round(t_s * 1e9), image, truth, objects.ids[keep], _in_base(ego, objects), ego, self.camera
        )

    def ego(self, t_s: float) -> SimulatedEgo:
        """Return the true state of the vehicle; raises as `sample`."""
        if not (np.isfinite(t_s) and t_s >= 0):
            raise ConfigError(f"t_s={t_s!r}: give a finite time >= 0")
        return self.world.ego.state(t_s)

    def objects3d(self, t_s: float) -> Objects3D:
        """Return the labelled objects around the vehicle, without rendering; raises as `sample`."""
        return _in_base(self.ego(t_s), self.world.objects(t_s, scenery=False))

    def lidar(self, t_s: float) -> LidarSample:
        """Return the lidar's revolution at t_s and its truth, without the image; raises as `sample`."""
        self.ego(t_s)  # checks t_s
        return self._lidar.scan(t_s, self._rng(9, t_s))

    def imu(self, t_s: float) -> ImuSample:
        """Return the IMU's reading with white noise of GYRO_SIGMA and ACCEL_SIGMA; raises as `sample`."""
        ego, rng = self.ego(t_s), self._rng(7, t_s)
        return ImuSample(
            np.array([0, 0, ego.yaw_rate]) + rng.normal(0, GYRO_SIGMA, 3),
            np.array([ego.accel, ego.v * ego.yaw_rate, GRAVITY]) + rng.normal(0, ACCEL_SIGMA, 3),
        )

    def odometry(self, t_s: float) -> Odometry:
        """Return speed and yaw rate with noise of the ODOM sigmas; raises as `sample`."""
        ego, rng = self.ego(t_s), self._rng(8, t_s)
        return Odometry(
            ego.v + rng.normal(0, ODOM_V_SIGMA), ego.yaw_rate + rng.normal(0, ODOM_YAW_RATE_SIGMA)
        )

    def _rng(self, stream: int, t_s: float) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, round(t_s * 1e9)])


def _in_base(ego: SimulatedEgo, objects: WorldObjects) -> Objects3D:
    kept = objects.labels >= 0
    x, y = to_base(ego, objects.xyz[kept, 0], objects.xyz[kept, 1])
    yaw = (objects.yaw[kept] - ego.yaw + np.pi) % (2 * np.pi) - np.pi
    still = SimulatedEgo(0, 0, ego.yaw, 0, 0, 0)
    vx, vy = to_base(still, objects.velocity[kept, 0], objects.velocity[kept, 1])
    return Objects3D(
        np.column_stack([x, y, objects.xyz[kept, 2], objects.lwh[kept], yaw]),
        np.stack([vx, vy], -1),
        objects.labels[kept],
        objects.ids[kept],
    )
