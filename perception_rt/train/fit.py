"""Training with PyTorch Lightning, for all recipes.

The batch of a step depends only on the seed and the number of the step. So a run that was interrupted, killed
or ran out of disk space continues from its last checkpoint without any difference, and a recipe is
reproducible on the same machine with the same number of threads.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn

from perception_rt.train.checkpoints import (
    BEST,
    LAST,
    MovedRun,
    Stopped,
    StopRequest,
    WholeCheckpoints,
    checkpoints,
)
from perception_rt.train.learner import Learner, TrainingData, TrainingProgress, Validation
from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.types import ConfigError, ModelError

LOGS = "tensorboard"

# Its messages are for authors of a Trainer.
for name in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


def fit(
    network: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    hardware: Hardware,
    *,
    validation: Validation | None = None,
    run: Path | None = None,
    resume: bool = False,
    on_step: Callable[[TrainingProgress], None] = lambda progress: None,
) -> nn.Module:
    """Train a network.

    Args:
        network: with its initial weights.
        data: the training data.
        recipe: the hyperparameters.
        hardware: devices and precision.
        validation: the validation after each round; None keeps the last weights.
        run: folder of the checkpoints and of TensorBoard's logs; None writes nothing.
        resume: continue from the last checkpoint in `run`, if there is one.
        on_step: called after each step.

    Returns:
        The averaged network with the best score, in evaluation mode, on the CPU.

    Raises:
        ConfigError: a device or strategy is not available, or a checkpoint is from another network.
        ModelError: there is not enough memory, or the loss is not finite.
        KeyboardInterrupt: after SIGINT or SIGTERM, with a checkpoint of the last step in `run`.
    """
    learner = Learner(network, data, recipe, hardware, validation)
    stop = StopRequest(run)
    callbacks: list[Any] = [_Report(on_step), stop]
    if validation is not None and recipe.patience:
        callbacks.append(EarlyStopping(validation.metric, 0.0, recipe.patience, mode="max"))
    if run is not None:
        callbacks += [MovedRun(), checkpoints(run, None if validation is None else validation.metric)]
    last = run / LAST if run is not None and resume and (run / LAST).is_file() else None
    with warnings.catch_warnings(), stop.on_signal():
        warnings.simplefilter("ignore")  # about numbers of workers, existing folders and so on
        trainer = _trainer(recipe, hardware, learner, callbacks, run)
        with _reported(recipe, run, last):
            trainer.fit(learner, ckpt_path=last, weights_only=True)
    if validation is not None and run is not None:
        saved = torch.load(run / BEST, map_location="cpu", weights_only=True)
        learner.load_state_dict(saved["state_dict"])
    elif validation is not None:
        learner.average.module.load_state_dict(learner.best_state)
    return learner.average.module.eval().cpu()


class _Report(pl.Callback):
    """Reports each step to the caller."""

    def __init__(self, on_step: Callable[[TrainingProgress], None]) -> None:
        self._on_step = on_step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        if trainer.is_global_zero:
            self._on_step(module.progress(float(outputs["loss"])))


def _trainer(
    recipe: Recipe, hardware: Hardware, learner: Learner, callbacks: list[Any], run: Path | None
) -> pl.Trainer:
    kind, _, index = hardware.device.partition(":")
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    try:
        return pl.Trainer(
            accelerator=kind,
            devices=[int(index)] if index else hardware.devices,
            num_nodes=hardware.nodes,
            strategy=hardware.strategy,
            precision=hardware.plugin(),  # type: ignore[arg-type]
            max_steps=learner.steps.total,
            max_epochs=-1,
            callbacks=callbacks,
            plugins=[WholeCheckpoints()],
            logger=TensorBoardLogger(run, name="", version=LOGS, default_hp_metric=False) if run else False,
            enable_checkpointing=run is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"--device={hardware.device} --devices={hardware.devices} --strategy={hardware.strategy}: {error}"
        ) from error


@contextlib.contextmanager
def _reported(recipe: Recipe, run: Path | None, last: Path | None) -> Iterator[None]:
    """Yield errors with advice for the user, in one line."""
    try:
        yield
    except Stopped as error:
        raise KeyboardInterrupt from error
    except torch.OutOfMemoryError as error:
        text = str(error).splitlines()[0].partition(". ")[0]
        raise ModelError(
            f"--batch={recipe.batch}: {text}: take a smaller --batch or --precision bf16"
        ) from error
    except (pickle.UnpicklingError, EOFError) as error:
        raise ConfigError(f"--resume={run}: {LAST}: not a checkpoint of a training, or damaged") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), error.filename or str(run)) from error
    except RuntimeError as error:
        if "PytorchStreamReader" in str(error):
            raise ConfigError(
                f"--resume={run}: {LAST}: not a checkpoint of a training, or damaged"
            ) from error
        if "size mismatch" in str(error) or "Missing key" in str(error):
            raise ConfigError(f"--resume={run}: {last} is of another network") from error
        if "can't allocate memory" in str(error):
            raise ModelError(f"--batch={recipe.batch}: out of memory: take a smaller --batch") from error
        raise
