"""Consistency of the ego filter and its prediction: NEES on simulated drives.

The sensors are the simulator's, with errors as the filter assumes them drawn for every drive: speed scale,
gyro and accelerometer bias that walk, and fixes whose error partly persists. The motion is the simulator's
own, sums of sines: over the tens of ms that the filter bridges it is smoother than white jerk which covers
what it does in seconds, so the path ahead has a noise of its own. Both were chosen on the drives of TUNED and
are scored on those of UNSEEN. One moment a drive: they are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.stats import chi2

from bench.rows import Row, row
from perception_rt.sim.drive import ACCEL_SIGMA, GYRO_SIGMA, ODOM_V_SIGMA, Drive
from perception_rt.sim.path import SimulatedEgo
from perception_rt.stage.prediction.ego import predict_path
from perception_rt.stage.vehicle_state import MotionNoise, VehicleStateConfig, VehicleStateFilter
from perception_rt.stage.vehicle_state.geodesy import enu_from_geodetic, geodetic_from_enu
from perception_rt.stage.vehicle_state.observation import wrapped
from perception_rt.types.state import Fix, Imu, Measurement, Twist

TUNED, UNSEEN = range(1000, 1100), range(3000, 3100)
MOTION = MotionNoise(jerk=0.13, lateral_jerk=0.07, drift=0.005, acceleration_time_s=3.0, yaw_rate_time_s=10.0)
AHEAD = replace(MOTION, jerk=0.35, lateral_jerk=0.12)
CONFIG = VehicleStateConfig(motion=MOTION)
END_S, AHEAD_S = 20.0, (1, 2, 3)
TICK_S, TWIST_EVERY, FIX_EVERY = 0.01, 2, 20
FIX_SIGMA = 1.0
ORIGIN = np.array([48.1, 11.6, 520.0])  # latitude, longitude, altitude of the simulated world's origin

Step = Callable[[], None]


def simulated_rows(step: Step) -> list[Row]:
    """Return the NEES of the state, all six values, and of the predicted poses, with its bounds."""
    rows = []
    for name, seeds in (("tuned_drives_", TUNED), ("", UNSEEN)):
        nees = drives_nees(seeds, step)
        for what, values in nees.items():
            degrees = 6 if what == "state" else 3
            low, high = chi2.ppf([0.025, 0.975], degrees * len(seeds)) / len(seeds)
            mean = float(np.mean(values))
            words = f"mean NEES of {degrees}, 95 % in [{low:.2f}, {high:.2f}]"
            rows.append(row(f"ego/sim/{name}{what}_nees", mean, words))
            if not name:
                rows.append(row(f"ego/sim/{what}_nees_in_bounds", int(low <= mean <= high), "yes 1", "1"))
    return rows


def drives_nees(seeds: range, step: Step) -> dict[str, list[float]]:
    """Return squared Mahalanobis errors per drive: of the state, and of the pose 1, 2, 3 s ahead."""
    nees: dict[str, list[float]] = {"state": [], **{f"ahead_{seconds}s": [] for seconds in AHEAD_S}}
    for seed in seeds:
        drive = Drive(seed, (64, 64))
        ego = VehicleStateFilter(CONFIG)
        for measurement in measurements(drive, seed):
            ego.add(measurement)
        state = ego.state_at(round(END_S * 1e9))
        begin = enu_from_geodetic(np.array(ego.estimate.place.origin), ORIGIN)[:2]
        path = predict_path(state, AHEAD)
        nees["state"].append(_nees(path.states[0], path.covariance[0], drive.ego(END_S), begin))
        for seconds in AHEAD_S:
            at = int(np.searchsorted(path.stamps_ns, state.stamp_ns + seconds * 10**9))
            pose, covariance = path.states[at, :3], path.covariance[at, :3, :3]
            nees[f"ahead_{seconds}s"].append(_nees(pose, covariance, drive.ego(END_S + seconds), begin))
        step()
    return nees


def measurements(drive: Drive, seed: int) -> Iterator[Measurement]:
    """IMU at 100 Hz, wheel speed at 50 Hz, fixes at 5 Hz, until END_S."""
    rng = np.random.default_rng([seed, 1])
    gyro_bias = rng.normal(0, CONFIG.gyro_bias_sigma)
    acceleration_bias = rng.normal(0, CONFIG.acceleration_bias_sigma)
    scale = 1 + rng.normal(0, CONFIG.speed_scale_sigma)
    offsets = persistent_offsets(rng, round(END_S / TICK_S) // FIX_EVERY + 1)
    white = FIX_SIGMA * np.sqrt(1 - CONFIG.fix_correlated_share)
    for tick in range(round(END_S / TICK_S) + 1):
        seconds, stamp_ns = tick * TICK_S, round(tick * TICK_S * 1e9)
        imu = drive.imu(seconds)
        yaw_rate, push = imu.angular_velocity[2] + gyro_bias, imu.linear_acceleration[0] + acceleration_bias
        yield Imu(stamp_ns, float(yaw_rate), GYRO_SIGMA**2, float(push), ACCEL_SIGMA**2)
        if tick % TWIST_EVERY == 0:
            yield Twist(stamp_ns, float(drive.odometry(seconds).v * scale), ODOM_V_SIGMA**2)
        if tick % FIX_EVERY == 0:
            truth = drive.ego(seconds)
            east, north = [truth.x, truth.y] + offsets[tick // FIX_EVERY] + rng.normal(0, white, 2)
            place = geodetic_from_enu(np.array([east, north, 0.0]), ORIGIN).tolist()
            yield Fix(stamp_ns, *place, (FIX_SIGMA**2, 0.0, FIX_SIGMA**2))
        gyro_bias += rng.normal(0, CONFIG.gyro_bias_walk * np.sqrt(TICK_S))
        acceleration_bias += rng.normal(0, CONFIG.acceleration_bias_walk * np.sqrt(TICK_S))
        scale += rng.normal(0, CONFIG.speed_scale_walk * np.sqrt(TICK_S))


def persistent_offsets(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, 2) offsets, m, one per fix: a first-order Gauss-Markov process."""
    sigma = FIX_SIGMA * np.sqrt(CONFIG.fix_correlated_share)
    stays = np.exp(-FIX_EVERY * TICK_S / CONFIG.fix_correlation_time_s)
    offsets = np.empty((count, 2))
    offsets[0] = rng.normal(0, sigma, 2)
    for at in range(1, count):
        offsets[at] = stays * offsets[at - 1] + rng.normal(0, sigma * np.sqrt(1 - stays**2), 2)
    return offsets


def _nees(values: np.ndarray, covariance: np.ndarray, truth: SimulatedEgo, begin: np.ndarray) -> float:
    """Of the first values of x, y, yaw, speed, yaw rate, acceleration, in a frame that begins at `begin`."""
    right = [*([truth.x, truth.y] - begin), truth.yaw, truth.v, truth.yaw_rate, truth.accel]
    error = values - right[: len(values)]
    error[2] = wrapped(error[2])
    return float(error @ np.linalg.solve(covariance, error))
