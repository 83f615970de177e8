"""The training loop that all recipes share, and the numbers that decide what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Learn = Callable[[nn.Module, np.ndarray, np.random.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the weights; recorded in the bundle.

    Attributes:
        seed: of the drives, of the first weights and of the order.
        frames: simulated frames to learn from, rounded up to whole drives.
        steps: batches.
        batch: frames a step.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        average: decay a step of the moving average of the weights, which is what is kept.
    """

    seed: int
    frames: int
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    average: float


def quick_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32.

    With a CPU's AMX a step takes a third of the time, with AVX512-BF16 half to three quarters, but without
    either far longer.
    """
    able = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def fit(
    make: Callable[[], nn.Module],
    learn: Learn,
    frames: int,
    recipe: Recipe,
    device: torch.device,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:
    """Train a network; on one machine and thread count the same recipe gives the same weights.

    Args:
        make: makes the network, from torch's random numbers.
        learn: the loss of the network on the frames of an index array, varied by a generator.
        frames: how many there are to learn from.
        recipe: how.
        device: where.
        on_step: called after each step with its number and loss.

    Returns:
        The averaged network, in evaluation mode, on the CPU.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    network = make().to(device).to(memory_format=torch.channels_last).train()

    def blend(kept: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        warm = (1 + int(count)) / (10 + int(count))  # a short run must not keep its first weights
        return kept + (current - kept) * (1 - min(recipe.average, warm))

    average = AveragedModel(network, avg_fn=blend, use_buffers=True)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps + 1, pct_start=0.1
    )
    order = np.empty(0, np.int64)
    for step in range(recipe.steps):
        while len(order) < recipe.batch:
            order = np.concatenate((order, rng.permutation(frames)))
        loss = learn(network, order[: recipe.batch], rng)
        order = order[recipe.batch :]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        on_step(step, loss.item())
    return average.module.eval().cpu()
