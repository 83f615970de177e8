"""Predict the path of the ego vehicle with constant turn rate and acceleration."""

from __future__ import annotations

import numpy as np

from perception_rt.stage.vehicle_state.motion import (
    MAX_STEP_S,
    SPEED,
    YAW,
    MotionNoise,
    X,
    Y,
    advance,
    slide,
)
from perception_rt.stage.vehicle_state.observation import wrapped
from perception_rt.types import ConfigError
from perception_rt.types.state import EgoPath, EgoState


def predict_path(
    state: EgoState,
    noise: MotionNoise | None = None,
    horizon_s: float = 3.0,
    step_s: float = 0.1,
    with_covariance: bool = True,
) -> EgoPath:
    """Return the predicted path from now on, with a pose every step_s.

    A vehicle that brakes stops and does not drive backward.

    Args:
        state: valid at the moment to predict from.
        noise: how the covariance grows; the filter's own.
        horizon_s: how far ahead, s.
        step_s: time between poses, s.
        with_covariance: False for a path whose covariance is NaN; it takes a fifth of the time.

    Returns:
        1 + horizon_s / step_s rows, the first of which is `state`.

    Raises:
        ConfigError: a horizon or a step that is not positive, or more than 1000 steps.
    """
    check_horizon(horizon_s, step_s)
    noise = noise or MotionNoise()
    count = round(horizon_s / step_s)
    stamps = state.stamp_ns + np.round(np.arange(count + 1) * step_s * 1e9).astype(np.int64)
    covariances = np.full((count + 1, 6, 6), np.nan)
    mean = [state.x, state.y, state.yaw, state.speed, state.yaw_rate, state.acceleration]
    covariance = state.covariance
    states = [mean]
    transition = spread = None
    if with_covariance:
        covariances[0], transition, spread = covariance, np.eye(6), np.zeros((6, 6))
    parts = int(np.ceil(step_s / MAX_STEP_S - 1e-9))
    for row in range(1, count + 1):
        for _ in range(parts):
            before, mean = mean, _moved(mean, step_s / parts, noise, transition, spread)
            if state.sideways:
                x, y = slide(before, state.sideways, step_s / parts)
                mean[X], mean[Y] = mean[X] + x, mean[Y] + y
            if transition is not None:
                covariance = transition.dot(covariance).dot(transition.T)
                covariance = covariance + covariance.T
                covariance *= 0.5
                covariance += spread
        mean[YAW] = wrapped(mean[YAW])
        states.append(mean)
        if transition is not None:
            covariances[row] = covariance
    return EgoPath(stamps, np.array(states), covariances)


def check_horizon(horizon_s: float, step_s: float) -> None:
    """Check the horizon and the step of `predict_path`.

    Raises:
        ConfigError: a horizon or a step that is not positive, or more than 1000 steps.
    """
    if not 0 < step_s <= horizon_s <= 1000 * step_s:
        raise ConfigError(
            f"horizon_s={horizon_s!r}, step_s={step_s!r}: give 0 < step <= horizon <= 1000 steps"
        )


def _moved(
    mean: list[float],
    dt: float,
    noise: MotionNoise,
    transition: np.ndarray | None,
    spread: np.ndarray | None,
) -> list[float]:
    """Apply `advance`; a vehicle that would reverse stops instead."""
    moved = advance(mean, dt, noise, transition, spread)
    if mean[SPEED] * moved[SPEED] >= 0:
        return moved
    return [*mean[:SPEED], 0.0, 0.0, 0.0]
