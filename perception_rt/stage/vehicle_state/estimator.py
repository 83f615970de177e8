"""One step of the filter, without memory: an estimate and a measurement give the next estimate.

An error-state Kalman filter over CTRA motion and the sensors' slow errors: the mean moves by the nonlinear
model, the covariance is that of its error, and the yaw's error is a small angle that is added and wrapped
(Sola, Quaternion kinematics for the error-state Kalman filter, 2017, reduced to the plane).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, exp, hypot, inf, sqrt
from operator import mul

import numpy as np

from perception_rt.stage.quantiles import chi_square_quantile
from perception_rt.stage.vehicle_state.config import VehicleStateConfig
from perception_rt.stage.vehicle_state.estimate import Estimate, Rejection, UpdateStatus
from perception_rt.stage.vehicle_state.geodesy import enu_from_geodetic
from perception_rt.stage.vehicle_state.kalman import Sight, correct, inverse_factor, sight
from perception_rt.stage.vehicle_state.motion import (
    ACCELERATION,
    MAX_STEP_S,
    SPEED,
    YAW,
    YAW_RATE,
    X,
    Y,
    advance,
    slide,
)
from perception_rt.stage.vehicle_state.observation import (
    EAST_OFFSET,
    GYRO_BIAS,
    SIDEWAYS,
    SIZE,
    SPEED_SCALE,
    MeasurementModel,
    Observation,
    wrapped,
)
from perception_rt.stage.vehicle_state.placing import LEAST_BASELINE_M, place_by_fix, place_by_pose, start
from perception_rt.types.state import Fix, Imu, Measurement, Pose, Twist

# A speed sensor's reading is speed times scale. Where the speed moves by more than this the correction is
# repeated about its own result (iterated Kalman filter; Bell and Cathey 1993): the first would take the scale
# for known.
RELINEARISE_M_S = 0.5
FROZEN_REPEATS = 20  # readings equal to the last bit
RECOVER_LEAST = 3  # rejections: one lie and a silence are no reason to believe the next
# Adaptive noise: the share of a new sample, the excess from which it counts (or its inverse), its bounds.
EXCESS_GAIN = 0.02
EXCESS_USED = 1.5
EXCESS_LEAST, EXCESS_MOST = 1e-3, 1e4
# Fixes are all that can contradict the rest: they must not fade away. But one may state centimetres that it
# does not hold.
EXCESS_MOST_FIX = 25.0
WORST_FIX = 900.0  # m^2, an axis
EXCESS_CLIP = 16.0  # squared sigmas: what is beyond tells no more
# What a vehicle can do at worst, and how fast it gets there: full braking, a skid.
WORST_ACCELERATION, WORST_JERK = 10.0, 50.0  # m/s^2, m/s^3
WORST_YAW_RATE, WORST_YAW_ACCELERATION = 1.5, 10.0  # rad/s, rad/s^2

EXCESS_DISAGREES = 25.0  # five declared sigmas
STANDS_EXCESS = 1000.0  # wheels that disagree by more do not tell that the vehicle stands
HOPELESS = 0.9 * EXCESS_MOST  # such a sensor is not the right one of two that disagree
RECONSIDER_S = 1.0  # for which fixes must have been rejected
DISTRUST_GAIN = 0.0005  # of a sensor that disagrees most: for a while it may agree by chance
# Fixes that contradict the state again and again, though their noise is known by now: a speed sensor or a
# gyro has another error than it had, and both errors are estimated anew.
STRAIN_GAIN = 0.1  # share of a new fix
STRAINED = 8.0
STRAINED_SIGMAS = ((SPEED_SCALE, 0.1), (GYRO_BIAS, 0.03), (YAW, 0.05))
# A fix that jumps: what it says of the way since agrees with the state, and dead reckoning does not go wrong
# by such a share of the way. It is believed when it has stayed for so many times `recover_after_s`; one that
# jumps about, later still.
STEADY_SHARE, SMOOTH_SHARE, RECKONING_SHARE = 0.25, 0.5, 0.1
SMOOTH_STEPS, JUMP_PATIENCE, WILD_PATIENCE = 2, 4.0, 20.0
# A sensor speaks for the state up to this normalised innovation squared, smoothed.
AGREES, AGREES_GAIN = 4.0, 0.3
DRIVING = 0.5  # m/s: a fix that repeats itself meanwhile is stale
STALE_REPEATS = 3
HEARD_S = 2.0  # a sensor that was accepted within it is at work
STOOD_S = 0.15  # a vehicle that stood so long ago, and has not been heard to drive since, stands
UNDECIDED_S = 0.1  # for which the word of another sensor is waited for
DISAGREEING = (
    (("yaw_rate",), YAW_RATE, WORST_YAW_RATE),
    (("speed", "acceleration"), SPEED, WORST_ACCELERATION),
)

Outcomes = dict[str, UpdateStatus]
"""By quantity, as ``speed`` or ``yaw_rate``."""


class Estimator:
    """The steps of the filter.

    Args:
        config: vehicle and sensors.
    """

    def __init__(self, config: VehicleStateConfig) -> None:
        self.config = config
        self._observer = MeasurementModel(config)
        self._gates = [chi_square_quantile(config.gate_probability, degrees) for degrees in (1, 2, 3)]
        size = SIZE + (not config.non_holonomic)
        self._transition, self._spread = np.eye(size), np.zeros((size, size))
        walks = (config.gyro_bias_walk, config.acceleration_bias_walk, config.speed_scale_walk)
        self._walks = [walk * walk for walk in walks]

    def first(self) -> Estimate:
        """Before any measurement."""
        return start(self.config)

    def predict(self, estimate: Estimate, stamp_ns: int) -> Estimate:
        """The estimate brought forward to a stamp that is not before its own."""
        if estimate.stamp_ns is None or stamp_ns == estimate.stamp_ns:
            return estimate._replace(stamp_ns=stamp_ns)
        dt = (stamp_ns - estimate.stamp_ns) * 1e-9
        steps = ceil(dt / MAX_STEP_S - 1e-9)
        mean, covariance = estimate.x.tolist(), estimate.covariance
        fade = self._prepare(dt / steps, estimate.place.offset_variance)
        for _ in range(steps):
            moved = advance(mean, dt / steps, self.config.motion, self._transition, self._spread)
            if not self.config.non_holonomic:
                x, y = slide(mean, mean[SIDEWAYS], dt / steps, self._transition)
                moved[X], moved[Y] = moved[X] + x, moved[Y] + y
            offsets = [value * fade for value in mean[EAST_OFFSET:SIZE]]
            mean = moved + mean[6:EAST_OFFSET] + offsets + mean[SIZE:]
            covariance = self._transition.dot(covariance).dot(self._transition.T)
            covariance = covariance + covariance.T
            covariance *= 0.5
            covariance += self._spread
        mean[YAW] = wrapped(mean[YAW])
        return Estimate(stamp_ns, np.array(mean), covariance, *estimate[3:])

    def step(self, before: Estimate, measurement: Measurement, stamp_ns: int) -> tuple[Estimate, Outcomes]:
        """Return the estimate at stamp_ns, and the outcome of each quantity of the measurement.

        Args:
            before: an estimate that is not later.
            measurement: one without a fault (`observation.fault_of`).
            stamp_ns: when it was measured, latency taken off.
        """
        now = self.predict(before, stamp_ns)
        if isinstance(measurement, Fix):
            return self._fix(now, measurement)
        if isinstance(measurement, Pose) and not now.place.placed:
            return place_by_pose(now, measurement), {"pose": UpdateStatus.ACCEPTED}
        outcomes: Outcomes = {}
        if isinstance(measurement, (Imu, Twist)) and measurement.yaw_rate is not None:
            now = _with_repeats(now, f"{measurement.sensor}.yaw_rate", (measurement.yaw_rate,))
        for name, observe in self._observer.quantities(measurement):
            key = f"{measurement.sensor}.{name}"
            if name == "standstill":
                disagrees = now.excess.get(f"{measurement.sensor}.speed", 1.0) > STANDS_EXCESS
                if disagrees or outcomes.get("speed") is UpdateStatus.GATED:
                    outcomes[name] = UpdateStatus.GATED  # the wheels only seem to stand
                    continue
            if isinstance(measurement, Imu) and name == "yaw_rate" and is_frozen(now, key):
                outcomes[name] = UpdateStatus.FROZEN
                continue
            if isinstance(measurement, Imu) and name == "yaw_rate" and _stands(now):
                after, outcomes[name] = self._correct(
                    now, key, self._observer.at_rest(measurement, now.x.tolist())
                )
                if outcomes[name] is UpdateStatus.ACCEPTED:
                    now = after
                    continue
            after, outcomes[name] = self._correct(now, key, observe(now.x.tolist()))
            if (
                outcomes[name] is UpdateStatus.ACCEPTED
                and abs(after.x[SPEED] - now.x[SPEED]) > RELINEARISE_M_S
            ):
                residual, jacobian, *noise = observe(after.x.tolist())
                residual = (residual - jacobian.dot(now.x - after.x)).tolist()
                after, outcomes[name] = self._correct(now, key, (residual, jacobian, *noise))
            now = after
        return now, outcomes

    def _prepare(self, dt: float, offset_variance: float) -> float:
        """Set the parts of the step that belong to the sensors' errors; returns what stays of the offset."""
        fade = exp(-dt / self.config.fix_correlation_time_s)
        for i, walk in enumerate(self._walks, 6):
            self._spread[i, i] = walk * dt
        for i in range(EAST_OFFSET, SIZE):
            self._transition[i, i] = fade
            self._spread[i, i] = offset_variance * (1 - fade * fade)
        if not self.config.non_holonomic:
            self._spread[SIDEWAYS, SIDEWAYS] = self.config.sideways_walk**2 * dt
        return fade

    def _fix(self, now: Estimate, fix: Fix) -> tuple[Estimate, Outcomes]:
        if self.config.start_at_origin:
            return now, {"position": UpdateStatus.UNUSED}
        if now.place.origin is None:
            now = now._replace(place=now.place._replace(origin=fix.values))
        east, north, _ = enu_from_geodetic(np.array(fix.values), np.array(now.place.origin)).tolist()
        if not now.place.placed:
            return place_by_fix(now, east, north, fix, self._observer), {"position": UpdateStatus.STARTING}
        offset = self._observer.offset_variance(fix)
        if offset != now.place.offset_variance:
            now = now._replace(place=now.place._replace(offset_variance=offset))
        key = f"{fix.sensor}.position"
        now = _with_repeats(now, key, fix.values)
        if is_stale(now, key):
            return now, {"position": UpdateStatus.FROZEN}
        observation = self._observer.of_fix(east, north, fix, now.x.tolist())
        now = self._strained(now, key, observation, fix)
        after, outcome = self._correct(now, key, observation, fix)
        if outcome is not UpdateStatus.GATED or after.rejections[key].number > 1:
            left = self._observer.of_fix(east, north, fix, after.x.tolist())[0]
            after = after._replace(left=tuple(left))
        return after, {"position": outcome}

    def _strained(self, now: Estimate, key: str, observation: Observation, fix: Fix) -> Estimate:
        """The estimate with the errors of speed and gyro unknown where fixes contradict it for long."""
        residual, jacobian, _, _ = observation
        rejected = now.rejections.get(key)
        if rejected is not None and not _is_growing(now, rejected, residual):
            return now
        scale = max(now.excess.get(key, 1.0), 1.0)
        spread = jacobian.dot(now.covariance).dot(jacobian.T).tolist()
        whitening = inverse_factor(spread, [[scale * value for value in row] for row in fix.noise])
        white = [sum(map(mul, row, residual)) for row in whitening]
        surprise = min(sum([y * y for y in white]) / len(white), EXCESS_CLIP)
        strain = now.strain + STRAIN_GAIN * (surprise - now.strain)
        if strain < STRAINED:
            return now._replace(strain=strain)
        covariance = now.covariance.copy()
        for state, sigma in STRAINED_SIGMAS:
            covariance[state, state] = max(covariance[state, state], sigma * sigma)
        return now._replace(covariance=covariance, strain=strain)

    def _correct(
        self, now: Estimate, key: str, observation: Observation, fix: Fix | None = None
    ) -> tuple[Estimate, UpdateStatus]:
        """Correct by one quantity, behind its gate and with the noise that it was found to have."""
        residual, jacobian, noise, left_out = observation
        assert now.stamp_ns is not None  # a prediction's
        outcome = UpdateStatus.ACCEPTED
        declared = sum([row[i] for i, row in enumerate(noise if fix is None else fix.noise)])
        seen = sight(now.covariance, jacobian)
        scale, excess = self._noise_scale(now, key, observation, seen, declared)
        if scale != 1.0 or left_out:
            noise = [[scale * value for value in row] for row in noise]
            noise[0][0] += left_out  # only quantities of one value have it
        gate = self._gates[len(residual) - 1]
        corrected = correct(now.x, now.covariance, residual, jacobian, noise, gate, seen)
        if corrected is None:
            first = Rejection(now.stamp_ns, 0, tuple(residual))
            since, count, *_ = rejected = now.rejections.get(key, first)
            seconds = (now.stamp_ns - since) * 1e-9
            if count < RECOVER_LEAST or self._is_refuted(now, key, rejected, residual):
                is_smooth = fix is not None and _step(now, residual) < SMOOTH_SHARE * hypot(*residual)
                smooth = rejected.smooth + 1 if is_smooth else 0
                rejections = {**now.rejections, key: rejected._replace(number=count + 1, smooth=smooth)}
                covariance = now.covariance
                if not _is_outvoted(now, key, since, undecided=True):
                    covariance = _suspect(covariance, jacobian, seconds)
                gated = now._replace(covariance=covariance, rejections=rejections, excess=excess)
                return gated, UpdateStatus.GATED
            outvoted = _is_outvoted(now, key, since)
            doubted = _doubt(now, fix is not None, residual, jacobian, seconds, outvoted)
            corrected = correct(now.x, doubted, residual, jacobian, noise, inf)
            if corrected is None:
                raise ArithmeticError(f"the correction by {key} is not a number")
            outcome = UpdateStatus.RECOVERED
        x, covariance = corrected
        if fix is not None and outcome is UpdateStatus.RECOVERED and seconds >= RECONSIDER_S:
            covariance, excess = _reconsidered(covariance, excess)
        x[YAW] = wrapped(x[YAW])
        kept = now.rejections
        if key in kept:
            kept = {name: seen for name, seen in kept.items() if name != key}
        accepted = {**now.accepted, key: (now.stamp_ns, _agreement(now, key, observation, seen))}
        after = now._replace(x=x, covariance=covariance, rejections=kept, excess=excess, accepted=accepted)
        return after, outcome

    def _is_refuted(self, now: Estimate, key: str, rejected: Rejection, residual: list[float]) -> bool:
        """Whether a quantity that its gate has rejected for a while goes on being rejected.

        A fix that has jumped, or jumps about. A speed or a yaw rate that another sensor contradicts, while
        fixes agree with the state.
        """
        assert now.stamp_ns is not None  # a prediction's
        seconds = (now.stamp_ns - rejected.since_ns) * 1e-9
        late = seconds >= self.config.recover_after_s
        if key.endswith(".position"):
            if _is_growing(now, rejected, residual):
                return not (late or now.strain > STRAINED)
            reckoned = (now.stamp_ns - now.accepted.get(key, (rejected.since_ns,))[0]) * 1e-9
            likely = hypot(*residual) < RECKONING_SHARE * abs(now.x[SPEED]) * reckoned
            wild = rejected.smooth < SMOOTH_STEPS
            patience = WILD_PATIENCE if wild else JUMP_PATIENCE
            return not (late and ((likely and not wild) or seconds > patience * self.config.recover_after_s))
        if not late:
            return True
        fixes = [at for name, (at, _) in now.accepted.items() if name.endswith(".position")]
        agree = now.strain < STRAINED and any(now.stamp_ns - at < HEARD_S * 1e9 for at in fixes)
        return agree and (key.endswith(".speed") or _is_outvoted(now, key, rejected.since_ns))

    def _noise_scale(
        self, now: Estimate, key: str, observation: Observation, seen: Sight, declared: float
    ) -> tuple[float, Mapping[str, float]]:
        """Return by how much the declared variance is multiplied, and what was learned from this residual.

        Innovation-based adaptive estimation (Mehra, On the identification of variances and adaptive Kalman
        filtering, 1970), smoothed, one number a quantity. A sensor may be worse than it declares; better only
        of a yaw rate, whose lasting errors are the gyro's bias and the wheels' slip. The errors of wheel
        speeds last, and innovations do not tell how long. Of a fix it is the white part.
        """
        residual, _, _, left_out = observation
        of_fix = key.endswith(".position")
        white = 1 - self.config.fix_correlated_share if of_fix else 1.0
        known = now.excess.get(key, white)
        used = known > EXCESS_USED * white or (known < 1 / EXCESS_USED and key.endswith(".yaw_rate"))
        scale = known / white if used else 1.0
        expected = sum([row[i] for i, row in enumerate(seen.spread)]) + left_out
        if of_fix and now.left is not None:
            # Two fixes and the way between them disagree by twice the noise, whatever the state's error.
            residual = [(new - old) / sqrt(2) for new, old in zip(residual, now.left, strict=True)]
            expected = 0.0
        surprise = sum([value * value for value in residual])
        # One outlier is no new noise.
        surprise = min(surprise, EXCESS_CLIP * (expected + scale * white * declared))
        sample = max(surprise - expected, 0.0) / declared
        most = max(EXCESS_MOST_FIX, 2 * WORST_FIX / declared) if of_fix else EXCESS_MOST
        kept = sample < known > EXCESS_DISAGREES and _is_worst(key, now.excess)
        gain = DISTRUST_GAIN if kept else EXCESS_GAIN
        learned = min(max(known + gain * (sample - known), EXCESS_LEAST), most)
        return scale, {**now.excess, key: learned}


def _reconsidered(
    covariance: np.ndarray, excess: Mapping[str, float]
) -> tuple[np.ndarray, Mapping[str, float]]:
    """Covariance and excess where fixes have contradicted the state for long.

    Of two sensors of the same that disagree, the one that was believed may be the wrong one: the other one is
    believed from now on. Fixes that go on to contradict turn that back.
    """
    for names, state, worst in DISAGREEING:
        keys = _of_the_same(names, excess)
        if len(keys) < 2 or excess[keys[0]] > EXCESS_DISAGREES:
            continue
        if not EXCESS_DISAGREES < excess[keys[-1]] < HOPELESS:
            continue
        excess = {**excess, keys[0]: excess[keys[-1]], keys[-1]: 1.0}
        covariance = covariance.copy()
        covariance[state, state] += worst * worst
    return covariance, excess


def _of_the_same(names: tuple[str, ...], excess: Mapping[str, float]) -> list[str]:
    """The quantities of these names, those nearest to their declared noise first."""
    return sorted([key for key in excess if key.rpartition(".")[2] in names], key=excess.__getitem__)


def _names_beside(key: str) -> tuple[str, ...]:
    """The names of what observes the same as a quantity; none where nothing else can."""
    own = key.rpartition(".")[2]
    return next((names for names, _, _ in DISAGREEING if own in names), ())


def _is_worst(key: str, excess: Mapping[str, float]) -> bool:
    """Whether a quantity is the worst of two or more that observe the same."""
    keys = _of_the_same(_names_beside(key), excess)
    return len(keys) > 1 and keys[-1] == key


def _is_growing(now: Estimate, rejected: Rejection, residual: list[float]) -> bool:
    """Whether rejected fixes are off by ever more, and not by the same, nor by chance: the way is wrong."""
    off = hypot(*residual)
    change = hypot(*[new - old for new, old in zip(residual, rejected.residual, strict=True)])
    return rejected.smooth >= SMOOTH_STEPS and change > STEADY_SHARE * off


def _step(now: Estimate, residual: list[float]) -> float:
    """By how much a fix is off otherwise than the last one, m."""
    return hypot(*[new - old for new, old in zip(residual, now.left or residual, strict=True)])


def _agreement(now: Estimate, key: str, observation: Observation, seen: Sight) -> float:
    """Mean normalised innovation squared of a quantity of one value, by its declared noise, smoothed."""
    residual, _, noise, left_out = observation
    if len(residual) > 1:
        return 1.0
    spread = seen.spread[0][0] + noise[0][0] + left_out
    before = now.accepted[key][1] if key in now.accepted else 1.0
    return before + AGREES_GAIN * (min(residual[0] ** 2 / spread, EXCESS_CLIP) - before)


def _is_heard(now: Estimate, key: str) -> bool:
    """Whether a quantity was accepted not long ago, and is not being rejected."""
    assert now.stamp_ns is not None  # a prediction's
    if key not in now.accepted or key in now.rejections:
        return False
    return now.stamp_ns - now.accepted[key][0] < HEARD_S * 1e9


def _is_outvoted(now: Estimate, key: str, since_ns: int, undecided: bool = False) -> bool:
    """Whether another sensor of the same was accepted since: then the state is not wrong.

    `undecided`: also while the others have not been heard yet since.
    """
    assert now.stamp_ns is not None  # a prediction's
    if undecided:
        since_ns = min(since_ns, now.stamp_ns - round(UNDECIDED_S * 1e9))
    others = [name for name in _of_the_same(_names_beside(key), now.excess) if name != key]
    heard = [now.accepted[name] for name in others if _is_heard(now, name)]
    return any(mean < AGREES and at > since_ns for at, mean in heard)


def _stands(now: Estimate) -> bool:
    """Whether the last word of a speed sensor was that the vehicle stands."""
    assert now.stamp_ns is not None  # a prediction's
    for key, (at, _) in now.accepted.items():
        if key.endswith(".standstill") and now.stamp_ns - at < STOOD_S * 1e9:
            speed = now.accepted.get(f"{key.rpartition('.')[0]}.speed", (at, 0.0))
            return speed[0] <= at
    return False


def _with_repeats(now: Estimate, key: str, value: tuple[float, ...]) -> Estimate:
    last, count = now.repeats.get(key, ((), 0))
    return now._replace(repeats={**now.repeats, key: (value, count + 1 if value == last else 1)})


def is_stale(now: Estimate, key: str) -> bool:
    """Whether fixes repeat themselves while a speed sensor says that the vehicle drives."""
    if now.repeats[key][1] < STALE_REPEATS or abs(now.x[SPEED]) < DRIVING:
        return False
    return any(name.endswith(".speed") and _is_heard(now, name) for name in now.accepted)


def is_frozen(now: Estimate, key: str) -> bool:
    """Whether a gyro repeats itself while another sensor of the yaw rate does not.

    A gyro has noise. Where all repeat themselves, as in a simulation without noise, none is frozen.
    """
    if now.repeats[key][1] < FROZEN_REPEATS:
        return False
    return any(
        count < FROZEN_REPEATS // 4
        for name, (_, count) in now.repeats.items()
        if name != key and name.endswith(".yaw_rate")
    )


def _suspect(covariance: np.ndarray, jacobian: np.ndarray, seconds: float) -> np.ndarray:
    """The covariance after a sensor of speed or turn has been rejected for so long.

    It may be wrong, or the vehicle does what no driver does without need. By as much as that can have changed
    its speed, acceleration and yaw rate meanwhile, the state may be wrong of them.
    """
    worst = np.zeros(len(covariance))
    if jacobian[:, SPEED].any():
        worst[SPEED] = WORST_ACCELERATION * seconds
    if jacobian[:, [SPEED, ACCELERATION]].any():
        worst[ACCELERATION] = min(WORST_JERK * seconds, WORST_ACCELERATION)
    if jacobian[:, YAW_RATE].any():
        worst[YAW_RATE] = min(WORST_YAW_ACCELERATION * seconds, WORST_YAW_RATE)
    covariance = covariance.copy()
    np.fill_diagonal(covariance, np.maximum(np.diag(covariance), worst * worst))
    return covariance


def _doubt(
    now: Estimate,
    of_fix: bool,
    residual: list[float],
    jacobian: np.ndarray,
    seconds: float,
    outvoted: bool,
) -> np.ndarray:
    """The covariance of a state that may be wrong by the residual, in whatever the measurement looks at.

    Of a fix that is the place, not the fixes' offset; and one that is off by a part of the way driven
    meanwhile may as well come from a wrong yaw. Where another sensor of the same agrees with the state, the
    doubt is of the sensor's own error, if that is estimated.
    """
    covariance = now.covariance.copy()
    if of_fix:
        way, miss = abs(now.x[SPEED]) * seconds, hypot(*residual)
        covariance[[X, Y], [X, Y]] += miss * miss
        if way > LEAST_BASELINE_M:
            covariance[YAW, YAW] += min(miss / way, 1.5) ** 2
        return covariance
    for row, value in zip(jacobian, residual, strict=True):
        found = np.flatnonzero(row)
        own = found[found >= GYRO_BIAS]
        for i in own if outvoted and len(own) else found:
            covariance[i, i] += value * value
    return covariance
