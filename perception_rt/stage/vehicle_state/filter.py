"""The vehicle's state from measurements that come late and out of order.

The filter keeps the measurements of the last `horizon_s` in the order of their stamps, each with the
estimate after it. A late one is put in its place and everything after it is computed again, gates included,
so that the result is to the last bit that of the same measurements in order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from math import isfinite

import numpy as np

from perception_rt.stage.vehicle_state.config import VehicleStateConfig
from perception_rt.stage.vehicle_state.estimate import Estimate, UpdateStatus
from perception_rt.stage.vehicle_state.estimator import Estimator
from perception_rt.stage.vehicle_state.observation import SIDEWAYS, fault_of
from perception_rt.types.state import EgoState, Measurement

PRUNE_AT = 64  # entries older than the history that are let go at once


Key = tuple[int, str, tuple[float, ...], list[float]]
"""What orders the history: stamp, sensor, values, noise."""


class _Entry:
    """A measurement in the history, its outcome, and the estimate `after` it, which `_replay` sets."""

    __slots__ = ("after", "key", "measurement", "outcome", "outcomes")

    def __init__(self, key: Key, measurement: Measurement) -> None:
        self.key, self.measurement = key, measurement
        self.outcome: UpdateStatus | None = None
        self.outcomes: dict[str, UpdateStatus] = {}
        self.after: Estimate


class VehicleStateFilter:
    """Position, yaw, speed, yaw rate and acceleration of the vehicle, from any of its sensors.

    For one thread.

    Args:
        config: vehicle and sensors.

    Attributes:
        counters: by sensor, the number of measurements by outcome. A late measurement can change the
            outcome of later ones; the counts follow.
        quantity_counters: the same by quantity, as ``imu.yaw_rate``.
        reasons: by sensor, why the last one that was not used was not.
        restarts: how often the filter began anew: the stamps left the history, or the numbers failed.
        failures: how often the numbers failed; `reasons` says by which measurement.
    """

    def __init__(self, config: VehicleStateConfig | None = None) -> None:
        self.config = config or VehicleStateConfig()
        self.counters: defaultdict[str, Counter[UpdateStatus]] = defaultdict(Counter)
        self.quantity_counters: defaultdict[str, Counter[UpdateStatus]] = defaultdict(Counter)
        self.reasons: dict[str, str] = {}
        self.restarts = 0
        self.failures = 0
        self._estimator = Estimator(self.config)
        self._latency_ns = {name: round(value * 1e9) for name, value in self.config.latency_s.items()}
        self._horizon_ns = round(self.config.horizon_s * 1e9)
        self._gap_ns = round(self.config.longest_gap_s * 1e9)
        self._entries: list[_Entry] = []
        self._newest_ns: int | None = None
        self._forget()

    def add(self, measurement: Measurement) -> UpdateStatus:
        """Take a measurement, with any stamp within the history or after it.

        Args:
            measurement: of one sensor.

        Returns:
            Its outcome; `UpdateStatus.used` if it changed the state.
        """
        sensor = measurement.sensor
        stamp_ns = measurement.stamp_ns - self._latency_ns.get(sensor, 0)
        outcome, reason = self._refusal(measurement, stamp_ns)
        if outcome is not None:
            self.counters[sensor][outcome] += 1
        else:
            try:
                outcome = self._insert(measurement, stamp_ns)
                reason = outcome.value
            except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
                outcome = self._fail(sensor)
                reason = str(error)
            if not outcome.used:
                reason = f"{type(measurement).__name__} {measurement.values} at {stamp_ns} ns: {reason}"
        if not outcome.used:
            self.reasons[sensor] = reason
        return outcome

    def reconfigure(self, config: VehicleStateConfig) -> None:
        """Go on with another config of the same latencies and horizon.

        Args:
            config: vehicle and sensors; `non_holonomic` as before.
        """
        self.config, self._estimator = config, Estimator(config)

    def state_at(self, stamp_ns: int) -> EgoState | None:
        """Return the state at a moment, from the measurements of up to then; later moments are predicted.

        Args:
            stamp_ns: the moment, ns.

        Returns:
            The state; None while position and yaw are not found yet, before the history, and `longest_gap_s`
            after its end.
        """
        after = bisect_right(self._entries, stamp_ns, key=_stamp)
        estimate = self._entries[after - 1].after if after else self._base
        if estimate.stamp_ns is None or not estimate.place.placed:
            return None
        if not 0 <= stamp_ns - estimate.stamp_ns <= self._gap_ns:
            return None
        now = self._estimator.predict(estimate, stamp_ns)
        x, y, yaw, speed, yaw_rate, acceleration = now.x[:6].tolist()
        covariance = now.covariance[:6, :6].copy()
        sideways = 0.0 if self.config.non_holonomic else float(now.x[SIDEWAYS])
        return EgoState(stamp_ns, x, y, yaw, speed, yaw_rate, acceleration, covariance, sideways)

    @property
    def estimate(self) -> Estimate:
        """The newest estimate, with the sensors' errors and the frame's origin."""
        return self._entries[-1].after if self._entries else self._base

    def _refusal(self, measurement: Measurement, stamp_ns: int) -> tuple[UpdateStatus | None, str]:
        """Why a measurement cannot enter the history, if it cannot; restarts when time itself has moved."""
        fault = fault_of(measurement)
        if fault is not None:
            return UpdateStatus.INVALID, fault
        if self._newest_ns is None or -self._horizon_ns <= stamp_ns - self._newest_ns <= self._gap_ns:
            self._outside = 0
            return None, ""
        self._outside += 1
        if self._outside >= self.config.restart_after:
            self._forget()
            self.restarts += 1
            return None, ""
        ahead_s = (stamp_ns - self._newest_ns) * 1e-9
        if ahead_s > 0:
            return UpdateStatus.STAMP_JUMP, f"stamp {ahead_s:.3f} s ahead of the newest"
        return UpdateStatus.TOO_LATE, f"stamp {-ahead_s:.3f} s before the newest"

    def _insert(self, measurement: Measurement, stamp_ns: int) -> UpdateStatus:
        noise = [value for row in measurement.noise for value in row]
        entry = _Entry((stamp_ns, measurement.sensor, measurement.values, noise), measurement)
        entries, at = self._entries, len(self._entries)
        if entries and entry.key <= entries[-1].key:
            at = bisect_left(entries, entry.key, key=_key)
            if entries[at].key == entry.key:
                self.counters[measurement.sensor][UpdateStatus.DUPLICATE] += 1
                return UpdateStatus.DUPLICATE
        entries.insert(at, entry)
        self._replay(at)
        self._newest_ns = entries[-1].key[0]
        if len(entries) > PRUNE_AT and entries[PRUNE_AT].key[0] < self._newest_ns - self._horizon_ns:
            self._base = entries[PRUNE_AT - 1].after
            del entries[:PRUNE_AT]
        return summary(entry.outcomes)

    def _fail(self, sensor: str) -> UpdateStatus:
        """Begin anew: a state that is not a number must not be published, nor end the node."""
        self.counters[sensor][UpdateStatus.FAILED] += 1
        self.failures += 1
        self.restarts += 1
        self._forget()
        return UpdateStatus.FAILED

    def _replay(self, start: int) -> None:
        """Compute the history from an entry on."""
        estimate = self._entries[start - 1].after if start else self._base
        for entry in self._entries[start:]:
            estimate, outcomes = self._estimator.step(estimate, entry.measurement, entry.key[0])
            if not _is_sound(estimate):
                raise ArithmeticError(f"covariance is not positive definite after {entry.measurement}")
            entry.after = estimate
            if outcomes != entry.outcomes:
                self._count(entry, outcomes)

    def _count(self, entry: _Entry, outcomes: dict[str, UpdateStatus]) -> None:
        """Count the outcomes of a measurement and its quantities, replacing the earlier ones."""
        sensor, overall = entry.measurement.sensor, summary(outcomes)
        for counted, sign in ((entry.outcomes, -1), (outcomes, 1)):
            for quantity, outcome in counted.items():
                self.quantity_counters[f"{sensor}.{quantity}"][outcome] += sign
        if overall is not entry.outcome:
            self.counters[sensor][overall] += 1
            if entry.outcome is not None:
                self.counters[sensor][entry.outcome] -= 1
        entry.outcome, entry.outcomes = overall, outcomes

    def _forget(self) -> None:
        self._entries = []
        self._base = self._estimator.first()
        self._newest_ns = None
        self._outside = 0


def summary(outcomes: dict[str, UpdateStatus]) -> UpdateStatus:
    """Return the outcome of a measurement: the best one of its quantities."""
    used = [outcome for outcome in outcomes.values() if outcome.used]
    if UpdateStatus.RECOVERED in used:
        return UpdateStatus.RECOVERED
    return used[0] if used else next(iter(outcomes.values()), UpdateStatus.UNUSED)


def _is_sound(estimate: Estimate) -> bool:
    """Whether the state is finite and its variances positive; a full decomposition would cost too much."""
    variances = estimate.covariance.diagonal().tolist()
    if not (min(variances) > 0 and isfinite(sum(estimate.x.tolist()))):
        return False
    return isfinite(np.add.reduce(estimate.covariance, None))


def _key(entry: _Entry) -> Key:
    return entry.key


def _stamp(entry: _Entry) -> int:
    return entry.key[0]
