"""How a road user moves between two moments: three modes over one state, for many objects at once.

The state is x, y, velocity x, velocity y, acceleration along the velocity, yaw rate. A velocity in Cartesian
parts has no singular heading at rest, where people and parked cars spend their time.

* `constant_velocity`: the velocity wanders slowly; nothing is known of acceleration and yaw rate.
* `turn`: constant turn rate and acceleration (CTRA; Schubert, Richter, Wanielik, FUSION 2008), both fading
  to 0 with a time constant (Singer 1970): they do not last long. Braking ends at rest, not in reverse.
* `stop`: the velocity fades to 0, so it brakes to rest and stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from perception_rt.stage.prediction.spread import Spread
from perception_rt.types import ConfigError

X, Y, VX, VY, ACCELERATION, YAW_RATE = range(6)
STATES = 6
MODES = ("constant_velocity", "turn", "stop")
CONSTANT_VELOCITY, TURN, STOP = range(3)
CREEP_M_S = (
    0.2  # below this speed the direction of travel is uncertain, and the acceleration along it fades out
)
LEAST_KEPT, MOST_KEPT = 0.2, 10.0  # of a keep time, at most twice as fast as normal
_LEGENDRE, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_NODES, _WEIGHTS = (_LEGENDRE + 1) / 2, _WEIGHTS / 2  # of Gauss-Legendre quadrature on [0, 1]
_MOMENTS, _MOMENT_WEIGHTS = np.append(_NODES, 1.0), np.append(_WEIGHTS, 0.0)  # the last one is the end


@dataclass(frozen=True, slots=True)
class Motion:
    """The motion and measurement parameters of a class; each can be interpreted on tracks of the class.

    Attributes:
        position: standard deviation of a detected position in x and in y, m, if the message has none.
        walk: density of white acceleration in all directions, m/s^2/sqrt(Hz), except in `stop`.
        keep_time_s: time constant with which a kept velocity is forgotten.
        acceleration, acceleration_time_s: standard deviation along the velocity in `turn`, m/s^2, and how
            long it lasts.
        yaw_rate, yaw_rate_time_s: standard deviation in `turn`, rad/s, and how long it lasts.
        stop_time_s: time constant of braking to rest.
        stop_speed: standard deviation of each part of the velocity of a standing object, m/s.
        start_speed: standard deviation of each part of the velocity of an object that starts again, m/s.
        turn_share, stop_share: shares of time in `turn` and `stop`; the rest is `constant_velocity`.
        mode_time_s: mean time after which the mode is drawn again.
        normal_speed: speed for which `keep_time_s` holds, m/s; the time is shorter for faster ones, as the
            square of the speed, and longer for slower ones. None: the same for all.
        spread: errors of predictions as recordings show them; None for the filter's own covariance.

    Raises:
        ConfigError: a value is not positive, or the shares leave no time for `constant_velocity`.
    """

    position: float
    walk: float
    keep_time_s: float
    acceleration: float
    acceleration_time_s: float
    yaw_rate: float
    yaw_rate_time_s: float
    stop_time_s: float
    stop_speed: float
    start_speed: float
    turn_share: float
    stop_share: float
    mode_time_s: float
    normal_speed: float | None = None
    spread: Spread | None = None

    def __post_init__(self) -> None:
        for name in (*NUMBERS, "normal_speed"):
            value = getattr(self, name)
            if value is None:
                continue
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{name}={value!r}: must be finite and positive")
        if self.turn_share + self.stop_share >= 1:
            shares = f"turn_share={self.turn_share!r}, stop_share={self.stop_share!r}"
            raise ConfigError(f"{shares}: must be below 1 together")


NUMBERS = tuple(field.name for field in fields(Motion) if field.name not in ("normal_speed", "spread"))

# Chosen by `python -m bench.tune --part pedestrians` on ETH, Hotel and zara1: each scene left out
# is below constant velocity. `position` is that of lidar, not of these recordings; `normal_speed` is
# the mean of people who walk (Weidmann, Transporttechnik der Fussgaenger, 1993).
PEDESTRIAN = Motion(
    position=0.1, walk=0.36, keep_time_s=75.0, acceleration=0.1, acceleration_time_s=1.5,
    yaw_rate=0.2, yaw_rate_time_s=1.7, stop_time_s=3.0, stop_speed=0.012, start_speed=0.27,
    turn_share=0.001, stop_share=0.001, mode_time_s=40.0, normal_speed=1.34,
    spread=Spread(
        base=0.04, restless=3.0,
        lead_half=(0.0701, 0.178, 0.318), lead_most=(0.387, 0.827, 1.3),
        horizons_s=(0.4, 0.8, 1.2, 2.0, 2.8, 3.6, 4.8),
        half=(0.0744, 0.191, 0.331, 0.656, 0.983, 1.29, 1.76),
        most=(0.392, 0.814, 1.28, 2.36, 3.68, 4.89, 7.01),
    ),
)  # fmt: skip
# By what riders and drivers do in towns; no recording here shows them for long enough to be tuned on.
CYCLIST = Motion(
    position=0.15, walk=0.35, keep_time_s=75.0, acceleration=0.6, acceleration_time_s=2.0,
    yaw_rate=0.2, yaw_rate_time_s=2.0, stop_time_s=2.0, stop_speed=0.02, start_speed=0.5,
    turn_share=0.35, stop_share=0.15, mode_time_s=15.0,
)  # fmt: skip
VEHICLE = Motion(
    position=0.2, walk=0.3, keep_time_s=75.0, acceleration=1.0, acceleration_time_s=2.0,
    yaw_rate=0.15, yaw_rate_time_s=3.0, stop_time_s=2.0, stop_speed=0.02, start_speed=0.5,
    turn_share=0.4, stop_share=0.3, mode_time_s=15.0,
)  # fmt: skip


def columns(motions: Sequence[Motion]) -> np.ndarray:
    """Return one row for each motion with its parameters as float64; NaN for None."""
    names = (*NUMBERS, "normal_speed")
    table = [tuple(getattr(motion, name) for name in names) for motion in motions]
    return np.array(table, [(name, float) for name in names])


def fading(time_s: np.ndarray, dt: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Advance an Ornstein-Uhlenbeck velocity by dt.

    Args:
        time_s: time constant. dt: s; the two broadcast.

    Returns:
        The remaining share of the velocity; its effect on the position, s; and the variance of the position
        for a velocity of stationary variance 1, s^2.
    """
    left = np.exp(-dt / time_s)
    gain = time_s * (1 - left)
    return left, gain, time_s * (2 * dt - 2 * gain - gain * (1 - left))


def keep_times(motion: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Return (N,) s, time constants with which objects of (N,) speeds, m/s, forget their velocity."""
    times = motion["normal_speed"] / np.maximum(speed, 1e-3)
    factor = (times**2).clip(LEAST_KEPT, MOST_KEPT)
    return motion["keep_time_s"] * np.where(np.isnan(factor), 1.0, factor)


def kept_variance(motion: np.ndarray) -> np.ndarray:
    """Return (N,) stationary variance of a velocity component in `constant_velocity`, m^2/s^2."""
    return motion["walk"] ** 2 * motion["keep_time_s"] / 2


def advance(
    mean: np.ndarray, covariance: np.ndarray, motion: np.ndarray, dt: float
) -> tuple[np.ndarray, np.ndarray]:
    """Advance every object in every mode by one step.

    Args:
        mean: (N, 3, 6). covariance: (N, 3, 6, 6).
        motion: (N,) of `columns`. dt: some tenths of a second at most.

    Returns:
        The same after dt.
    """
    steps = (
        _fade(mean[:, CONSTANT_VELOCITY], motion, "keep_time_s", kept_variance(motion), dt),
        turn(mean[:, TURN], motion, dt),
        _fade(mean[:, STOP], motion, "stop_time_s", motion["stop_speed"] ** 2, dt),
    )
    moved, jacobian, noise = (np.stack(parts, 1) for parts in zip(*steps, strict=True))
    return moved, jacobian @ covariance @ jacobian.swapaxes(-1, -2) + noise


def _fade(
    mean: np.ndarray, motion: np.ndarray, name: str, variance: np.ndarray, dt: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Advance an Ornstein-Uhlenbeck velocity by one step; returns the same as `turn`.

    Acceleration and yaw rate are reset to their prior, ready for a change to `turn`.
    """
    left, gain, position = fading(motion[name], dt)
    moved = np.zeros_like(mean)
    moved[:, :2] = mean[:, :2] + gain[:, None] * mean[:, 2:4]
    moved[:, 2:4] = left[:, None] * mean[:, 2:4]
    jacobian = np.zeros((len(mean), STATES, STATES))
    for at, rate in ((X, VX), (Y, VY)):
        jacobian[:, at, at], jacobian[:, at, rate], jacobian[:, rate, rate] = 1.0, gain, left
    noise = _isotropic(variance * position, variance * gain * (1 - left), variance * (1 - left**2))
    noise[:, ACCELERATION, ACCELERATION] = motion["acceleration"] ** 2
    noise[:, YAW_RATE, YAW_RATE] = motion["yaw_rate"] ** 2
    return moved, jacobian, noise


def _isotropic(position: np.ndarray, mixed: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Return (N, 6, 6) of (N,) variances of position and velocity and their covariance, equal in x and y."""
    noise = np.zeros((len(position), STATES, STATES))
    for at, rate in ((X, VX), (Y, VY)):
        noise[:, at, at], noise[:, rate, rate] = position, velocity
        noise[:, at, rate] = noise[:, rate, at] = mixed
    return noise


def turn(mean: np.ndarray, motion: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Advance CTRA by one step, by quadrature over dt.

    Args:
        mean: (N, 6). motion: (N,) of `columns`. dt: some tenths of a second at most.

    Returns:
        The mean after dt (N, 6), the Jacobian (N, 6, 6), and the noise's covariance (N, 6, 6).
    """
    return TurnStep(motion, dt).of(mean)


class TurnStep:
    """Steps of `turn` of one length: what depends on the motion alone is computed once.

    Vectors in the plane are complex numbers, x + iy, as turning them is then one product.

    Args:
        motion: (N,) of `columns`. dt: some tenths of a second at most.
    """

    def __init__(self, motion: np.ndarray, dt: float) -> None:
        self.dt = dt
        self._moments, self._weights = _MOMENTS * dt, _MOMENT_WEIGHTS * dt
        remaining = (1 - _NODES) * dt
        count, nodes = len(motion), len(_NODES)
        # What each kick of the acceleration or of the yaw rate at a node does until the end: to the position
        # and to the velocity along its direction, (N, 2, 2, 3), and to itself.
        self._pushes = np.empty((count, 2, 2, nodes))
        self._kicks = np.zeros((count, STATES, 2 * nodes))
        self._fades = []
        for mode, (row, name) in enumerate(((ACCELERATION, "acceleration"), (YAW_RATE, "yaw_rate"))):
            time_s = motion[name + "_time_s"]
            self._fades.append((row, np.exp(-dt / time_s)))
            size = motion[name][:, None] * np.sqrt(2 / time_s[:, None] * dt * _WEIGHTS)  # (N, 3)
            self._pushes[:, 0, mode] = size * remaining**2 / 2
            self._pushes[:, 1, mode] = size * remaining
            place = slice(mode * nodes, (mode + 1) * nodes)
            self._kicks[:, row, place] = size * np.exp(-remaining / time_s[:, None])
        power = motion["walk"] ** 2
        self._wander = _isotropic(power * dt**3 / 3, power * dt**2 / 2, power * dt)

    def of(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Advance (N, 6) by one step; returns the same as `turn`."""
        count, moments = len(mean), self._moments
        velocity = np.ascontiguousarray(mean[:, 2:4]).view(np.complex128)  # (N, 1)
        acceleration = mean[:, ACCELERATION, None]
        speed = np.abs(velocity)
        # Braking ends at rest: the acceleration acts until the speed is zero.
        acts = np.minimum(moments, speed / np.maximum(-acceleration, 1e-9))
        angle = mean[:, YAW_RATE, None] * moments
        # d velocity / d (velocity x, velocity y, acceleration, yaw rate), (N, 4, 4); along counts as fixed.
        by_state = np.empty((count, len(moments), 4), np.complex128)
        rotation = by_state[..., 0]
        rotation.real, rotation.imag = np.cos(angle), np.sin(angle)
        forward = rotation * (velocity / np.hypot(speed, CREEP_M_S))
        velocities = rotation * velocity + acceleration * acts * forward
        sideways = 1j * velocities
        by_state[..., 1], by_state[..., 2], by_state[..., 3] = (
            1j * rotation,
            forward * acts,
            sideways * moments,
        )

        moved = mean.copy()
        moved[:, :2] += _plane(velocities @ self._weights)
        moved[:, 2:4] = _plane(velocities[:, -1].copy())
        jacobian = np.zeros((count, STATES, STATES))
        jacobian[:, X, X] = jacobian[:, Y, Y] = 1
        integral, last = np.einsum("t,ntj->nj", self._weights, by_state), by_state[:, -1]
        jacobian[:, X, 2:], jacobian[:, Y, 2:] = integral.real, integral.imag
        jacobian[:, VX, 2:], jacobian[:, VY, 2:] = last.real, last.imag
        for row, fade in self._fades:
            moved[:, row] *= fade
            jacobian[:, row, row] = fade
        return moved, jacobian, self._noise(np.stack([forward[:, -1], sideways[:, -1]], 1))

    def _noise(self, directions: np.ndarray) -> np.ndarray:
        """Return (N, 6, 6) the noise of acceleration and yaw rate, integrated, and of wandering.

        Args:
            directions: (N, 2) complex, along which each of the two acts on the velocity at the end.
        """
        pushed = (directions[:, None, :, None] * self._pushes).reshape(len(directions), 2, 2 * len(_NODES))
        kicks = self._kicks.copy()
        kicks[:, X : VX + 1 : 2], kicks[:, Y : VY + 1 : 2] = pushed.real, pushed.imag
        return kicks @ kicks.swapaxes(-1, -2) + self._wander


def _plane(vectors: np.ndarray) -> np.ndarray:
    """Return (N, 2) of (N,) complex."""
    return vectors.view(np.float64).reshape(-1, 2)
