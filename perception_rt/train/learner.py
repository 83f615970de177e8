"""The Lightning module of a training: batches, loss, optimizer, weight average and score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler

from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.types import ModelError

CLIP_NORM = 10.0
NEW_RATE = 10.0  # a head with new classes learns faster than pretrained weights


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training data.

    Attributes:
        frames: number of frames.
        draw: returns the augmented frames of an index array as a batch, an object with `to`; takes a random
            generator.
        loss: returns the loss of the network on a batch.
        weights: (frames,) relative frequency of each frame; None for once an epoch.
        new: names of parameters with random values beside pretrained ones; their learning rate is NEW_RATE
            times higher.
    """

    frames: int
    draw: Callable[[np.ndarray, np.random.Generator], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    weights: np.ndarray | None = None
    new: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Validation:
    """The validation, which decides which weights are kept.

    Attributes:
        frames: number of frames.
        predict: returns the output of the network, in evaluation mode, for one frame.
        score: returns the scores of all outputs, in order: ``metric`` and others; higher is better.
        metric: the key that decides.
    """

    frames: int
    predict: Callable[[nn.Module, int], Any]
    score: Callable[[Sequence[Any]], dict[str, Any]]
    metric: str


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """The progress of a training.

    Attributes:
        step: steps done. steps: of the whole recipe. loss: of the last one.
        metric, score, best: of the last and of the best round; None before the first.
    """

    step: int
    steps: int
    loss: float
    metric: str = ""
    score: float | None = None
    best: float | None = None


class Learner(pl.LightningModule):
    """A network with its weight average, its loss and its score."""

    def __init__(
        self,
        network: nn.Module,
        data: TrainingData,
        recipe: Recipe,
        hardware: Hardware,
        validation: Validation | None,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

        def blend(kept: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            warm = (1 + int(count)) / (10 + int(count))  # initial weights must not dominate short runs
            return kept + (current - kept) * (1 - min(recipe.average, warm))

        self.average = AveragedModel(self.network, avg_fn=blend, use_buffers=True).requires_grad_(False)
        self._data, self._recipe, self._hardware, self._validation = data, recipe, hardware, validation
        self.steps = Steps(*steps_of(recipe), lambda: self.global_step)
        self.scores: dict[str, Any] = {}
        self.best: float | None = None
        self.best_state: dict[str, Tensor] = {}
        self._answers: list[tuple[int, Any]] = []

    def train_dataloader(self) -> DataLoader:
        """Return the batches from the first step that is not done."""
        batches = Batches(self._data, self._recipe, self.trainer.global_rank, self.trainer.world_size)
        return _loader(batches, self.steps, self._hardware.workers)

    def val_dataloader(self) -> Any:
        """Return the frame numbers of this process."""
        if self._validation is None:
            return []
        return _loader(range(self.trainer.global_rank, self._validation.frames, self.trainer.world_size))

    def training_step(self, batch: tuple[int, Any], number: int) -> Tensor:
        """Return the loss of a batch."""
        step, drawn = batch
        assert step == self.global_step, (step, self.global_step)
        torch.manual_seed(_seed(self._recipe.seed, step, self.global_rank))  # networks are random, too
        loss = self._data.loss(self.network, drawn)
        if not torch.isfinite(loss):
            raise ModelError(
                f"step {step}: the loss is {loss.item()}: take a lower --learning-rate than "
                f"{self._recipe.learning_rate:g}, or --precision 32"
            )
        self.log("loss", loss.detach())
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip gradients here, because Lightning refuses to clip with a fused optimizer."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make a step, then update the average."""
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.network)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a one-cycle schedule."""
        recipe, (_, total) = self._recipe, steps_of(self._recipe)
        fused = self._hardware.plugin() != "16-mixed"  # fused would unscale after the clipping
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                rate = recipe.learning_rate * (NEW_RATE if name in self._data.new else 1.0)
                groups.setdefault(rate, []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters in groups.values()],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=fused,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, list(groups), total_steps=total + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def validation_step(self, number: int, _: int) -> None:
        """Run the averaged network on a frame."""
        assert self._validation is not None
        with torch.autocast(self.device.type, enabled=False):
            self._answers.append((number, self._validation.predict(self.average.module, number)))

    def on_validation_epoch_end(self) -> None:
        """Compute the score from the outputs of all processes."""
        assert self._validation is not None
        answers, self._answers = self._answers, []
        if self.trainer.world_size > 1:
            every: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, answers)
            answers = [answer for part in every for answer in part]
        ordered = [answer for _, answer in sorted(answers, key=lambda pair: pair[0])]
        self.scores = self._validation.score(ordered)
        found = self.scores[self._validation.metric]
        value = 0.0 if found is None or np.isnan(found) else float(found)  # there are no objects
        self.log(self._validation.metric, value, rank_zero_only=True)
        for name, row in self.scores.get("per_class", {}).items():
            if self._validation.metric in row:
                self.log(f"{self._validation.metric}/{name}", row[self._validation.metric])
        if self.best is None or value > self.best:
            self.best = value
            if self.trainer.checkpoint_callback is None:
                state = self.average.module.state_dict()
                self.best_state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def progress(self, loss: float) -> TrainingProgress:
        """Return the progress after a step with this loss."""
        metric = "" if self._validation is None else self._validation.metric
        score = self.scores.get(metric)
        return TrainingProgress(self.global_step, self.steps.total, loss, metric, score, self.best)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the best score, for the report."""
        checkpoint["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the best score."""
        self.best = checkpoint["best"]


class Steps(Sampler[int]):
    """The numbers of the steps of a round, from the first that is not done."""

    def __init__(self, each: int, total: int, done: Callable[[], int]) -> None:
        self.each, self.total, self._done = each, total, done

    def __len__(self) -> int:
        return self.each

    def __iter__(self) -> Iterator[int]:
        start = self._done()
        return iter(range(start, (start // self.each + 1) * self.each))


class Batches(Dataset):
    """The batch of each step, or the part of one process."""

    def __init__(self, data: TrainingData, recipe: Recipe, rank: int, world: int) -> None:
        self._data, self._recipe, self._rank, self._world = data, recipe, rank, world
        self._epoch = -1
        self._order = np.zeros(0, np.int64)

    def __getitem__(self, step: int) -> tuple[int, Any]:
        first = step * self._recipe.batch
        places = range(first, first + self._recipe.batch)[self._rank :: self._world]
        rng = np.random.default_rng((self._recipe.seed, step, self._rank))
        return step, self._data.draw(np.array([self._frame(place) for place in places]), rng)

    def _frame(self, place: int) -> int:
        """Return the frame at a position in the sequence of all epochs."""
        epoch, at = divmod(place, self._data.frames)
        if epoch != self._epoch:
            rng, weights = np.random.default_rng((self._recipe.seed, epoch)), self._data.weights
            if weights is None:
                self._order = rng.permutation(self._data.frames)
            else:
                self._order = rng.choice(self._data.frames, self._data.frames, p=weights / weights.sum())
            self._epoch = epoch
        return int(self._order[at])


def _loader(data: Any, steps: Sampler[int] | None = None, workers: int = 0) -> DataLoader:
    context = "spawn" if workers else None  # torch's threads do not work after a fork
    return DataLoader(
        data,
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
    )


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def steps_of(recipe: Recipe) -> tuple[int, int]:
    """Return the number of steps of a round, and of all rounds."""
    rounds = max(1, min(recipe.rounds, recipe.steps))
    each = -(-recipe.steps // rounds)
    return each, each * rounds
