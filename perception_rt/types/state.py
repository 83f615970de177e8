"""The vehicle's state, what is measured of it, and its path ahead.

Positions and yaw are in a fixed frame (REP 105 odom or map: x east, y north where it is georeferenced);
speed, yaw rate and acceleration are those of base_link (REP 103: x forward, y left, z up), which lies on the
ground under the middle of the rear axle. Stamps are the sensors', ns. Covariances of several values are
given by their upper triangle in rows: that of x, y, yaw is (xx, xy, x yaw, yy, y yaw, yaw yaw).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

import numpy as np

Noise = list[list[float]]


@dataclass(frozen=True, slots=True)
class Twist:
    """Speed, and yaw rate where the source has one: wheel odometry, a CAN bus, nav_msgs/Odometry's twist.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        speed: forward, negative in reverse, m/s, or None.
        speed_variance: m^2/s^2, or None without speed.
        yaw_rate: rad/s, or None.
        yaw_rate_variance: rad^2/s^2, or None without yaw rate.
        sensor: the name under which it is counted and its latency is looked up.
        sideways: to the left, m/s, of a vehicle that can move so; or None.
        sideways_variance: m^2/s^2, or None without it.
    """

    stamp_ns: int
    speed: float | None
    speed_variance: float | None
    yaw_rate: float | None = None
    yaw_rate_variance: float | None = None
    sensor: str = "twist"
    sideways: float | None = None
    sideways_variance: float | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """What was measured."""
        values = self.speed, self.yaw_rate, self.sideways
        return tuple([value for value in values if value is not None])

    @property
    def noise(self) -> Noise:
        """The covariance of `values`."""
        return _diagonal(
            (self.speed, self.speed_variance),
            (self.yaw_rate, self.yaw_rate_variance),
            (self.sideways, self.sideways_variance),
        )


@dataclass(frozen=True, slots=True)
class Imu:
    """An IMU in base_link's axes.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        yaw_rate: about z, rad/s, or None.
        yaw_rate_variance: rad^2/s^2, or None without yaw rate.
        acceleration: specific force along x, m/s^2, or None.
        acceleration_variance: m^2/s^4, or None without acceleration.
        sensor: the name under which it is counted and its latency is looked up.
    """

    stamp_ns: int
    yaw_rate: float | None
    yaw_rate_variance: float | None
    acceleration: float | None = None
    acceleration_variance: float | None = None
    sensor: str = "imu"

    @property
    def values(self) -> tuple[float, ...]:
        """What was measured."""
        values = self.yaw_rate, self.acceleration
        return tuple([value for value in values if value is not None])

    @property
    def noise(self) -> Noise:
        """The covariance of `values`."""
        return _diagonal(
            (self.yaw_rate, self.yaw_rate_variance), (self.acceleration, self.acceleration_variance)
        )


@dataclass(frozen=True, slots=True)
class Fix:
    """A satellite fix on the WGS84 ellipsoid.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        latitude: degrees north.
        longitude: degrees east.
        altitude: m above the ellipsoid; NaN where the receiver has none.
        covariance: of east and north, upper triangle, m^2.
        sensor: the name under which it is counted and its latency is looked up.
        antenna: its x and y in base_link, m; None for that of the filter's parameters.
    """

    stamp_ns: int
    latitude: float
    longitude: float
    altitude: float
    covariance: tuple[float, float, float]
    sensor: str = "fix"
    antenna: tuple[float, float] | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """What was measured; an unknown altitude is 0."""
        return (self.latitude, self.longitude, 0.0 if isnan(self.altitude) else self.altitude)

    @property
    def noise(self) -> Noise:
        """The covariance of east and north."""
        xx, xy, yy = self.covariance
        return [[xx, xy], [xy, yy]]


@dataclass(frozen=True, slots=True)
class Pose:
    """base_link's pose in the filter's frame: localisation, or an odometry whose frame is taken over.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        x: of base_link, m.
        y: of base_link, m.
        yaw: rad.
        covariance: of x, y, yaw, upper triangle, m^2, m rad, rad^2.
        sensor: the name under which it is counted and its latency is looked up.
    """

    stamp_ns: int
    x: float
    y: float
    yaw: float
    covariance: tuple[float, float, float, float, float, float]
    sensor: str = "pose"

    @property
    def values(self) -> tuple[float, ...]:
        """What was measured."""
        return (self.x, self.y, self.yaw)

    @property
    def noise(self) -> Noise:
        """The covariance of `values`."""
        xx, xy, xz, yy, yz, zz = self.covariance
        return [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]


@dataclass(frozen=True, slots=True)
class Steering:
    """The angle of the steered wheels (of the bicycle model), not of the steering wheel.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        angle: rad, positive to the left.
        variance: of the angle, rad^2.
        sensor: the name under which it is counted and its latency is looked up.
    """

    stamp_ns: int
    angle: float
    variance: float
    sensor: str = "steering"

    @property
    def values(self) -> tuple[float, ...]:
        """What was measured."""
        return (self.angle,)

    @property
    def noise(self) -> Noise:
        """The covariance of `values`."""
        return [[self.variance]]


Measurement = Twist | Imu | Fix | Pose | Steering


@dataclass(frozen=True, slots=True, eq=False)
class EgoState:
    """Where the vehicle is and how it moves, at one moment.

    Attributes:
        stamp_ns: the moment it is valid at.
        x: of base_link, m.
        y: of base_link, m.
        yaw: rad in [-pi, pi).
        speed: m/s, negative in reverse.
        yaw_rate: rad/s.
        acceleration: of the speed, m/s^2.
        covariance: (6, 6) float64 of x, y, yaw, speed, yaw_rate, acceleration.
        sideways: speed to the left, m/s; zero but for omnidirectional vehicles.
    """

    stamp_ns: int
    x: float
    y: float
    yaw: float
    speed: float
    yaw_rate: float
    acceleration: float
    covariance: np.ndarray
    sideways: float = 0.0

    def __post_init__(self) -> None:
        _check("covariance", self.covariance, (6, 6))


@dataclass(frozen=True, slots=True, eq=False)
class EgoPath:
    """Where the vehicle will be, if it keeps its turn rate and acceleration.

    Attributes:
        stamps_ns: (T,) int64, the moments that the rows are for; the first is now.
        states: (T, 6) float64 x, y, yaw, speed, yaw_rate, acceleration.
        covariance: (T, 6, 6) float64.
    """

    stamps_ns: np.ndarray
    states: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.stamps_ns)
        _check("states", self.states, (n, 6))
        _check("covariance", self.covariance, (n, 6, 6))

    def __len__(self) -> int:
        return len(self.stamps_ns)


def _diagonal(*quantities: tuple[float | None, float | None]) -> Noise:
    """The covariance of the quantities that are given; NaN stands for a variance that is missing."""
    variances = [nan if variance is None else variance for value, variance in quantities if value is not None]
    if len(variances) == 2:  # the most frequent, and so without loops
        return [[variances[0], 0.0], [0.0, variances[1]]]
    return [[v if i == k else 0.0 for k in range(len(variances))] for i, v in enumerate(variances)]


def _check(field: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float64:
        raise ValueError(f"{field} must be {shape} float64, got {array.shape} {array.dtype}")
