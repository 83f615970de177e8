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
SAVE_SECONDS = 300.0  # of a long round that a killed run has to do again at most


class StopRequest(pl.Callback):
    """Stop after a step that was asked to be the last, and save now and then, so that nothing is lost."""

    def __init__(self, run: Path | None) -> None:
        self._run, self._asked, self._saved = run, False, time.monotonic()

    @contextlib.contextmanager
    def on_signal(self) -> Iterator[None]:
        """Ask for the stop on SIGINT and SIGTERM; a second signal does what it always does."""
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
        """Save in the middle of a round; its end is saved anyway, once it is scored."""
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
        """The round before this one is saved."""
        self._saved = time.monotonic()
        if self._every(trainer, self._asked) and trainer.global_step:
            raise Stopped

    @staticmethod
    def _every(trainer: Any, decision: bool) -> bool:
        """Whether any process decides so: all stop and save together."""
        return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))


class Stopped(Exception):
    """The run was asked to stop, and did."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, in its own folder.

    Lightning's own writes to the folder for temporary files first and copies from there, so that a full disk
    or a kill can leave half a file under the checkpoint's name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write, bring to the disk, then rename."""
        partial = f"{path}.partial"
        try:
            data = io.BytesIO()
            torch.save(checkpoint, data)  # to a full disk itself it fails with an error that names no disk
            with open(partial, "wb") as file:
                file.write(data.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise


def checkpoints(run: Path, metric: str | None) -> ModelCheckpoint:
    """After each round the last weights and, where they are scored, the best."""
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
