"""Scores of object prediction on people seen from above: ETH, Hotel and zara1.

The parameters come from all three, so these are tuned figures; `python -m bench.tune --part pedestrians`
prints those of scenes that were left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import chi2

from bench.prediction_inputs import predict_after, squared_distances
from bench.rows import Row, row
from bench.trajectories import (
    AHEAD,
    STEP_S,
    Windows,
    constant_velocity,
    displacement_errors,
    halves,
    read_windows,
)
from perception_rt.stage.prediction.motion import PEDESTRIAN
from perception_rt.stage.prediction.predictor import PredictorConfig
from perception_rt.types.predictions import Predictions

SETS = {"eth": "eth_univ.csv", "hotel": "eth_hotel.csv", "zara1": "ucy_zara01.csv"}
CONFIG = PredictorConfig((PEDESTRIAN,), horizon_s=AHEAD * STEP_S, step_s=STEP_S)
CLICK_SD = 0.05  # m
WALKING_SD = 1.3  # m/s
HORIZONS_S = (1.2, 2.0, 2.8, 4.8)


def prediction_rows(data: Path) -> list[Row]:
    """Every score; `data` is the folder of the recordings."""
    rows = []
    for name, file in SETS.items():
        whole = read_windows(data / "eth_ucy" / file)
        tuned, unseen = halves(whole)
        for part, windows in (("", whole), ("tuned_half/", tuned), ("unseen_half/", unseen)):
            rows += window_rows(f"prediction/{name}/{part}", windows)
    return rows


def window_rows(prefix: str, windows: Windows) -> list[Row]:
    """Displacement errors against the baseline's, and how much the ellipses hold."""
    predictions = predict(windows)
    ade, fde = displacement_errors(predictions.xy, windows.ahead)
    base_ade, base_fde = displacement_errors(constant_velocity(windows.seen), windows.ahead)
    distances = ellipse_distances(predictions, windows)
    rows = [
        row(f"{prefix}windows", len(windows), "windows"),
        row(f"{prefix}ade", ade, "m", f"< {base_ade:.4f} m of constant velocity"),
        row(f"{prefix}fde", fde, "m", f"< {base_fde:.4f} m of constant velocity"),
    ]
    held = {share: held_in(predictions, distances, share) for share in (0.5, 0.95)}
    for horizon_s in HORIZONS_S:
        at = round(horizon_s / STEP_S) - 1
        rows += [row(f"{prefix}held_{share:.0%}_at_{horizon_s}s", held[share][at], "share") for share in held]
    for end_s in (HORIZONS_S[-2], HORIZONS_S[-1]):
        until = held[0.95][: round(end_s / STEP_S)]
        rows += [
            row(f"{prefix}held_95%_least_to_{end_s}s", until.min(), "share", ">= 0.90 at every step"),
            row(f"{prefix}held_95%_most_to_{end_s}s", until.max(), "share", "<= 0.99 at every step"),
        ]
    return rows


def predict(windows: Windows) -> Predictions:
    """Predict the path after each window's positions."""
    n = len(windows)
    labels, sd = np.zeros(n, np.int64), np.full(n, CLICK_SD)
    return predict_after(windows.seen, labels, STEP_S, CONFIG, sd, WALKING_SD)


def ellipse_distances(predictions: Predictions, windows: Windows) -> np.ndarray:
    """(W, 12) squared Mahalanobis distances of what was clicked later; NaN after the end."""
    return squared_distances(windows.ahead - predictions.xy, predictions.covariance)


def held_in(predictions: Predictions, distances: np.ndarray, share: float) -> np.ndarray:
    """(T,) how many of (W, T) squared distances lie in the ellipse of 50 % or 95 %; NaN do not count."""
    limit = predictions.half_distance**2 if share == 0.5 else chi2.ppf(share, 2)
    known = np.isfinite(distances)
    return (known & (distances <= limit)).sum(0) / known.sum(0)


def held_within(distances: np.ndarray, share: float) -> np.ndarray:
    """(T,) how many of (W, T) distances lie in the ellipse that should hold `share`; NaN do not count."""
    known = np.isfinite(distances)
    return (known & (distances <= chi2.ppf(share, 2))).sum(0) / known.sum(0)
