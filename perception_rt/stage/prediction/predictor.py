"""Predict tracked objects: an interacting multiple model filter for each track, extrapolated by mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from perception_rt.stage.prediction import imm
from perception_rt.stage.prediction.motion import CYCLIST, PEDESTRIAN, TURN, VEHICLE, Motion, columns
from perception_rt.stage.prediction.noise import NoiseScale
from perception_rt.stage.prediction.paths import positions_ahead
from perception_rt.stage.prediction.spread import GAUSSIAN, Errors
from perception_rt.stage.road_users import canonical, group
from perception_rt.types import ConfigError, TrackingError, Tracks
from perception_rt.types.predictions import Predictions

LONGEST_STEP_S = 0.5
LONGEST_GAP_S = 5.0
MOST_STEPS = 1000
_OF_GROUP = {"pedestrian": PEDESTRIAN, "two-wheeler": CYCLIST}


@dataclass(frozen=True, slots=True)
class PredictorConfig:
    """The motion of the classes, and the prediction horizon.

    Attributes:
        motions: one entry for each class, in the order of the detector's labels.
        horizon_s: the last time, from now.
        step_s: time between moments, rounded so that the horizon is a whole number of steps.

    Raises:
        ConfigError: there is no class, or the horizon or the step is invalid.
    """

    motions: tuple[Motion, ...]
    horizon_s: float = 3.0
    step_s: float = 0.5

    def __post_init__(self) -> None:
        if not self.motions:
            raise ConfigError("motions=(): must be one a class")
        for name in ("horizon_s", "step_s"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be finite and positive")
        if not 0.5 <= self.horizon_s / self.step_s <= MOST_STEPS:
            raise ConfigError(f"step_s={self.step_s!r}: {self.horizon_s=} must hold 1 to {MOST_STEPS} of it")

    @property
    def times_s(self) -> np.ndarray:
        """(T,) float64, the times from now."""
        steps = max(round(self.horizon_s / self.step_s), 1)
        return np.arange(1, steps + 1) * (self.horizon_s / steps)


def motions_of(classes: Sequence[str], odometry: bool = True) -> tuple[Motion, ...]:
    """Return the motion of each class: pedestrians, riders, and vehicles for all others.

    Args:
        classes: names by label.
        odometry: whether positions are in a fixed frame. Otherwise they include the ego vehicle's motion, and
            their speed cannot be interpreted.
    """
    motions = (_OF_GROUP.get(group(canonical(name)), VEHICLE) for name in classes)
    return tuple(motion if odometry else replace(motion, normal_speed=None) for motion in motions)


class ObjectPredictor:
    """Predicts the objects of a tracker, frame by frame.

    It filters the detections themselves, because the positions of tracks are smoothed and have correlated
    errors. Only the initial velocity is that of the track.

    Args:
        config: motions, horizon and step.
    """

    def __init__(self, config: PredictorConfig) -> None:
        self.config = config
        self._table = columns(config.motions)
        self._noise = NoiseScale(len(config.motions))
        self._errors = Errors([motion.spread for motion in config.motions])
        self._stamp_ns = 0
        self._ids = np.zeros(0, np.int64)
        self._bank = imm.empty()

    def update(
        self,
        stamp_ns: int,
        tracks: Tracks,
        detected_xy: np.ndarray,
        detected_covariance: np.ndarray | None = None,
    ) -> Predictions:
        """Update with one frame and predict from it.

        A stamp that steps back, or ahead by more than LONGEST_GAP_S, resets the predictor.

        Args:
            stamp_ns: the moment of the tracks, ns.
            tracks: all tracks to predict; others are forgotten.
            detected_xy: (D, 2) m, the detections of this moment in the tracks' frame; `tracks.detection` has
                their indices.
            detected_covariance: (D, 2, 2) m^2, positive definite; None for those of the classes' motions.

        Raises:
            TrackingError: detections or tracks do not match or are not finite, a covariance is invalid, or a
                label has no class; the state is unchanged.
        """
        seen, xy, covariance = self._measured(tracks, detected_xy, detected_covariance)
        dt = self._advance(stamp_ns)
        stated, covariance = covariance, covariance * self._noise.of(tracks.labels)[:, None, None]
        known = self._align(tracks, xy, covariance)
        rows = np.flatnonzero(seen)
        variance = np.trace(stated[rows], axis1=1, axis2=2) / 2
        self._noise.observe(rows, self._stamp_ns * 1e-9, xy[rows], variance, tracks.labels[rows])
        again = np.flatnonzero(seen & known)
        imm.correct(self._bank, again, xy[again], covariance[again])
        velocity = (self._bank.weights[again, None] @ self._bank.mean[again, :, 2:4])[:, 0]
        self._errors.observe(again, dt, xy[again], velocity, tracks.labels)
        return self._predict(tracks)

    def _measured(
        self, tracks: Tracks, xy: np.ndarray, covariance: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which tracks are measured now, (N,) bool, with their positions and covariances."""
        rows = tracks.detection
        if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
            raise TrackingError("detected_xy", xy.shape, "must be (D, 2) and finite")
        _check_each("detection", rows, (rows >= -1) & (rows < len(xy)), f"there are {len(xy)} detections")
        known = (tracks.labels >= 0) & (tracks.labels < len(self._table))
        _check_each("labels", tracks.labels, known, f"the predictor knows {len(self._table)} classes")
        seen = rows >= 0
        positions = tracks.xyzlwh_yaw[:, :2].astype(np.float64)
        spread = tracks.covariance[:, :2, :2].astype(np.float64)
        positions[seen] = xy[rows[seen]]
        if covariance is None:
            spread[seen] = self._table["position"][tracks.labels[seen], None, None] ** 2 * np.eye(2)
        elif covariance.shape != (len(xy), 2, 2):
            raise TrackingError("detected_covariance", covariance.shape, f"must be {(len(xy), 2, 2)}")
        else:
            spread[seen] = covariance[rows[seen]]
        for name in ("xyzlwh_yaw", "velocity"):
            values = getattr(tracks, name)
            _check_each(name, values, np.isfinite(values).all(1), "must be finite")
        if len(np.unique(tracks.ids)) < len(tracks):
            raise TrackingError("ids", tracks.ids.tolist(), "must not hold one twice")
        _check_each("covariance", spread, _is_definite(spread), "must be positive definite")
        speeds = tracks.covariance[:, 3:5, 3:5]
        _check_each("covariance", speeds, _is_definite(speeds), "must be positive definite")
        return seen, positions, spread

    def _advance(self, stamp_ns: int) -> float:
        """Advance to the stamp and return the elapsed time, s."""
        dt = (stamp_ns - self._stamp_ns) * 1e-9
        self._stamp_ns = stamp_ns
        if not 0 <= dt <= LONGEST_GAP_S:
            self._ids, self._bank = np.zeros(0, np.int64), imm.empty()
            self._noise.forget()
            self._errors.forget()
        steps = int(np.ceil(dt / LONGEST_STEP_S)) if len(self._ids) else 0
        for _ in range(steps):
            imm.advance(self._bank, dt / steps)
        self._errors.advance(dt)
        return dt

    def _align(self, tracks: Tracks, xy: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Order the bank by the tracks, with new ones added, and return (N,) bool: which were known."""
        row_of = {identity: row for row, identity in enumerate(self._ids.tolist())}
        rows = np.array([row_of.get(identity, -1) for identity in tracks.ids.tolist()], np.int64)
        known, new = rows >= 0, np.flatnonzero(rows < 0)
        begun = imm.begin(
            xy[new],
            covariance[new],
            tracks.velocity[new].astype(np.float64),
            tracks.covariance[new, 3:5, 3:5].astype(np.float64),
            self._table[tracks.labels[new]],
        )
        self._noise.align(rows, known)
        self._errors.align(rows, known)
        rows[new] = len(self._bank) + np.arange(len(new))
        self._bank = self._bank.joined(begun)[rows]
        self._ids = tracks.ids.copy()
        return known

    def _predict(self, tracks: Tracks) -> Predictions:
        times = self.config.times_s
        paths, spreads, turned = positions_ahead(self._bank, times)
        weights = self._bank.weights
        xy, covariance = imm.mixture(weights, paths, spreads)
        half, most = self._errors.radii(tracks.labels, times)
        learned, half_distance = np.isfinite(most), np.full(most.shape, GAUSSIAN[0])
        half_distance[learned] = GAUSSIAN[1] * half[learned] / most[learned]
        # As large as the circle of 95 %, in the shape of the filter's ellipse.
        area = np.sqrt(np.linalg.det(covariance[learned]))
        covariance[learned] *= ((most[learned] / GAUSSIAN[1]) ** 2 / area)[:, None, None]
        yaw = tracks.xyzlwh_yaw[:, 6:].astype(np.float64) + weights[:, TURN, None] * turned
        return Predictions(
            self._stamp_ns + np.round(times * 1e9).astype(np.int64),
            tracks.ids.copy(),
            xy,
            (yaw + np.pi) % (2 * np.pi) - np.pi,
            covariance,
            half_distance,
            weights.copy(),
            paths,
        )


def _is_definite(matrix: np.ndarray) -> np.ndarray:
    """Return (N,) bool for (N, 2, 2); false if a number is not finite."""
    (a, b), (c, d) = matrix.transpose(1, 2, 0)
    return (a > 0) & (a * d > b * c) & np.isfinite(matrix).all((1, 2))


def _check_each(name: str, values: np.ndarray, good: np.ndarray, reason: str) -> None:
    if not good.all():
        row = int(good.argmin())
        raise TrackingError(f"{name}[{row}]", values[row].tolist(), reason)
