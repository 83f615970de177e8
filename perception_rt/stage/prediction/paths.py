"""Predict positions from a filter's state, for each mode."""

from __future__ import annotations

import numpy as np

from perception_rt.stage.prediction.imm import Bank
from perception_rt.stage.prediction.motion import (
    CONSTANT_VELOCITY,
    STOP,
    TURN,
    TurnStep,
    fading,
    keep_times,
    kept_variance,
)

LONGEST_STEP_S = 0.5


def positions_ahead(bank: Bank, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions of N objects at T times from now, by mode.

    Args:
        bank: the filters now. times_s: (T,) increasing and positive.

    Returns:
        mean (N, 3, T, 2) m, covariance (N, 3, T, 2, 2) m^2, and the angle (N, T) rad that `turn` turns by.
    """
    n, steps = len(bank), len(times_s)
    mean, covariance = np.empty((n, 3, steps, 2)), np.empty((n, 3, steps, 2, 2))
    motion = bank.motion
    speed = np.linalg.norm(bank.mean[:, CONSTANT_VELOCITY, 2:4], axis=1)
    _, gain, _ = fading(keep_times(motion, speed)[:, None], times_s)
    _, _, spread = fading(motion["keep_time_s"][:, None], times_s)
    variance = kept_variance(motion)[:, None]
    _straight(bank, CONSTANT_VELOCITY, gain, variance * spread, mean, covariance)
    _, gain, spread = fading(motion["stop_time_s"][:, None], times_s)
    noise = motion["stop_speed"][:, None] ** 2 * spread + _starts(motion, times_s)
    _straight(bank, STOP, gain, noise, mean, covariance)
    mean[:, TURN], covariance[:, TURN], angle = _turning(bank, times_s)
    return mean, covariance, angle


def _starts(motion: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return (N, T) m^2: the variance of the position, in x and in y, because a standing object may start."""
    rate = ((1 - motion["stop_share"]) / motion["mode_time_s"])[:, None]
    moved = times_s**2 - 2 * (times_s - (1 - np.exp(-rate * times_s)) / rate) / rate
    return motion["start_speed"][:, None] ** 2 * moved


def _straight(
    bank: Bank, mode: int, gain: np.ndarray, noise: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> None:
    """Write positions along the velocity: `gain` (N, T) is its effect, s; `noise` (N, T) m^2."""
    state, spread = bank.mean[:, mode], bank.covariance[:, mode, None]
    gain = gain[..., None]
    mean[:, mode] = state[:, None, :2] + gain * state[:, None, 2:4]
    gain = gain[..., None]
    cross = spread[..., :2, 2:4]
    covariance[:, mode] = (
        spread[..., :2, :2] + gain * (cross + cross.swapaxes(-1, -2)) + gain**2 * spread[..., 2:4, 2:4]
    )
    for axis in range(2):
        covariance[:, mode, :, axis, axis] += noise


def _turning(bank: Bank, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    state, spread = bank.mean[:, TURN], bank.covariance[:, TURN]
    n, moments = len(bank), len(times_s)
    mean, covariance, angle = np.empty((n, moments, 2)), np.empty((n, moments, 2, 2)), np.empty((n, moments))
    turned, now, step = np.zeros(n), 0.0, None
    for moment, until in enumerate(times_s.tolist()):
        steps = int(np.ceil((until - now) / LONGEST_STEP_S - 1e-9))
        dt = (until - now) / steps
        if step is None or step.dt != dt:
            step = TurnStep(bank.motion, dt)
        for _ in range(steps):
            turned = turned + state[:, 5] * dt
            state, jacobian, noise = step.of(state)
            spread = jacobian @ spread @ jacobian.swapaxes(-1, -2) + noise
        now = until
        mean[:, moment], covariance[:, moment], angle[:, moment] = state[:, :2], spread[:, :2, :2], turned
    return mean, covariance, angle
