"""From two seconds of motion to the residual of a path: a small MLP that speaks in acceleration and jerk."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception_rt.model.manifest import StateSpec

HIDDEN = 64


class Residual(nn.Module):
    """Corrections of the acceleration along and across, and of its rate, integrated to metres.

    The network sees accelerations, (changes of) speed in m/s, and no place or heading, so what it learned at
    one speed means the same at another.

    Args:
        spec: of the history and of the path.
    """

    def __init__(self, spec: StateSpec) -> None:
        super().__init__()
        self.speed_scale, self.acceleration_scale = 10.0, 2.0  # m/s, m/s^2
        self.layers = nn.Sequential(
            nn.Linear(3 * spec.rows, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, 4),
        )
        nn.init.zeros_(self.layers[-1].weight)  # an untrained residual is none
        nn.init.zeros_(self.layers[-1].bias)
        t = torch.arange(1, spec.steps + 1) * spec.step_s
        self.register_buffer("basis", torch.stack([t**2 / 2, t**3 / 6]))

    def forward(self, history: Tensor) -> Tensor:
        """(N, T, 3) speed, yaw rate, acceleration to (N, H, 2) residuals along and across, m."""
        speed, yaw_rate, acceleration = history[:, :, 0], history[:, :, 1], history[:, :, 2]
        change = (speed - speed[:, -1:]) / self.speed_scale
        features = torch.cat(
            [change, speed * yaw_rate / self.acceleration_scale, acceleration / self.acceleration_scale], 1
        )
        coefficients = self.layers(features).reshape(-1, 2, 2)
        return torch.matmul(coefficients, self.basis).transpose(1, 2).contiguous()
