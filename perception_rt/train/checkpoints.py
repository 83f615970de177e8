"""Checkpoints that survive a signal, a kill and a full disk."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

LAST, BEST = "last.ckpt", "best.ckpt"
SAVE_SECONDS = 300.0  # maximum part of a round that is lost if the run is killed


class StopRequest(pl.Callback):
    """Stops the training after the current step on request, and saves at intervals."""

    def __init__(self, run: Path | None) -> None:
        self._run, self._asked, self._saved = run, False, time.monotonic()

    @contextlib.contextmanager
    def on_signal(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM; a second signal has its usual effect."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, _: Any) -> None:
            self._asked = True
            signal.signal(signal.SIGINT, before[signal.SIGINT])

        try:
            for number in before:
                signal.signal(number, ask)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
        """Save in the middle of a round; its end is saved after the validation."""
        if number + 1 < trainer.num_training_batches:
            asked = self._every(trainer, self._asked)
            if self._run is not None and (
                asked or self._every(trainer, time.monotonic() - self._saved > SAVE_SECONDS)
            ):
                trainer.save_checkpoint(self._run / LAST)
                self._saved = time.monotonic()
            if asked:
                raise Stopped

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Stop between two rounds; the previous one is saved already."""
        self._saved = time.monotonic()
        if self._every(trainer, self._asked) and trainer.global_step:
            raise Stopped

    @staticmethod
    def _every(trainer: Any, decision: bool) -> bool:
        """Return whether any process decides so, as all must stop and save together."""
        return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))


class Stopped(Exception):
    """The run has stopped on request."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically.

    Lightning's own writer copies from the folder for temporary files, so a full disk or a kill can leave a
    truncated checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file, synchronise it, and rename it."""
        partial = f"{path}.partial"
        try:
            data = io.BytesIO()
            torch.save(checkpoint, data)  # on a full disk its own error does not mention the disk
            with open(partial, "wb") as file:
                file.write(data.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise


class MovedRun(pl.Callback):
    """Keeps the best score of a run whose folder was moved.

    `ModelCheckpoint` drops its state where its folder is another one, and the next round, however bad, would
    replace the best weights.
    """

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Change the paths in the state to the folder of this run, before it is loaded."""
        keeper = trainer.checkpoint_callback
        state = checkpoint["callbacks"].get(keeper.state_key, {})
        folder = Path(keeper.dirpath)
        best = {
            str(folder / Path(path).name): score for path, score in state.get("best_k_models", {}).items()
        }
        if not all(map(os.path.isfile, best)):
            return  # the best weights were left behind
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            if state.get(name):
                state[name] = str(folder / Path(state[name]).name)
        state.update(dirpath=keeper.dirpath, best_k_models=best)


def checkpoints(run: Path, metric: str | None) -> ModelCheckpoint:
    """Return a callback that keeps the last weights and, with validation, the best ones."""
    return ModelCheckpoint(
        str(run),
        Path(BEST).stem,
        monitor=metric,
        mode="max",
        save_top_k=0 if metric is None else 1,
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
