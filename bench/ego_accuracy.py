"""Scores of the ego vehicle's state and prediction; by itself: python -m bench.ego_accuracy."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench.command import command
from bench.ego_comma2k19 import comma2k19_rows
from bench.ego_simulated import TUNED, UNSEEN, simulated_rows
from bench.inputs import DATA
from bench.rows import Row, table_of, write_rows
from bench.turning_car import udacity_rows

OUT = Path("out/accuracy/ego.json")
SEGMENT = DATA / "comma2k19" / "segment_40.npz"
SIGHTINGS = DATA / "udacity_ekf" / "obj_pose-laser-radar-synthetic-input.txt"


def ego_rows(bar: Progress) -> list[Row]:
    """Every score of the ego vehicle; those on recordings where they are here."""
    task = bar.add_task("ego, simulated drives", total=len(TUNED) + len(UNSEEN))
    rows = simulated_rows(lambda: bar.advance(task))
    if SEGMENT.is_file():
        rows += comma2k19_rows(SEGMENT)
    if SIGHTINGS.is_file():
        rows += udacity_rows(SIGHTINGS)
    return rows


def main() -> int:
    """Measure, print, write."""
    return command(lambda: _measure(Console()))


def _measure(console: Console) -> None:
    with Progress(console=console) as bar:
        rows = ego_rows(bar)
    write_rows(OUT, rows)
    console.print(table_of(rows))


if __name__ == "__main__":
    sys.exit(main())
