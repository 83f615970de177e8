"""Known classes stay: while a network learns new ones, its scores of the others are held."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SURE = 0.2  # score from which on the first network takes a cell for an object


class Teacher:
    """The network that a training starts from (learning without forgetting, arXiv:1606.09282).

    Added to the loss is the divergence of the known classes' scores from those of the first network, where
    they are lower, per cell that it takes for an object. Higher scores are free: the labels say what it
    missed.

    Args:
        network: with its first weights; it is copied.
        channels: as of `perception_rt.train.weights.known_channels`.
        weight: of what is added to the loss.
    """

    def __init__(self, network: nn.Module, channels: dict[str, Tensor], weight: float) -> None:
        self._network = copy.deepcopy(network).requires_grad_(False)
        self._channels, self._weight = channels, weight

    def loss(self, loss: Callable[[nn.Module, Any], Tensor], network: nn.Module, batch: Any) -> Tensor:
        """The loss of a network on a batch, and what it forgets of it."""
        device = next(network.parameters()).device
        self._network.to(device).train(network.training)
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            wanted, _ = self._scores(self._network, loss, batch)
        found, whole = self._scores(network, loss, batch)
        targets = wanted.sigmoid()
        entropy, cross = (
            F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            for logits in (wanted, found)
        )
        held = (cross - entropy)[wanted > found]
        return whole + self._weight * held.sum() / (targets > SURE).sum().clamp(min=1)

    def _scores(
        self, network: nn.Module, loss: Callable[[nn.Module, Any], Tensor], batch: Any
    ) -> tuple[Tensor, Tensor]:
        """Logits of the known classes in all cells, flat, and the loss."""
        logits: list[Tensor] = []
        with ExitStack() as hooks:
            for name, chosen in self._channels.items():

                def keep(module: nn.Module, inputs: Any, output: Tensor, chosen: Tensor = chosen) -> None:
                    logits.append(output[:, chosen.to(output.device)].float().flatten())

                hooks.callback(network.get_submodule(name).register_forward_hook(keep).remove)
            whole = loss(network, batch)
        return torch.cat(logits), whole
