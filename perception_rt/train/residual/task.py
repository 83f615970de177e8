"""How a residual of ego prediction is trained, scored and saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.bundle import save
from perception_rt.model.manifest import Manifest
from perception_rt.model.runtime import PathRuntime
from perception_rt.train.drives import shares
from perception_rt.train.loop import Recipe
from perception_rt.train.residual.data import PER_DRIVE, SPEC, Histories, drive_pairs, make_histories
from perception_rt.train.residual.network import Residual
from perception_rt.train.task import Task
from perception_rt.types import ConfigError

SCORED_S = (1, 2, 3)


def make_network() -> Residual:
    """The network, which corrects nothing yet."""
    return Residual(SPEC)


def learn(
    network: Residual, data: Histories, index: np.ndarray, rng: np.random.Generator, device: torch.device
) -> Tensor:
    """Mean distance (Huber's from 1 m up) on some histories, half of them mirrored left to right."""
    chosen = torch.from_numpy(index)
    history, residual = data.history[chosen].to(device), data.residual[chosen].to(device)
    side = torch.from_numpy(rng.choice([-1.0, 1.0], len(index)).astype(np.float32)).to(device)
    one = torch.ones_like(side)
    history = history * torch.stack([one, side, one], 1)[:, None]
    residual = residual * torch.stack([one, side], 1)[:, None]
    return torch.nn.functional.huber_loss(network(history), residual, delta=1.0)


def evaluate(
    runtime: PathRuntime, seeds: Sequence[int], frames: int, on_frame: Callable[[], None] = lambda: None
) -> dict:
    """Root mean squared error of the place 1, 2 and 3 s ahead, m, of CTRA and refined.

    Args:
        runtime: an open bundle of the histories that `SPEC` says.
        seeds: of the drives. frames: histories in all. on_frame: called after each.

    Returns:
        ``"ctra"`` and ``"refined"``, each a list for 1, 2, 3 s; ``"frames"`` and ``"seeds"``.

    Raises:
        ConfigError: the bundle takes other histories.
    """
    if runtime.manifest.input != SPEC:
        raise ConfigError(f"input={runtime.manifest.input}: must be {SPEC}")
    missed, left = [], []
    for seed, count in zip(seeds, shares(frames, len(seeds)), strict=True):
        for history, residual in drive_pairs(seed, count):
            missed.append(residual)
            left.append(residual - runtime(history[None].astype(np.float32))[0])
            on_frame()
    score: dict = {"frames": frames, "seeds": [seeds[0], seeds[-1]]}
    rows = [round(seconds / SPEC.step_s) - 1 for seconds in SCORED_S]
    for name, errors in (("ctra", missed), ("refined", left)):
        rmse = np.sqrt((np.stack(errors)[:, rows] ** 2).sum(-1).mean(0))
        score[name] = [round(float(value), 4) for value in rmse]
    return score


def save_bundle(path: Path, network: Residual, provenance: dict) -> Manifest:
    """Write the trained network as the bundle `ego_residual`."""
    return save(
        path,
        network,
        name="ego_residual",
        classes=(),
        task="predict",
        input_spec=SPEC,
        licence="Apache-2.0",
        provenance={
            "what": "an MLP on two seconds of motion, trained on simulated drives only",
            **provenance,
        },
    )


RESIDUAL = Task(
    bundle="ego_residual",
    recipe=Recipe(
        seed=0, frames=16_000, steps=5000, batch=256, learning_rate=3e-3, weight_decay=0.01, average=0.998
    ),
    per_drive=PER_DRIVE,
    make_frames=make_histories,
    make_network=make_network,
    learn=learn,
    save=save_bundle,
    evaluate=evaluate,
    evaluation_frames=1000,
)
