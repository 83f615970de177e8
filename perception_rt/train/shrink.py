"""Make the network of a bundle narrower and train it: prune and fine-tune, or distil."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.manifest import Manifest
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.blocks import fused
from perception_rt.train.drives import training_seeds
from perception_rt.train.folder import FolderSettings, draw_items, prepare, train_folder
from perception_rt.train.prune import ChannelGroup, channels_of, importance, pruned
from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.train.task import Report, TrainingTask, train_network
from perception_rt.train.trainee import Trainee, find_trainee
from perception_rt.train.weights import read_weights, started
from perception_rt.types import BundleError, ConfigError

IMPORTANCE_BATCHES = 16
IMPORTANCE_DRIVES = 4
FRAMES_PER_STEP = 2  # simulated ones, up to the recipe's
FINE_TUNING = 0.25  # of the recipe's steps

Draw = Callable[[np.ndarray, np.random.Generator], Any]


@dataclass(frozen=True, slots=True)
class ShrinkSettings:
    """How a network is made narrower.

    Attributes:
        network: as of `find_trainee`.
        fraction: of the channels to remove from each layer.
        distil: start from random weights and learn from the old network, instead of keeping the weights of
            the most important channels.
        data: labelled data as of `FolderSettings`; None for the simulator.
        steps: of the training; None for the recipe's, or on the simulator a quarter of them after pruning.
    """

    network: str
    fraction: float
    distil: bool = False
    data: str | None = None
    steps: int | None = None


def shrink(
    task: TrainingTask,
    source: Path,
    manifest: Manifest,
    settings: ShrinkSettings,
    out: Path,
    hardware: Hardware,
    report: Report = lambda phase, done, total, note: None,
) -> dict[str, Any]:
    """Write a bundle with a narrower network, which on the simulator learns from the old one.

    Args:
        task: the recipe of the network on the simulator.
        source: the bundle.
        manifest: of the bundle.
        settings: what to remove, and what to train on.
        out: the bundle to write.
        hardware: to train on.
        report: called with the phase, done, total, and a note.

    Returns:
        Channels and parameters before and after.

    Raises:
        BundleError: the bundle has no network of the recipe.
        ConfigError: nothing can be removed, or the data or the recipe do not suit.
    """
    if settings.distil and settings.data is not None:
        raise ConfigError(f"--train={settings.data}: is for --prune; --distill learns on the simulator")
    trainee, seed = find_trainee(settings.network), task.recipe.seed
    names = trainee.names(manifest.classes)
    try:
        weights = read_weights(str(source))
        network, _ = started(trainee.make, names, weights)
    except BundleError as error:
        raise BundleError(f"{source}: has no network of `train {settings.network}`: {error}") from error
    if settings.data is None and manifest.classes != SIM_CLASSES:
        raise ConfigError(f"{source}: the simulator has other classes: give labelled data (--train)")
    torch.manual_seed(seed)
    narrow = pruned(trainee.make(len(names)) if settings.distil else network, settings.fraction)

    def chosen(draw: Draw, frames: int) -> nn.Module:
        """Remove the channels that matter least on some frames."""

        def scores(groups: Sequence[ChannelGroup]) -> list[Tensor]:
            rng, size = np.random.default_rng(seed), trainee.recipe.batch
            batches = [draw(rng.integers(frames, size=size), rng) for _ in range(IMPORTANCE_BATCHES)]
            return importance(network, groups, trainee.loss, batches)

        return pruned(network, settings.fraction, scores)

    if settings.data is not None:
        folder = FolderSettings(
            settings.network,
            settings.data,
            classes=manifest.classes,
            weights=str(source),
            steps=settings.steps,
            licence=manifest.licence,
        )
        prepared = prepare(folder, report)
        narrow = chosen(partial(draw_items, trainee, prepared.items), len(prepared.items))
        start = replace(weights, state=narrow.state_dict())
        train_folder(replace(prepared, weights=start), folder, out, hardware, report)
    else:
        if not settings.distil:
            some = task.make_frames(training_seeds(seed, IMPORTANCE_DRIVES), task.per_drive, 0, lambda: None)
            narrow = chosen(partial(task.draw_batch, some), len(some))
        recipe = _recipe(task, trainee, settings)
        learning = replace(task, make_network=lambda: narrow)
        trained, provenance = train_network(learning, recipe, hardware, None, report, teacher=str(source))
        kept = {"licence": manifest.licence, "score_threshold": manifest.score_threshold}
        task.save(out, trained, provenance, **kept)
    pair = network, fused(narrow)
    return {
        "channels": [channels_of(one) for one in pair],
        "parameters": [sum(value.numel() for value in one.parameters()) for one in pair],
    }


def _recipe(task: TrainingTask, trainee: Trainee, settings: ShrinkSettings) -> Recipe:
    """Return the recipe on the simulator; kept weights are fine-tuned, at the rate of users' data."""
    recipe = task.recipe
    if not settings.distil:
        steps, own = round(recipe.steps * FINE_TUNING), trainee.recipe
        recipe = replace(recipe, steps=steps, learning_rate=own.learning_rate, average=own.average)
    steps = settings.steps or recipe.steps
    return replace(recipe, steps=steps, frames=min(recipe.frames, FRAMES_PER_STEP * steps))
