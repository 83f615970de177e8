"""Scores of the ego vehicle's state and prediction."""

from __future__ import annotations

from rich.progress import Progress

from bench.ego_comma2k19 import comma2k19_rows
from bench.ego_husky import BAG, husky_rows
from bench.ego_simulated import TUNED, UNSEEN, simulated_rows
from bench.inputs import DATA
from bench.rows import Row
from bench.turning_car import udacity_rows

SEGMENT = DATA / "comma2k19" / "segment_40.npz"
SIGHTINGS = DATA / "udacity_ekf" / "obj_pose-laser-radar-synthetic-input.txt"


def ego_rows(bar: Progress) -> list[Row]:
    """Every score of the ego vehicle; those on recordings where they are here."""
    task = bar.add_task("ego, simulated drives", total=len(TUNED) + len(UNSEEN))
    rows = simulated_rows(lambda: bar.advance(task))
    if SEGMENT.is_file():
        rows += comma2k19_rows(SEGMENT)
    if BAG.is_file():
        rows += husky_rows()
    if SIGHTINGS.is_file():
        rows += udacity_rows(SIGHTINGS)
    return rows
