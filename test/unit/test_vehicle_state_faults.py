"""A sensor that fails must not take the others with it, nor the state as far as the others know it."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, hypot, sin

import numpy as np
import pytest

from perception_rt.stage.vehicle_state import UpdateStatus, VehicleStateConfig, VehicleStateFilter
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
