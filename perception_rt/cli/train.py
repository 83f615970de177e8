"""Train the small camera detector on the simulator, or score a bundle on unseen simulated frames."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from perception_rt.types import ConfigError

OUT = Path("out/sim_camera.pt")
EXAMPLES = """\
  perception-rt train                                      the shipped bundle, by its own recipe
  perception-rt train --out other.pt --seed 1              other drives, other first weights
  perception-rt train --out quick.pt --frames 400 --steps 150
  perception-rt train --evaluate sim_camera --frames 500   score the shipped bundle
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``perception-rt train``."""
    parser.add_argument("--out", type=Path, metavar="FILE", default=OUT, help=f"the bundle to write ({OUT})")
    parser.add_argument("--evaluate", metavar="BUNDLE", help="train nothing: score this file or shipped name")
    parser.add_argument("--seed", type=int, default=0, help="decides drives, first weights and order (0)")
    parser.add_argument("--frames", type=int, help="frames to learn from (3000), or to score on (500)")
    parser.add_argument("--steps", type=int, help="training steps of 8 windows (7000)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")


def run(args: argparse.Namespace) -> int:
    """Train or score; returns the exit status."""
    for name in ("frames", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value}: must be >= 1")
    if not 0 <= args.seed < 10_000:
        raise ConfigError(f"seed={args.seed}: must be in [0, 10000)")
    if args.evaluate:
        _evaluate(args)
    else:
        _train(args)
    return 0


def _train(args: argparse.Namespace) -> None:
    from perception_rt.model.runtime import resolve_device
    from perception_rt.train.make import train_bundle
    from perception_rt.train.recipe import Recipe

    chosen = {"seed": args.seed, "frames": args.frames, "steps": args.steps}
    recipe = Recipe(**{key: value for key, value in chosen.items() if value is not None})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with _progress() as report:
        manifest = train_bundle(args.out, recipe, resolve_device(args.device), report=report)
    _print_score(manifest.provenance["score"])
    seconds = manifest.provenance["training"]["seconds"]
    size = args.out.stat().st_size / 1e6
    Console().print(f"{args.out}: {size:.2f} MB, trained in {seconds / 60:.1f} min")


def _evaluate(args: argparse.Namespace) -> None:
    from perception_rt.model.runtime import Runtime
    from perception_rt.train.data import evaluation_seeds
    from perception_rt.train.make import EVALUATION_DRIVES
    from perception_rt.train.score import evaluate

    frames = args.frames or 500
    runtime = Runtime.open(args.evaluate, args.device)
    seeds = evaluation_seeds(min(EVALUATION_DRIVES, frames))
    with _progress() as report:
        done = iter(range(1, frames + 1))
        score = evaluate(runtime, seeds, frames, lambda: report("evaluate", next(done), frames, ""))
    _print_score(score)


@contextmanager
def _progress() -> Iterator:
    """A bar for each phase, as a function of phase, done, total and note."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        tasks: dict = {}

        def report(phase: str, done: int, total: int, note: str) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total, note=note)
            progress.update(tasks[phase], completed=done, note=note)

        yield report


def _print_score(score: dict) -> None:
    first, last = score["seeds"]
    table = Table(title=f"{score['frames']} unseen frames, drives {first} to {last}")
    table.add_column("class")
    for name in ("AP50", "AP50:95", "truths"):
        table.add_column(name, justify="right")
    for name, row in score["per_class"].items():
        table.add_row(name, f"{row['ap50']:.3f}", f"{row['ap50_95']:.3f}", str(row["truths"]))
    if not math.isnan(score["ap50"]):
        table.add_section()
        total = sum(row["truths"] for row in score["per_class"].values())
        table.add_row("mean", f"{score['ap50']:.3f}", f"{score['ap50_95']:.3f}", str(total))
    Console().print(table)
