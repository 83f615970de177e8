"""Score tracks: CLEAR MOT and IDF1 by py-motmetrics, HOTA, and covariance consistency."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import motmetrics
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from perception_rt.model.boxes3d import iou_3d
from perception_rt.replay.clear_mot import LEAST_IOU
from perception_rt.replay.score.consistency import ellipses
from perception_rt.replay.score.hota import TrackFrame, hota
from perception_rt.replay.score.scene import ScoredScene

LEAST_IOU_2D = 0.5  # as MOTChallenge
COUNTS = (
    *("num_objects", "num_predictions", "num_matches", "num_misses", "num_false_positives"),
    *("num_switches", "num_fragmentations", "idtp", "idfp", "idfn"),
)
NAMES = {
    "num_objects": "truths",
    "num_predictions": "boxes",
    "num_misses": "misses",
    "num_false_positives": "false_positives",
    "num_switches": "id_switches",
    "num_fragmentations": "fragmentations",
}


def score_tracks(scenes: Sequence[ScoredScene], classes: Sequence[str], flat: bool) -> dict:
    """Score tracks by their ids.

    Truths and tracks of a class match at an IoU of at least 0.5 in the image, and at a 3D IoU of at least
    0.25 in space (as in AB3DMOT); HOTA uses all thresholds. Tracks that match an ignored truth do not
    count, nor do unmatched tracks in an unlabelled area.

    Returns:
        `{"mota", "idf1", "id_switches", .., "hota", "per_class": {name: {the same, "det_a", "ass_a"}}}`:
        MOTA, IDF1 and the counts over all classes together, HOTA as the mean of the classes that have a
        truth; None without truth.
    """
    per_class, totals = {}, dict.fromkeys(COUNTS, 0)
    for label, name in enumerate(classes):
        frames = [track_frame(scene, label, flat) for scene in scenes]
        if not any(len(frame.truth_ids) or len(frame.track_ids) for frame in frames):
            continue
        counts = clear_mot(frames, LEAST_IOU_2D if flat else LEAST_IOU)
        totals = {key: totals[key] + counts[key] for key in COUNTS}
        of = hota(frames)
        row = _rates(counts) | {"hota": of.hota, "det_a": of.det_a, "ass_a": of.ass_a}
        per_class[name] = row
    means = [row["hota"] for row in per_class.values() if row["truths"]]
    return _rates(totals) | {"hota": float(np.mean(means)) if means else None, "per_class": per_class}


def _rates(counts: dict[str, int]) -> dict:
    truths, errors = counts["num_objects"], ("num_misses", "num_false_positives", "num_switches")
    identified = 2 * counts["idtp"] + counts["idfp"] + counts["idfn"]
    return {
        "mota": 1 - sum(counts[key] for key in errors) / truths if truths else None,
        "idf1": 2 * counts["idtp"] / identified if identified else None,
        **{NAMES[key]: counts[key] for key in NAMES},
    }


def clear_mot(frames: Sequence[TrackFrame], least: float) -> dict[str, int]:
    """Return the counts of py-motmetrics."""
    counter = motmetrics.MOTAccumulator()
    for number, frame in enumerate(frames):
        distance = np.where(frame.similarity >= least, 1 - frame.similarity, np.nan)
        counter.update(frame.truth_ids, frame.track_ids, distance, frameid=number)
    found = motmetrics.metrics.create().compute(counter, metrics=list(COUNTS), return_dataframe=False)
    return {key: int(found[key]) for key in COUNTS}


def track_frame(scene: ScoredScene, label: int, flat: bool) -> TrackFrame:
    """Return the counted truths and tracks of one class in a scene; truths without id are ignored."""
    ignored = scene.ignored | (scene.ids < 0)
    truth, track = np.flatnonzero(scene.labels == label), np.flatnonzero(scene.found_labels == label)
    alike = overlap(scene.boxes[truth], scene.found[track], flat)
    row, column = paired(alike, LEAST_IOU_2D if flat else LEAST_IOU)
    gone = scene.excused[track]
    gone[column] = ignored[truth[row]]
    asked = ~ignored[truth]
    ids = np.zeros(0, np.int64)
    if scene.output is not None and len(track):
        ids = numbers_of([scene.output.ids[k] for k in scene.rows[track]])
    return TrackFrame(scene.ids[truth[asked]], ids[~gone], alike[asked][:, ~gone])


def overlap(a: np.ndarray, b: np.ndarray, flat: bool) -> np.ndarray:
    """Return (N, M) float64 IoU, in the image or in 3D."""
    of: Callable = box_iou if flat else iou_3d
    return of(torch.from_numpy(a), torch.from_numpy(b)).numpy().astype(np.float64)


def paired(alike: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the assignment with the greatest sum, above the threshold."""
    rows, columns = linear_sum_assignment(np.where(alike >= least, alike, 0.0), maximize=True)
    enough = alike[rows, columns] >= least
    return rows[enough], columns[enough]


def numbers_of(ids: Sequence[str]) -> np.ndarray:
    """Return (N,) int64 of track ids, which are numbers as text."""
    return np.array([int(text) for text in ids], np.int64)


def track_ellipses(scenes: Sequence[ScoredScene], classes: Sequence[str]) -> dict | None:
    """Return the consistency of the xy covariances of 3D tracks that are paired with a truth."""
    errors, covariances = [np.zeros((0, 2))], [np.zeros((0, 2, 2))]
    for scene in scenes:
        if scene.output is None or scene.output.estimates is None:
            continue
        for label in range(len(classes)):
            truth = np.flatnonzero((scene.labels == label) & ~scene.ignored)
            track = np.flatnonzero(scene.found_labels == label)
            row, column = paired(overlap(scene.boxes[truth], scene.found[track], False), LEAST_IOU)
            errors.append((scene.found[track[column]] - scene.boxes[truth[row]])[:, :2])
            covariances.append(scene.output.estimates.covariance[scene.rows[track[column]], :2, :2])
    return ellipses(np.concatenate(errors), np.concatenate(covariances))
