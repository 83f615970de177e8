"""Score the ego state and the predicted ego path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.codec.vehicle import MotionReading
from perception_rt.replay.score.ahead import Row, summary
from perception_rt.replay.score.consistency import ellipses
from perception_rt.replay.score.outputs import Outputs, estimates_of
from perception_rt.replay.score.places import wrapped
from perception_rt.replay.score.truth import EgoTruth

LEAST_TRAVELLED_M = 1.0  # drift in percent is not meaningful below this


def score_odometry(truth: EgoTruth, states: Sequence[tuple[MotionReading, int]]) -> dict:
    """Score a topic of Odometry.

    If truth and states are in different frames (the origin of an odom frame is arbitrary), the truth is moved
    to match the first state that has a truth, so that errors are relative to that state.

    Args:
        states: each with its publish time, ns.

    Returns:
        `{"states", "without_truth", "aligned", "rate_hz", "rmse": {"position_m", "x_m", "y_m", "yaw_rad",
        "speed_mps"}, "drift_percent", "travelled_m", "ellipses"}`: x and y in the frame of the states; drift
        is the final position error divided by the distance travelled; None if unknown.
    """
    stamps = np.array([state.stamp_ns for state, _ in states], np.int64)
    poses = np.array([state.pose for state, _ in states], np.float64).reshape(-1, 3)
    speeds = np.array([state.speed for state, _ in states])
    covariances = np.array([state.pose_covariance for state, _ in states]).reshape(-1, 3, 3)
    true, true_speeds = truth.at(stamps)
    known = np.isfinite(true[:, 0])
    aligned = bool(states) and states[0][0].frame_id != truth.frame_id
    row = {
        "states": int(known.sum()),
        "without_truth": int((~known).sum()),
        "aligned": aligned,
        "rate_hz": _rate([published for _, published in states]),
        "rmse": None,
        "drift_percent": None,
        "travelled_m": None,
        "ellipses": None,
    }
    if not known.any():
        return row
    poses, true = poses[known], true[known]
    if aligned:
        true = moved_poses(true, true[0], poses[0])
    error = poses - true
    error[:, 2] = wrapped(error[:, 2])
    away = np.linalg.norm(error[:, :2], axis=1)
    travelled = float(np.linalg.norm(np.diff(true[:, :2], axis=0), axis=1).sum())
    columns = dict(zip(("x_m", "y_m", "yaw_rad"), error.T, strict=True))
    columns |= {"position_m": away, "speed_mps": speeds[known] - true_speeds[known]}
    return row | {
        "rmse": {name: float(np.sqrt((column**2).mean())) for name, column in columns.items()},
        "drift_percent": 100 * float(away[-1]) / travelled if travelled >= LEAST_TRAVELLED_M else None,
        "travelled_m": travelled,
        "ellipses": ellipses(error[:, :2], covariances[known, :2, :2]),
    }


def score_paths(truth: EgoTruth, predictions: Outputs) -> dict:
    """Score the predicted paths of the vehicle; returns `ahead.summary`.

    If the paths are not in the truth's frame, each is aligned at its own first pose, the pose at prediction
    time, so that earlier errors do not count. The covariances include earlier errors, so they are compared
    with the errors since the first path.
    """
    rows: list[Row] = []
    since: list[Row] = []
    start: tuple[np.ndarray, np.ndarray] | None = None
    aligned = False
    for number, output in enumerate(predictions.arrays):
        estimates = estimates_of(output)
        order = np.argsort(estimates.stamps_ns, kind="stable")
        stamps = estimates.stamps_ns[order]
        path = output.boxes[order][:, (0, 1, 6)]
        true, _ = truth.at(stamps)
        aligned = output.frame_id != truth.frame_id
        if not len(path) or not np.isfinite(true[0, 0]):
            continue
        start = start or (true[0], path[0])
        own = moved_poses(true, true[0], path[0]) if aligned else true
        all_along = moved_poses(true, *start) if aligned else true
        for k, ahead_ns in enumerate((stamps - output.stamp_ns).tolist()):
            if ahead_ns <= 0:  # the present is not a prediction
                continue
            covariance = estimates.covariance[order[k], :2, :2]
            rows.append(("ego", number, ahead_ns, path[k, :2] - own[k, :2], covariance))
            since.append(("ego", number, ahead_ns, path[k, :2] - all_along[k, :2], covariance))
    result = summary(rows)
    held = summary(since)["horizons"]
    for ahead, row in result["horizons"].items():
        row["ellipses"] = held[ahead]["ellipses"]
    del result["per_class"]
    return result | {"aligned": aligned}


def moved_poses(poses: np.ndarray, at: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Return (N, 3) x y yaw after the planar motion that takes the pose `at` to the pose `to`, (3,) each."""
    turn = to[2] - at[2]
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = (poses[:, :2] - at[:2]).T
    return np.column_stack([to[0] + cos * x - sin * y, to[1] + sin * x + cos * y, poses[:, 2] + turn])


def _rate(published_ns: Sequence[int]) -> float | None:
    if len(published_ns) < 2 or published_ns[-1] == published_ns[0]:
        return None
    return (len(published_ns) - 1) * 1e9 / (published_ns[-1] - published_ns[0])
