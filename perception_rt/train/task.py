"""Train a bundle on the simulator: simulate, train, score, save."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.bundle import load
from perception_rt.model.manifest import Manifest
from perception_rt.model.runtime import Runtime
from perception_rt.train.blocks import fused
from perception_rt.train.drives import EVALUATION_DRIVES, evaluation_seeds, training_seeds
from perception_rt.train.prune import narrow
from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.types import BundleError
from perception_rt.types.errors import first_line

Report = Callable[[str, int, int, str], None]
Step = Callable[[], None]
RECENT = 50  # number of steps over which the reported loss is averaged


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """A detector that is trained on the simulator.

    Attributes:
        bundle: name of the bundle.
        recipe: of the shipped bundle.
        per_drive: number of frames of a drive.
        make_frames: simulates `(seeds, per_drive, workers, on_drive)`; the result has a length.
        draw_batch: returns the augmented frames of an index array as a batch; takes a random generator.
        make_network: returns an untrained network.
        loss: returns the loss of a network on a batch.
        save: writes `(path, network, provenance)` as a bundle.
        evaluate: scores `(runtime, seeds, frames, on_frame)` on unseen drives.
        evaluation_frames: number of frames for the score of the shipped bundle.
        teacher: opens `(bundle, device)` for `loss`, which takes it as `teacher`.
    """

    bundle: str
    recipe: Recipe
    per_drive: int
    make_frames: Callable[[Sequence[int], int, int | None, Step], Any]
    draw_batch: Callable[[Any, Any, np.random.Generator], Any]
    make_network: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    save: Callable[..., Manifest]
    evaluate: Callable[..., dict]
    evaluation_frames: int
    teacher: Callable[[str, str], Any]


def train(
    task: TrainingTask,
    frames: Any,
    recipe: Recipe,
    hardware: Hardware,
    on_step: Callable[[Any], None] = lambda progress: None,
    run: Path | None = None,
    resume: bool = False,
    teacher: Any = None,
) -> nn.Module:
    """Train the task's network with `perception_rt.train.fit.fit` on the result of `make_frames`."""
    from perception_rt.train.fit import fit  # PyTorch Lightning takes seconds to import
    from perception_rt.train.learner import TrainingData

    def draw(index: np.ndarray, rng: np.random.Generator) -> Any:
        return task.draw_batch(frames, index, rng)

    torch.manual_seed(recipe.seed)
    network = task.make_network()
    loss = task.loss if teacher is None else partial(task.loss, teacher=teacher)
    data = TrainingData(len(frames), draw, loss)
    return fit(network, data, recipe, hardware, run=run, resume=resume, on_step=on_step)


def train_bundle(
    task: TrainingTask,
    out: Path,
    recipe: Recipe,
    hardware: Hardware,
    evaluation_frames: int | None = None,
    workers: int | None = None,
    report: Report = lambda phase, done, total, note: None,
    run: Path | None = None,
    resume: bool = False,
    teacher: str | None = None,
) -> Manifest:
    """Train a detector on the simulator, and save it with its recipe and its score on unseen drives.

    Args:
        task: the detector.
        out: the bundle to write.
        recipe: the hyperparameters.
        hardware: where to train; the score is computed on a CPU.
        evaluation_frames: number of unseen frames for the score; None for the task's own number.
        workers: number of simulating processes; None for one per core, 0 for none.
        report: called with the phase, done, total, and a note.
        run: folder of checkpoints and logs; None for none.
        resume: continue from the checkpoint in `run`.
        teacher: a bundle whose answers are learned beside the truth.

    Returns:
        The manifest; ``provenance["score"]`` is what the task's `evaluate` returned.

    Raises:
        BundleError: `out` cannot be written.
        ConfigError: the teacher does not fit the task.
        ConfigError, ModelError, KeyboardInterrupt: see `perception_rt.train.fit.fit`.
    """
    network, provenance = train_network(task, recipe, hardware, workers, report, run, resume, teacher)
    return _save_scored(task, out, network, provenance, evaluation_frames, report)


def train_network(
    task: TrainingTask,
    recipe: Recipe,
    hardware: Hardware,
    workers: int | None = None,
    report: Report = lambda phase, done, total, note: None,
    run: Path | None = None,
    resume: bool = False,
    teacher: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Simulate and train; return the network and its provenance. Arguments and errors: see `train_bundle`."""
    started = time.monotonic()
    tutor = None if teacher is None else task.teacher(teacher, hardware.device)
    drives = training_seeds(recipe.seed, -(-recipe.frames // task.per_drive))
    per_drive = min(recipe.frames, task.per_drive)
    frames = task.make_frames(drives, per_drive, workers, _counter(report, "simulate", len(drives)))
    network = train(task, frames, recipe, hardware, progress_note(report), run, resume, tutor)
    provenance = {
        "recipe": asdict(recipe),
        **({} if tutor is None else {"teacher": tutor.record}),
        "data": f"perception_rt.sim, drives {drives[0]} to {drives[-1]}, {per_drive} frames each",
        "training": training_record(hardware, started),
        "torch": torch.__version__,
    }
    return network, provenance


def rebuild_bundle(
    task: TrainingTask,
    source: Path | str,
    out: Path,
    evaluation_frames: int | None = None,
    report: Report = lambda phase, done, total, note: None,
) -> Manifest:
    """Write the programs of a trained bundle again from its weights, and score the result.

    Args:
        task: the detector.
        source: a bundle that `train_bundle` wrote.
        out: the bundle to write.
        evaluation_frames: see `train_bundle`.
        report: see `train_bundle`.

    Raises:
        BundleError: `source` is no such bundle, or `out` cannot be written.
    """
    module, manifest = load(source)
    network = fused(task.make_network())
    # A bundle of pillars wraps the network in another module.
    weights = {name.removeprefix("network."): value for name, value in module.state_dict().items()}
    narrow(network, weights)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"{source}: not trained by this recipe: {first_line(error)}") from error
    derived = ("score", "left_out")
    provenance = {name: value for name, value in manifest.provenance.items() if name not in derived}
    return _save_scored(task, out, network, provenance, evaluation_frames, report)


def _save_scored(
    task: TrainingTask,
    out: Path,
    network: nn.Module,
    provenance: dict[str, Any],
    evaluation_frames: int | None,
    report: Report,
) -> Manifest:
    """Save the bundle with the score of the program that `auto` chooses on this machine."""
    with tempfile.TemporaryDirectory() as folder:  # as users run it: from a file
        unscored = Path(folder) / out.name
        task.save(unscored, network, provenance)
        runtime = Runtime.open(unscored, device="cpu")
        score = evaluate(task, runtime, evaluation_frames, report)
    program = f"{runtime.choice.engine} {runtime.choice.program.precision}"
    return task.save(out, network, {**provenance, "score": {**score, "program": program}})


def evaluate(
    task: TrainingTask,
    runtime: Runtime,
    frames: int | None = None,
    report: Report = lambda phase, done, total, note: None,
) -> dict:
    """Score an open bundle on drives that no training uses.

    Args:
        task: the detector whose frames and metric are used.
        runtime: a bundle of the simulator's classes.
        frames: number of frames; None for the task's own number.
        report: see `train_bundle`.

    Returns:
        What the task's `evaluate` returns.

    Raises:
        ConfigError: the bundle has other classes.
    """
    count = task.evaluation_frames if frames is None else frames
    seeds = evaluation_seeds(min(EVALUATION_DRIVES, count))
    return task.evaluate(runtime, seeds, count, _counter(report, "evaluate", count))


def training_record(hardware: Hardware, started: float) -> dict[str, Any]:
    """Return hardware and duration of a training since `started` (`time.monotonic`), for the manifest."""
    return {
        "seconds": round(time.monotonic() - started),
        "device": hardware.device,
        "devices": hardware.devices * hardware.nodes,
        "precision": hardware.plugin(),
    }


def progress_note(report: Report) -> Callable[[Any], None]:
    """Return a callback that reports the progress of `fit` as phase ``train``."""
    losses: deque[float] = deque(maxlen=RECENT)

    def on_step(progress: Any) -> None:
        losses.append(progress.loss)
        note = f"loss {sum(losses) / len(losses):.3f}"
        if progress.score is not None:
            note += f", {progress.metric} {progress.score:.3f} (best {progress.best:.3f})"
        report("train", progress.step, progress.steps, note)

    return on_step


def _counter(report: Report, phase: str, total: int) -> Step:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        report(phase, done, total, "")

    return count
