"""The training recipe: everything that decides the weights, and the loop that follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from perception_rt.sim import SIM_CLASSES
from perception_rt.train.data import Frames, draw_batch
from perception_rt.train.loss import detection_loss
from perception_rt.train.network import Network


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

    seed: int = 0
    frames: int = 3000
    steps: int = 7000
    batch: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    average: float = 0.998


def quick_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: three times with a CPU's AMX, but far slower without."""
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def fit(
    frames: Frames,
    recipe: Recipe,
    device: torch.device,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Network:
    """Train a network; on one machine and thread count the same recipe gives the same weights.

    Args:
        frames: what to learn from.
        recipe: how.
        device: where.
        on_step: called after each step with its number and loss.

    Returns:
        The averaged network, in evaluation mode, on the CPU.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    network = Network(len(SIM_CLASSES)).to(device, memory_format=torch.channels_last).train()

    def blend(kept: Tensor, current: Tensor, count: Tensor) -> Tensor:
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
            order = np.concatenate((order, rng.permutation(len(frames.images))))
        batch = draw_batch(frames, order[: recipe.batch], rng).to(device)
        order = order[recipe.batch :]
        with torch.autocast(device.type, torch.bfloat16, enabled=quick_bfloat16(device)):
            raw = network(batch.images)
        loss = detection_loss(raw.float(), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        on_step(step, loss.item())
    return average.module.eval().cpu()
