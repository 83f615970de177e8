"""What to learn a residual from: the past of simulated drives, and how far CTRA misses their future."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.manifest import StateSpec
from perception_rt.sim.path import EgoState
from perception_rt.sim.world import World
from perception_rt.stage.ego_prediction import predict_path
from perception_rt.train.drives import moments
from perception_rt.types.state import VehicleState

SPEC = StateSpec(window_s=2.0, step_s=0.1, horizon_s=3.0)
PER_DRIVE = 10
# The filter's errors on simulated drives, 1 sigma: one for the whole window, and one each row.
SHARED_SIGMA = np.array([0.03, 0.002, 0.03])  # m/s, rad/s, m/s^2
ROW_SIGMA = np.array([0.01, 0.003, 0.05])
NOISE_FACTORS = (0.5, 8.0)  # other sensors are worse: drawn between these, each factor of two as often


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Pasts and what CTRA misses after them.

    Attributes:
        history: (N, T, 3) float32 speed, yaw rate, acceleration, with the filter's errors.
        residual: (N, H, 2) float32, the truth less CTRA's path, along and across the heading of now, m.
    """

    history: Tensor
    residual: Tensor

    def __len__(self) -> int:
        return len(self.history)


def make_histories(
    seeds: Sequence[int],
    per_drive: int,
    workers: int | None = 0,
    on_drive: Callable[[], None] = lambda: None,
) -> Histories:
    """Simulate drives in this process: they are closed forms, and `workers` would cost more than it saves."""
    pairs = []
    for seed in seeds:
        pairs += drive_pairs(seed, per_drive)
        on_drive()
    history, residual = (np.stack(column).astype(np.float32) for column in zip(*pairs, strict=True))
    return Histories(torch.from_numpy(history), torch.from_numpy(residual))


def drive_pairs(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`count` pairs of history and residual, spread over the first minute of a drive."""
    motion = World(seed).ego
    rng = np.random.default_rng([seed, 9])
    pairs = []
    for now in moments(seed, count):
        now += SPEC.window_s
        past = [motion.state(now - SPEC.step_s * (SPEC.rows - 1 - row)) for row in range(SPEC.rows)]
        future = [motion.state(now + SPEC.step_s * step) for step in range(1, SPEC.steps + 1)]
        history = np.array([[state.v, state.yaw_rate, state.accel] for state in past])
        factor = np.exp(rng.uniform(*np.log(NOISE_FACTORS)))
        history += factor * (rng.normal(0, SHARED_SIGMA) + rng.normal(0, ROW_SIGMA, history.shape))
        pairs.append((history, _seen_from(past[-1], future) - ctra(history[-1])))
    return pairs


def ctra(motion: np.ndarray) -> np.ndarray:
    """(H, 2) places ahead of a vehicle with this speed, yaw rate and acceleration, seen from it, m."""
    state = VehicleState(0, 0.0, 0.0, 0.0, *motion.tolist(), np.zeros((6, 6)))
    return predict_path(state, horizon_s=SPEC.horizon_s, step_s=SPEC.step_s).states[1:, :2]


def _seen_from(now: EgoState, later: Sequence[EgoState]) -> np.ndarray:
    """(H, 2) places along and across the heading of `now`, m."""
    away = np.array([[state.x - now.x, state.y - now.y] for state in later])
    c, s = np.cos(now.yaw), np.sin(now.yaw)
    return away @ np.array([[c, -s], [s, c]])
