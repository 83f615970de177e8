"""Consistency of object prediction: NEES on simulated drives.

Objects are seen with noise at 10 Hz for three seconds, in the world's frame. Each counts once, so that the
samples are independent. The simulator's traffic is steadier than people are (sums of slow sines), so its
motions were chosen on the drives of TUNED and are scored on those of UNSEEN; what the ellipses of the shipped
motions hold is shown too. Who crosses in the simulator starts and stops in an instant, which no body does:
those are left out of the NEES, counted, and kept where ellipses are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from bench.prediction_accuracy import held_within
from bench.prediction_inputs import predict_after, squared_distances
from bench.rows import Row, row
from perception_rt.sim.content import SIM_CLASSES
from perception_rt.sim.drive import Drive
from perception_rt.stage.prediction.motion import Motion
from perception_rt.stage.prediction.predictor import PredictorConfig, motions_of

TUNED, UNSEEN = range(16), range(1000, 1016)
MOMENTS_S = (10.0, 22.0, 34.0, 46.0)
STEP_S, SEEN, AHEAD_S = 0.1, 31, (1, 2, 3)
POSITION_SD = np.array([0.2, 0.1, 0.15])  # m, by class
SPEED_SD = 10.0  # m/s
MOST_ACCELERATION = 5.0  # m/s^2; more is no motion of a body on the road
SIMULATED = (
    Motion(
        position=0.2, walk=0.067, keep_time_s=320.0, acceleration=0.3, acceleration_time_s=4.0,
        yaw_rate=0.052, yaw_rate_time_s=0.75, stop_time_s=0.3, stop_speed=0.00022, start_speed=0.0124,
        turn_share=0.0044, stop_share=0.989, mode_time_s=200.0,
    ),
    Motion(
        position=0.1, walk=0.003, keep_time_s=400.0, acceleration=0.1, acceleration_time_s=1.0,
        yaw_rate=0.05, yaw_rate_time_s=2.9, stop_time_s=2.0, stop_speed=0.0025, start_speed=0.003,
        turn_share=0.002, stop_share=0.25, mode_time_s=20.0,
    ),
    Motion(
        position=0.15, walk=0.085, keep_time_s=80.0, acceleration=0.228, acceleration_time_s=1.13,
        yaw_rate=0.09, yaw_rate_time_s=2.8, stop_time_s=1.38, stop_speed=0.007, start_speed=0.0212,
        turn_share=0.09, stop_share=0.155, mode_time_s=28.0,
    ),
)  # fmt: skip

Step = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """N objects of several drives.

    Attributes:
        seen: (N, 31, 2) true positions up to now, m. ahead: (N, 3, 2) those in 1, 2, 3 s.
        labels: (N,) int64. jumped: (N,) bool, the velocity changed in an instant.
    """

    seen: np.ndarray
    ahead: np.ndarray
    labels: np.ndarray
    jumped: np.ndarray


def simulated_rows(step: Step) -> list[Row]:
    """NEES by class and horizon, and whether it is within its bounds; what the ellipses hold."""
    rows = []
    for part, seeds in (("tuned_drives/", TUNED), ("", UNSEEN)):
        objects = gather(seeds, step)
        steady = distances_of(objects, PredictorConfig(SIMULATED, AHEAD_S[-1], 1.0))
        shipped = distances_of(objects, PredictorConfig(motions_of(SIM_CLASSES), AHEAD_S[-1], 1.0))
        for label, name in enumerate(SIM_CLASSES):
            prefix = f"prediction/sim/{part}{name}/"
            mine = objects.labels == label
            rows += nees_rows(prefix, steady[mine & ~objects.jumped], bounded=not part)
            rows += [
                row(f"{prefix}jumped", int((mine & objects.jumped).sum()), "objects left out"),
                row(f"{prefix}held_95%_at_3s_jumped_too", held_within(steady[mine], 0.95)[-1], "share"),
                row(f"{prefix}held_95%_at_3s_shipped", held_within(shipped[mine], 0.95)[-1], "share"),
            ]
    return rows


def nees_rows(prefix: str, distances: np.ndarray, bounded: bool) -> list[Row]:
    """The mean of (N, 3) squared distances and its 95 % bounds."""
    n = len(distances)
    low, high = chi2.ppf([0.025, 0.975], 2 * n) / n
    rows = []
    for at, seconds in enumerate(AHEAD_S):
        mean = float(distances[:, at].mean())
        rows.append(row(f"{prefix}nees_{seconds}s", mean, f"of {n}, 95 % in [{low:.2f}, {high:.2f}]"))
        if bounded:
            rows.append(row(f"{prefix}nees_{seconds}s_in_bounds", int(low <= mean <= high), "yes 1", "1"))
    return rows


def distances_of(objects: Objects, config: PredictorConfig) -> np.ndarray:
    """(N, 3) squared Mahalanobis distances of the predictions from the truth."""
    sd = POSITION_SD[objects.labels]
    noise = np.random.default_rng(0).standard_normal(objects.seen.shape) * sd[:, None, None]
    predicted = predict_after(objects.seen + noise, objects.labels, STEP_S, config, sd, SPEED_SD)
    return squared_distances(objects.ahead - predicted.xy, predicted.covariance)


def gather(seeds: range, step: Step) -> Objects:
    """Return every object that is near for six seconds around one of MOMENTS_S, once."""
    rows = []
    for seed in seeds:
        drive, known = Drive(seed, (64, 64)), set()
        for moment_s in MOMENTS_S:
            for identity, row_ in _around(drive, moment_s).items():
                if identity not in known:
                    known.add(identity)
                    rows.append(row_)
        step()
    paths, labels = np.stack([path for path, _ in rows]), np.array([label for _, label in rows], np.int64)
    pushes = np.linalg.norm(np.diff(paths[..., 2:], axis=1), axis=-1).max(1) / STEP_S
    ahead = [SEEN - 1 + round(seconds / STEP_S) for seconds in AHEAD_S]
    return Objects(paths[:, :SEEN, :2], paths[:, ahead, :2], labels, pushes > MOST_ACCELERATION)


def _around(drive: Drive, moment_s: float) -> dict[int, tuple[np.ndarray, int]]:
    """By id: (T, 4) x, y and velocity in the world, three seconds before to three after; and the class."""
    steps = SEEN + round(AHEAD_S[-1] / STEP_S)
    paths: dict[int, list[np.ndarray]] = {}
    labels: dict[int, int] = {}
    for step in range(steps):
        t_s = moment_s + (step - SEEN + 1) * STEP_S
        ego, objects = drive.ego(t_s), drive.objects3d(t_s)
        cos, sin = np.cos(ego.yaw), np.sin(ego.yaw)
        to_world = np.array([[cos, sin], [-sin, cos]])
        states = np.hstack(
            [objects.xyzlwh_yaw[:, :2] @ to_world + [ego.x, ego.y], objects.velocity @ to_world]
        )
        for identity, label, state in zip(objects.ids.tolist(), objects.labels.tolist(), states, strict=True):
            paths.setdefault(identity, []).append(state)
            labels[identity] = label
    return {i: (np.stack(path), labels[i]) for i, path in paths.items() if len(path) == steps}
