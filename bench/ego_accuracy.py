"""Scores of the ego vehicle's state and prediction."""

from __future__ import annotations

from dataclasses import replace

from rich.progress import Progress

from bench.comma2k19 import read_segment
from bench.ego_comma2k19 import CUT_OUTS_S, comma2k19_rows, drift_in
from bench.ego_husky import BAG, husky_rows
from bench.ego_simulated import TUNED, UNSEEN, simulated_rows
from bench.inputs import DATA
from bench.rows import Row, against
from bench.turning_car import udacity_rows

SEGMENT = DATA / "comma2k19" / "segment_40.npz"
SIGHTINGS = DATA / "udacity_ekf" / "obj_pose-laser-radar-synthetic-input.txt"


def ego_rows(bar: Progress) -> list[Row]:
    """Return every score of the ego vehicle; scores on recordings only if available."""
    task = bar.add_task("ego, simulated drives", total=len(TUNED) + len(UNSEEN))
    rows = simulated_rows(lambda: bar.advance(task))
    if SEGMENT.is_file():
        rows += comma2k19_rows(SEGMENT)
    if BAG.is_file():
        rows += husky_rows()
    if SIGHTINGS.is_file():
        rows += udacity_rows(SIGHTINGS)
    return rows


def ego_trust_rows() -> list[Row]:
    """Return the drift without fixes beside dead reckoning: the Husky, and a car on the held-out half."""
    rows = []
    if BAG.is_file():
        found = [entry for entry in husky_rows() if entry.baseline is not None]
        rows += [replace(entry, name=f"trust/{entry.name}") for entry in found]
    if SEGMENT.is_file():
        segment = read_segment(SEGMENT)
        (tuned, _), (unseen, base) = (drift_in(segment, CUT_OUTS_S[at]) for at in (0, -1))
        rows.append(
            against(
                "trust/ego/comma2k19/drift_20s_percent", 100 * unseen, "% of the way", 100 * base, most=True,
                tuned_value=100 * tuned, tuned_on="the first half",
            )
        )  # fmt: skip
    return rows
