"""Plot the curves of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from perception_rt.codec.vehicle import MotionReading


def plot_motion(path: Path, found: Mapping[int, MotionReading], truth: Mapping[int, MotionReading]) -> None:
    """Write a PNG of a vehicle's path, speed and yaw rate, with the true ones if known.

    Paths start at the origin along x, as the frames of odometry and ground truth are unrelated.

    Args:
        path: path of the picture.
        found: odometry by stamp in ns.
        truth: true odometry by stamp in ns; may be empty.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    way, speed, turn = figure.subplot_mosaic([["way", "speed"], ["way", "turn"]]).values()
    start = min([*found, *truth], default=0)
    for readings, label, style in ((truth, "truth", "k-"), (found, "vehicle_state", "C1--")):
        if not readings:
            continue
        stamps = sorted(readings)
        seconds = (np.array(stamps) - start) / 1e9
        poses = np.array([readings[stamp].pose for stamp in stamps])
        way.plot(*_from_the_start(poses), style, label=label)
        # Missing values are NaN, a gap in the curve.
        speeds = np.array([readings[stamp].speed for stamp in stamps], np.float64)
        yaw_rates = np.array([readings[stamp].yaw_rate for stamp in stamps], np.float64)
        speed.plot(seconds, speeds, style, label=label)
        turn.plot(seconds, yaw_rates, style, label=label)
    way.set(xlabel="x, m", ylabel="y, m", title="way", aspect="equal", adjustable="datalim")
    speed.set(ylabel="m/s", title="speed")
    turn.set(xlabel="s", ylabel="rad/s", title="yaw rate")
    way.legend()
    figure.savefig(path, dpi=110)


def _from_the_start(poses: np.ndarray) -> np.ndarray:
    """Return (2, N) x and y relative to the first of (N, 3) poses."""
    x, y, yaw = poses[0]
    cos, sin = np.cos(yaw), np.sin(yaw)
    away = poses[:, :2] - (x, y)
    return np.stack((cos * away[:, 0] + sin * away[:, 1], cos * away[:, 1] - sin * away[:, 0]))
