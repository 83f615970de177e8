"""Score predictions: displacement errors by time ahead, and consistency of the covariances.

ADE is the mean distance of a prediction's positions from the truth, FDE the distance of its last position
(Alahi et al., "Social LSTM", CVPR 2016); both are means over all predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.replay.score.consistency import ellipses
from perception_rt.replay.score.outputs import Outputs, RecordedOutput, estimates_of
from perception_rt.replay.score.places import Places, moved
from perception_rt.replay.score.scene import ScoredScene
from perception_rt.replay.score.tracking import paired
from perception_rt.replay.score.truth import BoxTruth, Moment
from perception_rt.types import TransformError

NEAR_M = 2.0
NEAR = 1 / (1 + NEAR_M)

Row = tuple[str, int, int, np.ndarray, np.ndarray]
"""Class, number of the prediction, how far ahead in ns, (2,) error in m (NaN: unknown), (2, 2) covariance."""


def score_predictions(
    truth: BoxTruth,
    scenes: Sequence[ScoredScene],
    classes: Sequence[str],
    predictions: Outputs,
    places: Places,
) -> dict:
    """Score the predicted paths of tracks.

    A track's truth is the object of its class that it is paired with at prediction time: centres at
    most 2 m apart seen from above. The prediction is compared with that object's true position at each
    predicted moment (`BoxTruth.at`), in the frame of the predictions.

    Args:
        scenes: the tracks with the truth. classes: names by label.
        predictions: with the tracks' ids.
    """
    by_stamp = predictions.by_stamp()
    rows: list[Row] = []
    number = unpaired = 0
    for scene in scenes:
        ahead = None if scene.output is None else by_stamp.get(scene.output.stamp_ns)
        if ahead is None:
            continue
        partners = _partners(scene)
        unpaired += len(scene.found) - len(partners)
        moments = {
            int(s): _placed(truth, int(s), ahead, places) for s in np.unique(estimates_of(ahead).stamps_ns)
        }
        for track, row in partners.items():
            mine = [k for k, id_ in enumerate(ahead.ids) if id_ == track]
            label, id_ = int(scene.labels[row]), int(scene.ids[row])
            name = truth.classes.index(classes[label])
            rows += [_row(classes[label], number, ahead, k, moments, (name, id_)) for k in mine]
            number += bool(mine)
    return summary(rows) | {"unpaired_tracks": unpaired}


def _partners(scene: ScoredScene) -> dict[str, int]:
    """Return the row of the paired truth, by track id."""
    partners: dict[str, int] = {}
    if scene.output is None:
        return partners
    for label in np.unique(scene.found_labels):
        truth = np.flatnonzero((scene.labels == label) & ~scene.ignored & (scene.ids >= 0))
        track = np.flatnonzero(scene.found_labels == label)
        away = np.linalg.norm(scene.boxes[truth, None, :2] - scene.found[None, track, :2], axis=2)
        for row, column in zip(*paired(1 / (1 + away), NEAR), strict=True):
            partners[scene.output.ids[scene.rows[track[column]]]] = int(truth[row])
    return partners


def _placed(
    truth: BoxTruth, stamp_ns: int, ahead: RecordedOutput, places: Places
) -> tuple[Moment, np.ndarray] | None:
    """Return the truth at a future moment, and its boxes in the frame of the predictions."""
    moment = truth.at(stamp_ns)
    if moment is None:
        return None
    try:
        matrix = places.between(ahead.frame_id, ahead.stamp_ns, truth.frame_id, stamp_ns)
    except TransformError:
        return None
    return moment, moved(matrix, moment.boxes)


def _row(
    name: str, number: int, ahead: RecordedOutput, k: int, moments: dict, wanted: tuple[int, int]
) -> Row:
    estimates = estimates_of(ahead)
    stamp_ns = int(estimates.stamps_ns[k])
    error, found = np.full(2, np.nan), moments[stamp_ns]
    if found is not None:
        moment, boxes = found
        there = np.flatnonzero((moment.labels == wanted[0]) & (moment.ids == wanted[1]))
        if len(there):
            error = ahead.boxes[k, :2] - boxes[there[0], :2]
    return name, number, stamp_ns - ahead.stamp_ns, error, estimates.covariance[k, :2, :2]


def summary(rows: Sequence[Row]) -> dict:
    """Return ADE, FDE and covariance consistency of predictions.

    Returns:
        `{"predictions", "complete", "ade_m", "fde_m", "horizons": {"0.5": {"count", "mean_m", "ellipses"}},
        "per_class": {name: {"predictions", "complete", "ade_m", "fde_m"}}}`; horizons in seconds. ADE uses
        all positions with a known truth; FDE only complete predictions, whose truth is known to the end.
    """
    names = np.array([row[0] for row in rows], object)
    numbers, ahead_ns = (np.array([row[k] for row in rows], np.int64) for k in (1, 2))
    errors = np.array([row[3] for row in rows], np.float64).reshape(-1, 2)
    covariances = np.array([row[4] for row in rows], np.float64).reshape(-1, 2, 2)
    distance = np.linalg.norm(errors, axis=1)
    known = np.isfinite(distance)
    horizons = {}
    milliseconds = np.round(ahead_ns / 1e6).astype(np.int64)
    for ahead_ms in np.unique(milliseconds[known]):
        mine = known & (milliseconds == ahead_ms)
        horizons[f"{ahead_ms / 1000:g}"] = {
            "count": int(mine.sum()),
            "mean_m": float(distance[mine].mean()),
            "ellipses": ellipses(errors[mine], covariances[mine]),
        }
    per_class = {
        str(name): _displacements(numbers[names == name], ahead_ns[names == name], distance[names == name])
        for name in sorted(set(names.tolist()))
    }
    return _displacements(numbers, ahead_ns, distance) | {"horizons": horizons, "per_class": per_class}


def _displacements(numbers: np.ndarray, ahead_ns: np.ndarray, distance: np.ndarray) -> dict:
    order = np.lexsort((ahead_ns, numbers))
    _, first, count = np.unique(numbers[order], return_index=True, return_counts=True)
    far = distance[order]
    known = np.isfinite(far)
    some = np.add.reduceat(known.astype(int), first) if len(first) else count
    sums = np.add.reduceat(np.where(known, far, 0.0), first) if len(first) else np.zeros(0)
    means, lasts = sums[some > 0] / some[some > 0], far[first + count - 1][some == count]
    return {
        "predictions": len(means),
        "complete": len(lasts),
        "ade_m": float(means.mean()) if len(means) else None,
        "fde_m": float(lasts.mean()) if len(lasts) else None,
    }
