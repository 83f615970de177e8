"""Train a model on the simulator, or score a bundle on unseen simulated frames."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from perception_rt.types import ConfigError

RECIPES = {
    "camera": "perception_rt.train.camera.task:CAMERA",
    "pillars": "perception_rt.train.pillars.task:PILLARS",
}
EXAMPLES = """\
  perception-rt train camera                               the shipped camera bundle, by its own recipe
  perception-rt train pillars --out mine.pt --seed 1       lidar; other drives and initial weights
  perception-rt train camera --out quick.pt --frames 400 --steps 150
  perception-rt train camera --weights sim_camera          quantize and score the same weights anew
  perception-rt train --evaluate sim_camera --frames 500   score the shipped camera bundle
  perception-rt train --evaluate pillars --frames 300      score the lidar one, by class and distance
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``perception-rt train``."""
    parser.add_argument("recipe", nargs="?", choices=tuple(RECIPES), help="what to train")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the bundle to write (out/<its name>.pt)")
    parser.add_argument(
        "--evaluate",
        metavar="BUNDLE",
        help="score this bundle (a file or a shipped name) instead of training",
    )
    parser.add_argument(
        "--weights",
        metavar="BUNDLE",
        help="do not train: write the programs of this bundle anew from its weights, and score them",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of drives, initial weights and order (0)")
    parser.add_argument("--frames", type=int, help="frames to train or score on (default: the recipe's)")
    parser.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")


def run(args: argparse.Namespace) -> int:
    """Train or score; returns the exit status."""
    for name in ("frames", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value}: must be >= 1")
    if not 0 <= args.seed < 10_000:
        raise ConfigError(f"seed={args.seed}: must be in [0, 10000)")
    if args.evaluate and args.recipe:
        raise ConfigError(f"recipe={args.recipe}: cannot be combined with --evaluate")
    if args.evaluate:
        _evaluate(args)
    elif args.recipe:
        _train(args)
    else:
        raise ConfigError(f"recipe: name what to train ({', '.join(RECIPES)}), or --evaluate a bundle")
    return 0


def _train(args: argparse.Namespace) -> None:
    from perception_rt.model.runtime import resolve_device
    from perception_rt.model.task import load_object
    from perception_rt.train.recipe import Hardware
    from perception_rt.train.task import rebuild_bundle, train_bundle

    task = load_object(RECIPES[args.recipe])
    chosen = {"seed": args.seed, "frames": args.frames, "steps": args.steps}
    recipe = replace(task.recipe, **{key: value for key, value in chosen.items() if value is not None})
    out = args.out or Path("out", f"{task.bundle}.pt")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _progress() as report:
        if args.weights:
            manifest = rebuild_bundle(task, args.weights, out, args.frames, report)
        else:
            hardware = Hardware(str(resolve_device(args.device)))
            manifest = train_bundle(task, out, recipe, hardware, report=report)
    score, seconds = manifest.provenance["score"], manifest.provenance["training"]["seconds"]
    _print_score(score)
    Console().print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, trained in {seconds / 60:.1f} min, scored by "
        f"{score['program']}"
    )


def _evaluate(args: argparse.Namespace) -> None:
    from perception_rt.model.runtime import Runtime
    from perception_rt.model.task import TASKS, load_object
    from perception_rt.train.task import evaluate

    runtime = Runtime.open(args.evaluate, args.device)
    recipe = TASKS[runtime.manifest.task].recipe
    if recipe not in RECIPES:
        raise ConfigError(f"--evaluate={args.evaluate}: no recipe scores task {runtime.manifest.task}")
    task = load_object(RECIPES[recipe])
    with _progress() as report:
        score = evaluate(task, runtime, args.frames, report)
    _print_score(score)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, str], None]]:
    """Yield a function of phase, done, total and note that shows a bar for each phase."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int, note: str) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total, note=note)
            progress.update(tasks[phase], completed=done, note=note)

        yield report


def _print_score(score: dict[str, Any]) -> None:
    """Print a row for each class and the mean; scores of clouds have a column for each range band."""
    if "bands" in score:
        parts = {f"AP, BEV IoU {score['iou']:g}": score, **score["bands"]}
        columns = [(title, part, "ap", "map") for title, part in parts.items()]
    else:
        columns = [("AP50", score, "ap50", "ap50"), ("AP50:95", score, "ap50_95", "ap50_95")]
    first, last = score["seeds"]
    table = Table(title=f"{score['frames']} unseen frames, drives {first} to {last}")
    table.add_column("class")
    for title in (*(column[0] for column in columns), "truths"):
        table.add_column(title, justify="right")
    for name, row in score["per_class"].items():
        figures = (part["per_class"].get(name, {}).get(key, math.nan) for _, part, key, _ in columns)
        table.add_row(name, *map(_figure, figures), str(row["truths"]))
    if score["per_class"]:
        table.add_section()
        means = (_figure(part[key]) for _, part, _, key in columns)
        table.add_row("mean", *means, str(sum(row["truths"] for row in score["per_class"].values())))
    Console().print(table)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
