"""A sensor that fails must not take the others with it, nor the state as far as the others know it."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, hypot, sin
from typing import NamedTuple

import numpy as np
import pytest

from perception_rt.stage.vehicle_state import UpdateStatus, VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.diagnosis import suspects
from perception_rt.stage.vehicle_state.geodesy import geodetic_from_enu
from perception_rt.stage.vehicle_state.observation import wrapped
from perception_rt.types.state import Fix, Imu, Twist

ORIGIN = np.array([48.1, 11.6, 520.0])
SECOND = 10**9
BEGIN_S, END_S = 15.0, 35.0
QUANTITIES = ("imu.yaw_rate", "imu.acceleration", "odometry.speed", "odometry.yaw_rate", "fix.position")
Fault = Callable[[float, float, np.random.Generator], float | None]


def _spikes(value: float, _: float, rng: np.random.Generator) -> float:
    return value + (rng.choice([-1, 1]) * 30 if rng.random() < 0.05 else 0.0)


FAULTS: dict[str, Fault] = {
    "frozen": lambda value, held, rng: held,
    "zero": lambda value, held, rng: 0.0,
    "scale": lambda value, held, rng: 1.5 * value,
    "wrong_sign": lambda value, held, rng: -value,
    "spikes": _spikes,
    "noise": lambda value, held, rng: value + rng.normal(0, 1.0),
    "dropout": lambda value, held, rng: None,
}


def driven(faulty: str, fault: str, seed: int = 0):
    """35 s of slalom with faster and slower parts; a quantity fails from BEGIN_S on.

    Returns:
        The filter, and for every 0.1 s since: errors of place, yaw, speed and yaw rate.
    """
    rng, lie = np.random.default_rng(seed), FAULTS[fault]
    ego = VehicleStateFilter(VehicleStateConfig())
    x = y = yaw = 0.0
    held: dict[str, float] = {}
    errors = []
    for tick in range(round(END_S * 100)):
        t, stamp = tick / 100, tick * SECOND // 100
        speed, rate, push = 5 - 2 * cos(t / 3), 0.3 * sin(t / 2) + 0.1, 2 / 3 * sin(t / 3)

        def read(name: str, value: float, sigma: float, t: float = t) -> float | None:
            value += rng.normal(0, sigma)
            if t < BEGIN_S or name != faulty:
                held[name] = value
                return value
            return lie(value, held[name], rng)

        gyro, force = read("imu.yaw_rate", rate, 0.005), read("imu.acceleration", push, 0.1)
        some = None if gyro is None else 2.5e-5, None if force is None else 0.01
        if gyro is not None or force is not None:
            ego.add(Imu(stamp, gyro, some[0], force, some[1]))
        if tick % 4 == 0:
            wheel, turn = read("odometry.speed", speed, 0.03), read("odometry.yaw_rate", rate, 0.01)
            told = None if wheel is None else 9e-4, None if turn is None else 1e-4
            if wheel is not None or turn is not None:
                ego.add(Twist(stamp, wheel, told[0], turn, told[1], "odometry"))
        if tick % 20 == 0:
            east, north = read("fix.position", x, 0.2), y + rng.normal(0, 0.2)
            if east is not None:
                where = geodetic_from_enu(np.array([east, north, 0.0]), ORIGIN).tolist()
                ego.add(Fix(stamp, *where, (0.04, 0.0, 0.04)))
        state = ego.state_at(stamp)
        if t > BEGIN_S and tick % 10 == 0:
            errors.append(
                (
                    hypot(state.x - x, state.y - y),
                    abs(wrapped(state.yaw - yaw)),
                    abs(state.speed - speed),
                    abs(state.yaw_rate - rate),
                )
            )
        x, y, yaw = x + speed * cos(yaw) / 100, y + speed * sin(yaw) / 100, yaw + rate / 100
    return ego, np.array(errors)


BORNE = [
    *[(name, fault) for name in QUANTITIES for fault in ("spikes", "noise", "dropout")],
    *[("imu.yaw_rate", fault) for fault in ("frozen", "zero", "wrong_sign")],
    *[("imu.acceleration", fault) for fault in ("frozen", "zero", "scale", "wrong_sign")],
    *[("odometry.yaw_rate", fault) for fault in ("frozen", "zero", "scale", "wrong_sign")],
]


@pytest.mark.parametrize(("faulty", "fault"), BORNE)
def test_a_bad_sensor_does_not_take_the_others_with_it(faulty, fault):
    """The last five seconds of twenty: by then the others must have prevailed."""
    ego, errors = driven(faulty, fault)
    place, yaw, speed, _ = errors[-50:].max(0)
    assert ego.failures == 0
    assert place < (1.2 if faulty == "fix.position" else 0.7)
    assert yaw < 0.1
    assert speed < 0.35
    for name in {*QUANTITIES} - {faulty, "fix.position"}:
        counts = ego.quantity_counters[name]
        assert counts[UpdateStatus.GATED] < 0.03 * sum(counts.values()), name
    lied = fault not in ("dropout", "frozen", "zero")
    if lied and (faulty, fault) != ("imu.acceleration", "scale") and faulty != "fix.position":
        worst = max(ego.estimate.excess, key=ego.estimate.excess.__getitem__)
        assert worst == faulty  # diagnostics name the sensor that is wrong


def test_a_frozen_gyro_is_counted_and_a_still_one_without_noise_is_used():
    ego, _ = driven("imu.yaw_rate", "frozen")
    assert ego.quantity_counters["imu.yaw_rate"][UpdateStatus.FROZEN] > 1900
    still = VehicleStateFilter(VehicleStateConfig(start_at_origin=True))
    for tick in range(200):
        still.add(Imu(tick * SECOND // 50, 0.2, 1e-4))
        still.add(Twist(tick * SECOND // 50, 1.0, 0.01, 0.2, 1e-4, "odometry"))
    assert still.quantity_counters["imu.yaw_rate"] == {UpdateStatus.ACCEPTED: 200}


# Errors that last, against the same drive without them. A car: no other yaw rate than the gyro's.


class Lie(NamedTuple):
    """A fault of one quantity, from BEGIN_S on.

    Attributes:
        quantity: which.
        of: its value, or the place, and the seconds since, to what the sensor says.
        most_m: how far the place may be off at any time, m.
        fix_sigma: what a fix states, m.
        named: whether diagnostics name the quantity.
    """

    quantity: str
    of: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    most_m: float
    fix_sigma: float = 0.2
    named: bool = True


EAST = np.array([1.0, 0.0])
LIES = {
    "wheels 10 % high": Lie("odometry.speed", lambda v, s, rng: 1.1 * v, 2.5),
    "wheels 10 % low": Lie("odometry.speed", lambda v, s, rng: 0.9 * v, 2.5),
    "wheels 50 % high": Lie("odometry.speed", lambda v, s, rng: 1.5 * v, 2.0),
    "wheels 1 m/s high": Lie("odometry.speed", lambda v, s, rng: v + 1, 2.5),
    "wheels dead": Lie("odometry.speed", lambda v, s, rng: 0 * v, 6.0),
    "gyro 5 % high": Lie("imu.yaw_rate", lambda v, s, rng: 1.05 * v, 1.0, named=False),
    "gyro 50 % high": Lie("imu.yaw_rate", lambda v, s, rng: 1.5 * v, 7.0, named=False),
    "gyro off by 0.02": Lie("imu.yaw_rate", lambda v, s, rng: v + 0.02, 3.0, named=False),
    "gyro off by 0.1": Lie("imu.yaw_rate", lambda v, s, rng: v + 0.1, 3.0),
    "gyro drifts": Lie("imu.yaw_rate", lambda v, s, rng: v + 0.01 * s, 4.0),
    "acceleration off by 1": Lie("imu.acceleration", lambda v, s, rng: v + 1, 1.0, named=False),
    "acceleration off by 3": Lie("imu.acceleration", lambda v, s, rng: v + 3, 1.0, named=False),
    "fix jumps 20 m for 5 s": Lie("fix.position", lambda p, s, rng: p + 20 * (s < 5) * EAST, 1.0),
    "fix jumps 5 m for 5 s": Lie("fix.position", lambda p, s, rng: p + 5 * (s < 5) * EAST, 1.0),
    "fix drifts 0.5 m/s": Lie(
        "fix.position", lambda p, s, rng: p + 0.5 * s * (s < 10) * EAST, 9, named=False
    ),
    "fix holds": Lie("fix.position", lambda p, s, rng: 0 * p, 1.5),
    "fix goes wild": Lie("fix.position", lambda p, s, rng: p + 30 * rng.normal(size=2), 10.0),
    "fix 3 m off, states 0.01": Lie("fix.position", lambda p, s, rng: p + 3 * EAST, 4.5, 0.01),
    "fix noise 3 m, states 0.01": Lie("fix.position", lambda p, s, rng: p + rng.normal(0, 3, 2), 8.0, 0.01),
}
CAR_END_S = 45.0


def lied_to(lie: Lie | None, seed: int = 0):
    """Drive for CAR_END_S; returns the filter, errors of place, m, every 0.1 s since, and who was named."""
    rng, faults = np.random.default_rng(seed), np.random.default_rng(seed + 100)
    ego, errors, named = VehicleStateFilter(VehicleStateConfig()), [], set()
    x = y = yaw = 0.0

    def read(name: str, value: np.ndarray | float, sigma: float, t: float) -> np.ndarray:
        value = value + rng.normal(0, sigma, np.shape(value))
        lies = lie is not None and name == lie.quantity and t >= BEGIN_S
        return lie.of(value, t - BEGIN_S, faults) if lies else value

    for tick in range(round(CAR_END_S * 50)):
        t, stamp = tick / 50, tick * SECOND // 50
        speed, rate, push = 8 - 3 * cos(t / 3), 0.2 * sin(t / 2) + 0.05, sin(t / 3)
        gyro, force = read("imu.yaw_rate", rate, 0.005, t), read("imu.acceleration", push, 0.1, t)
        ego.add(Imu(stamp, float(gyro), 2.5e-5, float(force), 0.01))
        if tick % 2 == 0:
            ego.add(Twist(stamp, float(read("odometry.speed", speed, 0.03, t)), 9e-4, sensor="odometry"))
        if tick % 10 == 0:
            place = read("fix.position", np.array([x, y]), 0.2, t)
            sigma = lie.fix_sigma if lie is not None and t >= BEGIN_S else 0.2
            where = geodetic_from_enu(np.array([*place, 0.0]), ORIGIN).tolist()
            ego.add(Fix(stamp, *where, (sigma**2, 0.0, sigma**2)))
        if t > BEGIN_S and tick % 5 == 0:
            state = ego.state_at(stamp)
            errors.append(hypot(state.x - x, state.y - y))
            named |= suspects(ego.estimate, ego.config).keys()
        x, y, yaw = x + speed * cos(yaw) / 50, y + speed * sin(yaw) / 50, yaw + rate / 50
    return ego, np.array(errors), named


@pytest.fixture(scope="module")
def honest():
    """The largest error of the drive without a fault; no quantity is named."""
    ego, errors, named = lied_to(None)
    assert not named
    rejected = ego.quantity_counters["fix.position"][UpdateStatus.GATED]
    assert rejected <= 3  # of 225: a fix that is as good as it says is used
    return errors.max()


@pytest.mark.parametrize("kind", LIES)
def test_an_error_that_lasts_stays_that_of_its_sensor(kind, honest):
    lie = LIES[kind]
    ego, errors, named = lied_to(lie)
    assert ego.failures == 0
    assert honest < 0.6
    assert errors.max() < lie.most_m
    if lie.quantity != "fix.position":  # the fixes are right, and bring the state back to what it was
        assert errors[-50:].max() < (6.0 if kind == "gyro 50 % high" else 3 * honest)
    if lie.named:
        assert lie.quantity in named
    for name in {"imu.yaw_rate", "imu.acceleration", "odometry.speed"} - {lie.quantity}:
        counts = ego.quantity_counters[name]
        assert counts[UpdateStatus.GATED] < 0.03 * sum(counts.values()), name


def test_a_sensor_that_agrees_again_is_used_again():
    """20 s without its fault: its measurements pass the gate."""
    lie = Lie("odometry.speed", lambda v, s, rng: 1.5 * v if s < 8 else v, 2.0)
    ego, errors, _ = lied_to(lie)
    assert errors.max() < lie.most_m
    assert "odometry.speed" not in ego.estimate.rejections
    assert ego.quantity_counters["odometry.speed"][UpdateStatus.GATED] < 8.5 * 25
