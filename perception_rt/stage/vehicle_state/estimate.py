"""The filter's memory of one moment, and what becomes of a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import numpy as np


class UpdateStatus(str, Enum):
    """Outcome of a measurement; the value is its name in lower case."""

    __hash__ = str.__hash__  # a few times faster than Enum's own

    ACCEPTED = "accepted"
    STARTING = "starting"  # a fix that helps to find position and yaw
    RECOVERED = "recovered"  # accepted, because its sensor had been rejected for long
    GATED = "gated"  # outside the chi-square gate
    FROZEN = "frozen"  # the same to the last bit: a gyro while the wheels turn, a fix while they drive
    UNUSED = "unused"  # a fix, where the frame begins at the vehicle
    INVALID = "invalid"  # not finite, no covariance, not on the Earth
    DUPLICATE = "duplicate"
    TOO_LATE = "too_late"  # older than the history
    STAMP_JUMP = "stamp_jump"  # far ahead of all others
    FAILED = "failed"  # the numbers broke down, and the filter began anew

    @property
    def used(self) -> bool:
        """Whether the state knows of the measurement."""
        return self in _USED


_USED = frozenset((UpdateStatus.ACCEPTED, UpdateStatus.STARTING, UpdateStatus.RECOVERED))


class Anchor(NamedTuple):
    """The fix from which the way is measured that tells the yaw."""

    stamp_ns: int
    east: float
    north: float


class Place(NamedTuple):
    """How the state stands in the fixed frame.

    Attributes:
        placed: whether position and yaw are those of the fixed frame; until then they count from the anchor.
        origin: latitude, longitude in degrees and altitude in m of the frame's origin: the first fix.
        anchor: while not placed, once there is a fix.
        offset_variance: of the fixes' persistent offset, an axis, m^2.
    """

    placed: bool
    origin: tuple[float, ...] | None
    anchor: Anchor | None
    offset_variance: float


class Rejection(NamedTuple):
    """Measurements of a quantity that its gate rejects in a row.

    Attributes:
        since_ns: stamp of the first.
        number: how many.
        residual: of the first.
        smooth: of fixes, how many of the last were off as the one before, nearly.
    """

    since_ns: int
    number: int
    residual: tuple[float, ...]
    smooth: int = 0


class Estimate(NamedTuple):
    """The filter at one moment; never changed in place.

    Attributes:
        stamp_ns: None before the first measurement.
        x: (11,) mean, in the order of `motion` and `observation`; (12,) of an omnidirectional vehicle.
            covariance: of x.
        place: how it stands in the fixed frame.
        rejections: by quantity (as ``imu.yaw_rate``), while its gate rejects.
        excess: by quantity, estimated variance of its noise over the declared one, smoothed; bounded.
        repeats: by quantity of yaw rate or position, its last value and how often in a row it came.
        accepted: by quantity, of the last one that was accepted: stamp, and how well it agreed.
        left: (east, north) m, of the last fix from the state after it; None before the first.
        strain: of the fixes, mean of the normalised innovation squared over its degrees, smoothed; 1 where
            fixes and state are as sure as they say.
    """

    stamp_ns: int | None
    x: np.ndarray
    covariance: np.ndarray
    place: Place
    rejections: Mapping[str, Rejection]
    excess: Mapping[str, float]
    repeats: Mapping[str, tuple[tuple[float, ...], int]]
    accepted: Mapping[str, tuple[int, float]] = {}
    left: tuple[float, ...] | None = None
    strain: float = 1.0
