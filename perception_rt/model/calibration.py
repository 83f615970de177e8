"""Calibrate scores, so that a score of 0.7 is right in seven of ten cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_rt.model import fields
from perception_rt.types.errors import BundleError

METHODS = ("auto", "isotonic", "temperature")
MIN_DETECTIONS = 50  # right and wrong together
GROUPS = 25  # of equally many detections, at most, and of MIN_DETECTIONS / 2 at least
MAX_LOGIT = 10.0
MAX_KNOTS = 1000


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """A strictly increasing map from the network's scores to calibrated ones; it keeps their order.

    Attributes:
        scores: (N,) scores of the network, increasing from 0 to 1.
        calibrated: (N,) the calibrated scores, increasing from 0 to 1; linear in between.
        record: how it was fitted, and its error on held-out data, JSON values.
    """

    scores: tuple[float, ...]
    calibrated: tuple[float, ...]
    record: Mapping[str, Any]

    def __call__(self, scores: np.ndarray | float) -> np.ndarray:
        """Return calibrated scores, float64; scores outside [0, 1] are clipped."""
        return np.asarray(np.interp(scores, self.scores, self.calibrated))

    def inverse(self, calibrated: np.ndarray) -> np.ndarray:
        """Return the network's scores for calibrated ones; NaN and infinity (of thresholds) are kept."""
        found = np.interp(calibrated, self.calibrated, self.scores)
        return np.where(np.isfinite(calibrated), found, calibrated)


def parse_calibration(value: Any) -> ScoreCalibration:
    """Read the field ``calibration`` of a manifest.

    Raises:
        BundleError: naming the field and its value.
    """
    data, prefix = fields.json_object(value), "calibration."
    fields.no_others(data, ScoreCalibration, prefix)
    line = {
        name: fields.field(data, name, fields.list_of(fields.number(0.0, 1.0)), prefix)
        for name in ("scores", "calibrated")
    }
    for name, knots in line.items():
        if not 2 <= len(knots) <= MAX_KNOTS or knots[0] != 0 or knots[-1] != 1 or min(np.diff(knots)) <= 0:
            raise BundleError(f"manifest {prefix}{name}={fields.shortened(knots)}: must rise from 0 to 1")
    if len(line["scores"]) != len(line["calibrated"]):
        raise BundleError(f"manifest {prefix}calibrated: must have as many values as {prefix}scores")
    return ScoreCalibration(**line, record=fields.field(data, "record", fields.json_object, prefix))


def fit_calibration(scores: np.ndarray, hits: np.ndarray, method: str = "auto") -> ScoreCalibration:
    """Fit a calibration; its record contains the method, and the temperature if there is one.

    ``temperature`` divides the logit of a score by one number, the most likely one (Guo, Pleiss, Sun and
    Weinberger, "On calibration of modern neural networks", ICML 2017). ``isotonic`` is the rising line
    nearest to the share of right detections in groups of neighbouring scores (Zadrozny and Elkan, KDD 2002).

    Args:
        scores: (D,) in [0, 1].
        hits: (D,) bool, whether each detection is right.
        method: one of `METHODS`; ``auto`` chooses by the likelihood in two-fold cross-validation.

    Raises:
        BundleError: there are too few detections, or all are right, or none.
    """
    right = int(hits.sum())
    if len(scores) < MIN_DETECTIONS or not 0 < right < len(scores):
        raise BundleError(
            f"{len(scores)} detections, {right} of them right: a calibration needs {MIN_DETECTIONS} and both "
            "right and wrong ones: give more labelled data"
        )
    fits = {"isotonic": _isotonic, "temperature": _temperature}
    if method == "auto":
        method = min(fits, key=lambda name: _left_out_loss(fits[name], scores, hits))
    return fits[method](scores, hits)


def _left_out_loss(fit: Any, scores: np.ndarray, hits: np.ndarray) -> float:
    """Return the log loss in two-fold cross-validation over alternate detections."""
    fold, loss = np.arange(len(scores)) % 2 == 0, 0.0
    for kept in (fold, ~fold):
        chance = np.clip(fit(scores[kept], hits[kept])(scores[~kept]), 1e-6, 1 - 1e-6)
        loss -= float(np.log(np.where(hits[~kept], chance, 1 - chance)).sum())
    return loss


def _isotonic(scores: np.ndarray, hits: np.ndarray) -> ScoreCalibration:
    from scipy.optimize import isotonic_regression

    order = np.argsort(scores, kind="stable")
    groups = np.array_split(order, max(1, min(GROUPS, len(scores) // (MIN_DETECTIONS // 2))))
    counts = np.array([len(group) for group in groups])
    # As if each group had seen one more right and one more wrong: no share is quite 0 or 1.
    shares = [(hits[group].sum() + 1) / (len(group) + 2) for group in groups]
    starts = isotonic_regression(shares, weights=counts).blocks[:-1]
    weight = np.add.reduceat(counts, starts)
    knots = np.add.reduceat([scores[group].mean() * len(group) for group in groups], starts) / weight
    values = np.add.reduceat(np.multiply(shares, counts), starts) / weight
    return _line(knots, values, {"method": "isotonic"})


def _temperature(scores: np.ndarray, hits: np.ndarray) -> ScoreCalibration:
    from scipy.optimize import minimize_scalar
    from scipy.special import expit, logit

    logits = np.clip(logit(scores.astype(np.float64)), -MAX_LOGIT, MAX_LOGIT)
    signed = np.where(hits, -logits, logits)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, signed / np.exp(log_temperature)).mean())

    temperature = float(np.exp(minimize_scalar(loss, bounds=(-2.3, 2.3), method="bounded").x))
    knots = np.linspace(-MAX_LOGIT, MAX_LOGIT, 201)
    record = {"method": "temperature", "temperature": round(temperature, 4)}
    return _line(expit(knots), expit(knots / temperature), record)


def _line(knots: np.ndarray, values: np.ndarray, record: dict[str, Any]) -> ScoreCalibration:
    """Return the line through the knots and the two corners; equal knots, after rounding, are merged."""
    rounded = np.round([np.r_[0.0, knots, 1.0], np.r_[0.0, values, 1.0]], 6)
    kept = [rounded[:, 0]]
    for knot in rounded[:, 1:-1].T:
        if (knot > kept[-1]).all() and (knot < 1).all():
            kept.append(knot)
    line = np.stack([*kept, rounded[:, -1]], 1).tolist()
    return ScoreCalibration(tuple(line[0]), tuple(line[1]), record)
