"""A learned correction of the path that constant turn rate and acceleration give."""

from __future__ import annotations

import numpy as np

from perception_rt.model.manifest import StateSpec
from perception_rt.model.runtime import PathRuntime
from perception_rt.stage.vehicle_state.motion import YAW
from perception_rt.stage.vehicle_state.observation import wrapped
from perception_rt.types import ConfigError
from perception_rt.types.state import EgoPath

SHORTEST_M = 0.01  # of a step: the course of a shorter one is noise


def refine_path(path: EgoPath, history: np.ndarray, runtime: PathRuntime) -> EgoPath:
    """Move a path by the residual that a bundle of task `predict` finds in the vehicle's past.

    Yaw turns by as much as the course does; speed, yaw rate, acceleration and the covariance stay.

    Args:
        path: of `predict_path`, in the steps of the bundle and no longer than its horizon.
        history: (T, 3) speed, m/s, yaw rate, rad/s, acceleration, m/s^2, in the same steps; the last row is
            that of the path's first.
        runtime: an open bundle.

    Returns:
        The refined path; its first row is the same.

    Raises:
        ConfigError: the path has other steps than the bundle, or more.
        ModelError: the history has another shape than the bundle takes, or the module failed.
    """
    spec = runtime.manifest.input
    _check_steps(path, spec)
    residuals = runtime(np.asarray(history, np.float32)[None])[0, : len(path) - 1].astype(np.float64)
    yaw = path.states[0, YAW]
    axes = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])  # rows: along, across
    states = path.states.copy()
    states[1:, :2] += residuals @ axes
    turn = _turn(np.diff(path.states[:, :2], axis=0), np.diff(states[:, :2], axis=0))
    states[1:, YAW] = [wrapped(angle) for angle in states[1:, YAW] + turn]
    return EgoPath(path.stamps_ns, states, path.covariance)


def _check_steps(path: EgoPath, spec: StateSpec) -> None:
    steps = np.diff(path.stamps_ns) * 1e-9
    if len(steps) > spec.steps or not np.allclose(steps, spec.step_s, rtol=0.0, atol=1e-6):
        raise ConfigError(
            f"path: {len(steps)} steps of {steps[0] if len(steps) else 0.0:.3f} s; the bundle refines up to "
            f"{spec.steps} of {spec.step_s:.3f} s"
        )


def _turn(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(N,) rad, from (N, 2) steps to others; 0 where one of both is too short to have a course."""
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    turn = np.arctan2(cross, (before * after).sum(1))
    moves = np.minimum(np.hypot(*before.T), np.hypot(*after.T)) >= SHORTEST_M
    return np.where(moves, turn, 0.0)
