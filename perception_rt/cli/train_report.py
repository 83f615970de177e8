"""What a training shows: bars, its data, its scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from perception_rt.train.folder import Prepared


def print_data(prepared: Prepared) -> None:
    """Print what is learned from, and for how long."""
    samples = prepared.samples
    table = Table(title=f"{samples.form}: {len(samples.frames)} frames, {len(samples.validation)} set apart")
    for title in ("class", "objects", "set apart"):
        table.add_column(title, justify="left" if title == "class" else "right")
    counts = zip(samples.counts(samples.labels), samples.counts(samples.validation_labels), strict=True)
    for name, pair in zip(samples.classes, counts, strict=True):
        table.add_row(name, *map(str, pair))
    console = Console()
    console.print(table)
    if samples.left_out:
        left_out = ", ".join(f"{name} {count}" for name, count in sorted(samples.left_out.items()))
        console.print(f"left out: {left_out}")
    absent = [name for name in getattr(prepared.weights, "classes", ()) if name not in samples.classes]
    absent = [name for name in absent if name not in prepared.trainee.names(())]
    if absent and len(absent) <= 20:
        console.print(f"classes of the weights that the data lack; they are forgotten: {', '.join(absent)}")
    recipe = prepared.recipe
    console.print(f"{recipe.steps} steps of {recipe.batch}, {recipe.rounds} rounds, seed {recipe.seed}")


@contextmanager
def progress(shown: bool = True) -> Iterator[Callable[[str, int, int, str], None]]:
    """Yield a function of phase, done, total and note that shows a bar for each phase."""
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, disable=not shown) as progress:
        tasks: dict[str, TaskID] = {}

        told: dict[str, int] = {}

        def report(phase: str, done: int, total: int, note: str) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total, note=note)
            progress.update(tasks[phase], completed=done, note=note)
            tenth = 10 * done // max(1, total)
            if shown and not progress.console.is_terminal and told.get(phase, 0) < tenth < 10:
                told[phase] = tenth  # a file or a pipe shows no bars
                print(f"{phase} {done}/{total} {note}".rstrip(), flush=True)

        yield report


def print_result(out: Path, manifest: Any) -> None:
    """Print the score of a bundle that was trained, and its size."""
    score, seconds = manifest.provenance["score"], manifest.provenance["training"]["seconds"]
    print_score(score)
    Console().print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, trained in {seconds / 60:.1f} min, scored by "
        f"{score['program']}"
    )


COLUMNS = (
    ("AP50", "ap50"),
    ("AP50:95", "ap50_95"),
    ("AP70", "ap70"),
    ("AP 2 m", "ap_2m"),
    ("accuracy", "accuracy"),
)


def print_score(score: dict[str, Any]) -> None:
    """Print a row for each class and the mean; simulated clouds have a column for each range band."""
    if "bands" in score:
        parts = {f"AP, BEV IoU {score['iou']:g}": score, **score["bands"]}
        columns = [(title, part, "ap", "map") for title, part in parts.items()]
    else:
        columns = [(title, score, key, key) for title, key in COLUMNS if key in score]
    title = f"{score['frames']} frames"
    if "seeds" in score:
        first, last = score["seeds"]
        title = f"{score['frames']} unseen frames, drives {first} to {last}"
    table = Table(title=title)
    table.add_column("class")
    for name in (*(column[0] for column in columns), "truths"):
        table.add_column(name, justify="right")
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
