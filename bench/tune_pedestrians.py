"""Choose the motion model and error radii of pedestrians on all scenes of ETH/UCY but one.

The motion is chosen for the least ratio to constant velocity's errors on the worst of the other scenes; then
the radii that hold 50 % and 95 % of what came there, on average over the scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.prediction_accuracy import CLICK_SD, SETS, WALKING_SD, ellipse_distances, held_in
from bench.prediction_inputs import bare_tracks
from bench.trajectories import (
    AHEAD,
    STEP_S,
    Windows,
    constant_velocity,
    displacement_errors,
    read_windows,
)
from perception_rt.stage.prediction.motion import PEDESTRIAN, Motion
from perception_rt.stage.prediction.predictor import ObjectPredictor, PredictorConfig
from perception_rt.stage.prediction.spread import LEADS_S, SHARES, Spread
from perception_rt.types.predictions import Predictions

WALKS, STOP_SHARES, KEEP_TIMES_S = (0.25, 0.36, 0.5), (0.001, 0.01, 0.05), (75.0, 150.0)
COARSE = 3  # of so many windows one takes part in the choice of the motion
HORIZONS_S = (0.4, 0.8, 1.2, 2.0, 2.8, 3.6, 4.8)
HELD = (0.5, 0.95)  # in the middle of what 50 % and 95 % may be


class Run(NamedTuple):
    """Predictions of a scene, and what scales their radii.

    `unit`: (2, W, T) m/s, unrest by the factors of 50 % and 95 %. `lead`: (2, L), the radii found while
    running, s.
    """

    windows: Windows
    predictions: Predictions
    unit: np.ndarray
    lead: np.ndarray

    def ratios(self) -> np.ndarray:
        """ADE and FDE over constant velocity's."""
        ours = displacement_errors(self.predictions.xy, self.windows.ahead)
        base = displacement_errors(constant_velocity(self.windows.seen), self.windows.ahead)
        return np.array(ours) / base

    def held(self, share: int) -> np.ndarray:
        """(T,) how much the ellipses of SHARES[share] hold."""
        return held_in(self.predictions, ellipse_distances(self.predictions, self.windows), SHARES[share])


def run(windows: Windows, motion: Motion) -> Run:
    """Predict after every window."""
    predictor = ObjectPredictor(PredictorConfig((motion,), AHEAD * STEP_S, STEP_S))
    labels = np.zeros(len(windows), np.int64)
    covariance = np.tile(CLICK_SD**2 * np.eye(2), (len(windows), 1, 1))
    for step in range(windows.seen.shape[1]):
        xy = windows.seen[:, step]
        tracks = bare_tracks(xy, labels, WALKING_SD)
        predictions = predictor.update(round(step * STEP_S * 1e9), tracks, xy, covariance)
    if motion.spread is None:
        return Run(windows, predictions, np.ones((2, len(windows), AHEAD)), np.ones((2, len(LEADS_S))))
    errors = predictor._errors
    unit = errors.growth(predictor.config.times_s)[:, 0, None] * errors.unrest(labels)[:, None]
    leads = np.array((motion.spread.lead_half, motion.spread.lead_most))
    return Run(windows, predictions, unit, errors.factors()[..., 0] * leads)


def choose_motion(scenes: Sequence[Windows]) -> Motion:
    """The motion whose worst ratio is the least."""

    def worst(motion: Motion) -> float:
        return max(run(scene[::COARSE], motion).ratios().max() for scene in scenes)

    return min(motions(), key=worst)


def motions() -> Iterator[Motion]:
    """The grid."""
    for walk, stop_share, keep_time_s in product(WALKS, STOP_SHARES, KEEP_TIMES_S):
        yield replace(
            PEDESTRIAN,
            walk=walk,
            stop_share=stop_share,
            keep_time_s=keep_time_s,
            turn_share=0.001,
            spread=None,
        )


def fit_spread(scenes: Sequence[Windows], motion: Motion, start: Spread) -> Spread:
    """The radii of `start`'s unrest that hold on average over the scenes what they say."""
    found = [run(scene, replace(motion, spread=start)).lead for scene in scenes]
    half, most = (tuple(float(f"{s:.3g}") for s in row) for row in np.exp(np.mean(np.log(found), 0)))
    spread = replace(start, lead_half=half, lead_most=most)
    runs = [run(scene, replace(motion, spread=spread)) for scene in scenes]
    radii = []
    for share, wanted in enumerate(HELD):
        errors = [
            np.linalg.norm(each.windows.ahead - each.predictions.xy, axis=-1) / each.unit[share]
            for each in runs
        ]
        at = [round(seconds / STEP_S) - 1 for seconds in HORIZONS_S]
        radii.append(tuple(_radius([error[:, step] for error in errors], wanted) for step in at))
    return replace(spread, horizons_s=HORIZONS_S, half=radii[0], most=radii[1])


def _radius(errors: Sequence[np.ndarray], wanted: float) -> float:
    """The radius that holds the wanted share on average over scenes, to three digits."""
    known = [np.sort(error[np.isfinite(error)]) for error in errors]
    low, high = 1e-4, 1e4
    while high / low > 1.0005:
        middle = np.sqrt(low * high)
        share = np.mean([np.searchsorted(error, middle) / len(error) for error in known])
        low, high = (middle, high) if share < wanted else (low, middle)
    return float(f"{high:.3g}")


@cache
def left_out(data: Path, name: str) -> Motion:
    """The motion with its spread that all scenes but `name` give; of all for an empty name."""
    scenes = [read_windows(data / "eth_ucy" / file) for other, file in SETS.items() if other != name]
    motion = choose_motion(scenes)
    assert PEDESTRIAN.spread is not None
    return replace(motion, spread=fit_spread(scenes, motion, PEDESTRIAN.spread))


def tune_pedestrians(data: Path, console: Console) -> None:
    """Print each fold."""
    table = Table("left out", "walk", "stop", "keep s", "ADE FDE, ratios", "50 % holds", "95 % holds")
    at = [round(seconds / STEP_S) - 1 for seconds in HORIZONS_S[2:]]
    for name in (*SETS, ""):
        motion = left_out(data, name)
        cells = [f"{motion.walk:g}", f"{motion.stop_share:g}", f"{motion.keep_time_s:g}"]
        for scene in [name] if name else SETS:
            each = run(read_windows(data / "eth_ucy" / SETS[scene]), motion)
            held = [" ".join(f"{value:.2f}" for value in each.held(share)[at]) for share in range(2)]
            ratios = " ".join(f"{value:.3f}" for value in each.ratios())
            table.add_row(name or f"none: {scene}", *cells, ratios, *held)
    console.print(table)
    console.print(f"chosen on all: {left_out(data, '')}")
    console.print(f"shares held at {', '.join(f'{seconds:g}' for seconds in HORIZONS_S[2:])} s; {LEADS_S=}")
