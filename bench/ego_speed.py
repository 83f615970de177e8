"""The time per measurement of the ego filter, including history and replay, and its long-term stability.

The messages are those of a real drive where the recordings are here, else of a simulated one, each handed
over as late as a real system would: by its sensor's transport, and fixes by their receiver too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from bench.comma2k19 import read_segment
from bench.ego_accuracy import SEGMENT
from bench.ego_comma2k19 import CONFIG
from bench.ego_simulated import measurements
from bench.rows import Row, row
from perception_rt.sim.drive import Drive
from perception_rt.stage.prediction.ego import predict_path
from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.estimator import Estimator
from perception_rt.types.state import Imu, Measurement, Steering, Twist

TRANSPORT_S = {Twist: 0.01, Imu: 0.002}  # mean delay of bus and driver; exponential
REPEATS = 5
STEPS = 1_000_000


def ego_speed_rows(quick: bool) -> list[Row]:
    """Every row of this file; all of one core's own time."""
    drive = (
        read_segment(SEGMENT).measurements if SEGMENT.is_file() else list(measurements(Drive(1, (64, 64)), 1))
    )
    arrived = in_order_of_arrival(drive)
    repeats = 1 if quick else REPEATS
    late_us = min(us_per_measurement(arrived) for _ in range(repeats))
    ordered_us = min(us_per_measurement(drive, VehicleStateConfig()) for _ in range(repeats))
    steps = STEPS // 100 if quick else STEPS
    smallest, asymmetry = covariance_after(steps)
    return [
        row("ego/us_per_measurement", late_us, "us", "<= 50 us amortised, late ones replayed"),
        row("ego/us_per_measurement_in_order", ordered_us, "us"),
        row("ego/us_per_path_of_3s", us_per_path(200 if quick else 1000), "us"),
        row("ego/steps", steps, "steps"),
        row("ego/covariance_smallest_eigenvalue", smallest, "of the correlation matrix", "> 0"),
        row("ego/covariance_asymmetry", asymmetry, "absolute", "<= 0"),
    ]


def in_order_of_arrival(drive: Sequence[Measurement]) -> list[Measurement]:
    """Return the messages in order of arrival; the latency of a fix is already in its stamp."""
    rng = np.random.default_rng(0)
    delays = [rng.exponential(TRANSPORT_S.get(type(measurement), 0.0)) for measurement in drive]
    arrivals = [measurement.stamp_ns + delay * 1e9 for measurement, delay in zip(drive, delays, strict=True)]
    return [drive[at] for at in np.argsort(arrivals, kind="stable")]


def us_per_measurement(drive: Sequence[Measurement], config: VehicleStateConfig = CONFIG) -> float:
    """Mean over a drive."""
    ego = VehicleStateFilter(config)
    began = time.thread_time_ns()
    for measurement in drive:
        ego.add(measurement)
    return (time.thread_time_ns() - began) / len(drive) / 1e3


def us_per_path(count: int) -> float:
    """Mean of a path of 3 s in steps of 0.1 s."""
    ego = VehicleStateFilter(VehicleStateConfig(start_at_origin=True))
    ego.add(Twist(0, 10.0, 0.01, 0.1, 0.001))
    state = ego.state_at(0)
    began = time.thread_time_ns()
    for _ in range(count):
        predict_path(state)
    return (time.thread_time_ns() - began) / count / 1e3


def covariance_after(steps: int) -> tuple[float, float]:
    """Return smallest eigenvalue of the correlation and largest asymmetry, at every thousandth step."""
    rng = np.random.default_rng(0)
    estimator = Estimator(VehicleStateConfig(start_at_origin=True))
    estimate, stamp_ns = estimator.first(), 0
    smallest, asymmetry = np.inf, 0.0
    for step in range(steps):
        stamp_ns += int(rng.integers(0, 20_000_000))
        variance, kind = 10.0 ** rng.uniform(-9, 1), step % 3
        if kind == 0:
            measurement = Twist(stamp_ns, 10 * np.sin(step / 3e4), variance)
        elif kind == 1:
            measurement = Imu(stamp_ns, 0.2 * np.sin(step / 7e3), variance, rng.normal(0, 0.3), variance)
        else:
            measurement = Steering(stamp_ns, 0.05 * np.sin(step / 7e3), variance)
        estimate, _ = estimator.step(estimate, measurement, stamp_ns)
        if step % 1000 == 999:
            covariance = estimate.covariance
            sigma = np.sqrt(np.diag(covariance))
            smallest = min(smallest, float(np.linalg.eigvalsh(covariance / np.outer(sigma, sigma))[0]))
            asymmetry = max(asymmetry, float(np.abs(covariance - covariance.T).max()))
    return smallest, asymmetry
