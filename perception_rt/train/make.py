"""From a recipe to a bundle: render, train, score, save."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from perception_rt.model.bundle import save
from perception_rt.model.manifest import ImageSpec, Manifest
from perception_rt.model.runtime import Runtime
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.data import FRAMES_PER_DRIVE, evaluation_seeds, render, training_seeds
from perception_rt.train.network import INPUT_SIZE, Detector, fused
from perception_rt.train.recipe import Recipe, fit, quick_bfloat16
from perception_rt.train.score import evaluate

SCORE_THRESHOLD = 0.4
NMS_THRESHOLD = 0.55
EVALUATION_DRIVES = 125

Report = Callable[[str, int, int, str], None]


def train_bundle(
    out: Path,
    recipe: Recipe,
    device: torch.device,
    evaluation_frames: int = 500,
    workers: int | None = None,
    report: Report = lambda phase, done, total, note: None,
) -> Manifest:
    """Train a detector on the simulator and save it with its recipe and its score on unseen drives.

    Args:
        out: the bundle to write.
        recipe: what decides the weights.
        device: where to train; scored on a CPU.
        evaluation_frames: unseen frames to score on.
        workers: rendering processes; None for one a core, 0 for none.
        report: told the phase, how much of how much is done, and a note.

    Returns:
        The manifest; ``provenance["score"]`` is what `evaluate` returned.

    Raises:
        BundleError: `out` cannot be written.
    """
    started = time.monotonic()
    drives = training_seeds(recipe.seed, -(-recipe.frames // FRAMES_PER_DRIVE))
    per_drive = min(recipe.frames, FRAMES_PER_DRIVE)
    frames = render(drives, per_drive, workers, _counter(report, "render", len(drives)))
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        recent = losses[-50:]
        report("train", step + 1, recipe.steps, f"loss {sum(recent) / len(recent):.3f}")

    network = fit(frames, recipe, device, on_step)
    detector = Detector(fused(network), SCORE_THRESHOLD, NMS_THRESHOLD)
    provenance = {
        "recipe": asdict(recipe),
        "data": f"perception_rt.sim, drives {drives[0]} to {drives[-1]}, {per_drive} frames each",
        "training": {
            "seconds": round(time.monotonic() - started),
            "device": str(device),
            "bfloat16": quick_bfloat16(device),
        },
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as folder:  # scored as it will run: from a file, through the runtime
        unscored = Path(folder) / out.name
        _save(unscored, detector, provenance)
        seeds = evaluation_seeds(min(EVALUATION_DRIVES, evaluation_frames))
        runtime = Runtime.open(unscored, device="cpu")
        score = evaluate(runtime, seeds, evaluation_frames, _counter(report, "evaluate", evaluation_frames))
    return _save(out, detector, {**provenance, "score": score})


def _save(path: Path, detector: Detector, provenance: dict) -> Manifest:
    return save(
        path,
        detector,
        name="sim_camera",
        classes=SIM_CLASSES,
        input_spec=ImageSpec(size=INPUT_SIZE[::-1], resize="letterbox", filter="bilinear", order="rgb"),
        licence="Apache-2.0",
        provenance=provenance,
    )


def _counter(report: Report, phase: str, total: int) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        report(phase, done, total, "")

    return count
