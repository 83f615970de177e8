"""What the filter assumes of the vehicle and its sensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite

from perception_rt.stage.vehicle_state.motion import MotionNoise
from perception_rt.types import ConfigError


@dataclass(frozen=True, slots=True)
class VehicleStateConfig:
    """Parameters of `VehicleStateFilter`; the defaults are those of a passenger car with a MEMS IMU.

    Attributes:
        motion: how the vehicle departs from constant turn rate and acceleration.
        start_at_origin: the frame begins where the vehicle is first heard of (an odom frame), and fixes are
            not used. Otherwise the state begins with a pose, or once fixes tell position and yaw.
        latency_s: by sensor name: how much later than the moment it measured a sensor stamps its message.
        fix_lever_arm_m: the antenna's x and y in base_link, of fixes that do not say theirs.
        fix_correlated_share: the part of a fix's variance that persists (orbits, atmosphere, multipath), and
            is estimated as an offset; the rest is white. In [0, 1).
        fix_correlation_time_s: how long it persists.
        wheelbase_m: for steering angles.
        speed_scale_sigma: relative error of speed sensors at the start.
        gyro_bias_sigma: at the start, rad/s.
        acceleration_bias_sigma: at the start, m/s^2; includes the IMU's pitch.
        speed_scale_walk: change of the relative error, per sqrt(s).
        gyro_bias_walk: change of the bias, rad/s per sqrt(s).
        acceleration_bias_walk: change of the bias, m/s^2 per sqrt(s); includes changes of the road's grade.
        standstill_speed: below this reading a car stands, and so cannot turn, m/s.
        turns_in_place: whether the vehicle can turn while it stands (skid or differential steering).
        non_holonomic: the vehicle does not move sideways at base_link (cars, differential drives). Otherwise
            its sideways speed is estimated too (omnidirectional wheels).
        sideways_walk: change of the sideways speed, m/s per sqrt(s).
        gate_probability: of a right measurement to pass its gate.
        recover_after_s: a sensor whose every measurement was rejected for so long is believed again.
        horizon_s: how late a measurement may come; what is older is refused.
        longest_gap_s: a stamp so far ahead of all others is refused.
        restart_after: successive measurements of any sensor outside those two bounds restart the filter: the
            clock was set, or a recording began anew.
    """

    motion: MotionNoise = field(default_factory=MotionNoise)
    start_at_origin: bool = False
    latency_s: Mapping[str, float] = field(default_factory=dict)
    fix_lever_arm_m: tuple[float, float] = (0.0, 0.0)
    fix_correlated_share: float = 0.8
    fix_correlation_time_s: float = 60.0
    wheelbase_m: float = 2.7
    speed_scale_sigma: float = 0.015
    gyro_bias_sigma: float = 0.005
    acceleration_bias_sigma: float = 0.7
    speed_scale_walk: float = 1e-4
    gyro_bias_walk: float = 5e-5
    acceleration_bias_walk: float = 0.05
    standstill_speed: float = 0.02
    turns_in_place: bool = False
    non_holonomic: bool = True
    sideways_walk: float = 1.0
    gate_probability: float = 0.999
    recover_after_s: float = 3.0
    horizon_s: float = 1.0
    longest_gap_s: float = 10.0
    restart_after: int = 50

    def __post_init__(self) -> None:
        for name, low, high in _BOUNDS:
            _within(name, getattr(self, name), low, high)
        for name in (entry.name for entry in fields(self.motion)):
            high = 1e9 if name.endswith("_s") else 1e3
            _within(f"motion.{name}", getattr(self.motion, name), 1e-9, high)
        for sensor, value in self.latency_s.items():
            _within(f"latency_s[{sensor!r}]", value, -self.horizon_s, self.horizon_s)
        for value in self.fix_lever_arm_m:
            _within("fix_lever_arm_m", value, -100.0, 100.0)


_BOUNDS = (
    ("fix_correlated_share", 0.0, 0.999),
    ("fix_correlation_time_s", 0.1, 1e6),
    ("wheelbase_m", 0.1, 30.0),
    ("speed_scale_sigma", 1e-6, 0.5),
    ("gyro_bias_sigma", 1e-7, 1.0),
    ("acceleration_bias_sigma", 1e-6, 20.0),
    ("speed_scale_walk", 1e-9, 0.1),
    ("gyro_bias_walk", 1e-9, 0.1),
    ("acceleration_bias_walk", 1e-9, 10.0),
    ("standstill_speed", 0.0, 1.0),
    ("sideways_walk", 1e-9, 100.0),
    ("gate_probability", 0.5, 1 - 1e-9),
    ("recover_after_s", 0.0, 1e4),
    ("horizon_s", 0.0, 60.0),
    ("longest_gap_s", 0.1, 3600.0),
    ("restart_after", 1, 1_000_000),
)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name}={value!r}: give a number in [{low:g}, {high:g}]")


def without_gravity(config: VehicleStateConfig) -> VehicleStateConfig:
    """Of an IMU that takes gravity off by its attitude: slopes are not in its acceleration.

    A degree of error of the attitude leaves 0.17 m/s^2.
    """
    return replace(config, acceleration_bias_sigma=0.2, acceleration_bias_walk=0.02)
