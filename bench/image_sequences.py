"""Sequences of boxes in images with their truth, and the scores of trackers on them.

TUD-Campus and Venice-2 of MOT15, and KITTI's tracking labels with RRC's detections: each class of each of six
sequences by itself. Of KITTI counts what its development kit counts: objects that are cut off, occluded
beyond "largely" or of a neighbouring class may be found or missed; tracks without a partner are no error
where their box is low or mostly in a region of `DontCare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from bench.kitti import ignored_in_image
from perception_rt.replay.kitti import DONT_CARE, Labels, read_tracking_labels
from perception_rt.replay.kitti_tracking import MOST_OCCLUDED, NEIGHBOURS
from perception_rt.replay.mot import read_mot
from perception_rt.replay.score.hota import TrackFrame, hota
from perception_rt.replay.score.tracking import LEAST_IOU_2D, overlap, paired
from perception_rt.types import Detections2D

MOT_HZ = {"TUD-Campus": 25, "Venice-2": 30}
KITTI_HZ = 10
KITTI_NAMES = ("0001", "0006", "0008", "0012", "0013", "0016")
CLASS_OF = {"Car": "car", "Pedestrian": "pedestrian"}


@dataclass(frozen=True, slots=True, eq=False)
class ImageFrame:
    """One frame.

    Attributes:
        detections: of one class, label 0.
        ids, xyxy: (T,) int64 and (T, 4) float32 of the true boxes.
        ignored: (T,) bool, true boxes that need not be found.
        labels: KITTI's, for the regions where nothing is labelled; None where all is.
    """

    detections: Detections2D
    ids: np.ndarray
    xyxy: np.ndarray
    ignored: np.ndarray
    labels: Labels | None = None

    def followed(self, ids: np.ndarray, xyxy: np.ndarray) -> TrackFrame:
        """The true boxes and those tracks (N,), (N, 4) that count."""
        alike = overlap(self.xyxy, xyxy, flat=True)
        row, column = paired(alike, LEAST_IOU_2D)
        gone = ignored_in_image(xyxy, self.labels) if self.labels is not None else np.zeros(len(ids), bool)
        gone[column] = self.ignored[row]
        return TrackFrame(self.ids[~self.ignored], ids[~gone], alike[~self.ignored][:, ~gone])


@dataclass(frozen=True, slots=True, eq=False)
class ImageSequence:
    """Frames of one class: `name` of the sequence, `class_name` of what is tracked, `hz`."""

    name: str
    class_name: str
    hz: int
    frames: tuple[ImageFrame, ...]


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Scores in percent (NaN without truth), and counts of boxes and switches."""

    hota: float
    idf1: float
    mota: float
    false_positives: int
    misses: int
    switches: int
    truths: int


@cache
def image_sequences(data: Path) -> tuple[ImageSequence, ...]:
    """All fourteen; `data` is the folder of the recordings."""
    mot = [_mot(data / "tracking_mot15" / name, hz) for name, hz in MOT_HZ.items()]
    kitti = [_kitti(data / "tracking_kitti", name, kind) for kind in CLASS_OF for name in KITTI_NAMES]
    return (*mot, *kitti)


def _mot(folder: Path, hz: int) -> ImageSequence:
    found, truths = read_mot(folder / "det.txt"), read_mot(folder / "gt.txt")
    frames = []
    for number in range(1, max(truths) + 1):
        true = truths[number]
        detections = Detections2D.empty()
        if number in found:
            scores = found[number].scores.clip(0, 1)
            detections = Detections2D(found[number].xyxy, scores, np.zeros(len(scores), np.int64))
        frames.append(ImageFrame(detections, true.ids, true.xyxy, np.zeros(len(true.ids), bool)))
    return ImageSequence(folder.name, "pedestrian", hz, tuple(frames))


def _kitti(folder: Path, name: str, kind: str) -> ImageSequence:
    labels = read_tracking_labels(folder / "label" / f"{name}.txt")
    rows = np.loadtxt(folder / f"rrc_{kind}" / f"{name}.txt", delimiter=",", ndmin=2).reshape(-1, 6)
    frames = []
    for number in range(max(labels) + 1):
        part = rows[rows[:, 0] == number].astype(np.float32)
        here = labels.get(number)
        detections = Detections2D(part[:, 1:5], part[:, 5].clip(0, 1), np.zeros(len(part), np.int64))
        if here is None:
            nothing = np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, bool)
            frames.append(ImageFrame(detections, *nothing))
            continue
        true = here[np.isin(here.types, (kind, *NEIGHBOURS[kind]))]
        hidden = (true.occluded > MOST_OCCLUDED) | (true.truncated > 0) | (true.types != kind)
        frames.append(
            ImageFrame(detections, true.track_ids, true.xyxy, hidden, here[here.types == DONT_CARE])
        )
    return ImageSequence(f"rrc_{kind.lower()}_{name}", CLASS_OF[kind], KITTI_HZ, tuple(frames))


def score_image_tracks(frames: Sequence[TrackFrame]) -> ImageScore:
    """HOTA, IDF1 and CLEAR MOT at IoU 0.5 of one sequence, or of several whose ids differ."""
    misses, false_positives, switches = _clear(frames)
    truths = sum(len(frame.truth_ids) for frame in frames)
    return ImageScore(
        hota=100 * hota(frames).hota,
        idf1=100 * _idf1(frames),
        mota=100 * (1 - (misses + false_positives + switches) / truths) if truths else float("nan"),
        false_positives=false_positives,
        misses=misses,
        switches=switches,
        truths=truths,
    )


def pooled(parts: Sequence[Sequence[TrackFrame]]) -> list[TrackFrame]:
    """The frames of several sequences as one, their ids made different."""
    step = 10**7
    return [
        TrackFrame(frame.truth_ids + step * part, frame.track_ids + step * part, frame.similarity)
        for part, frames in enumerate(parts)
        for frame in frames
    ]


def _clear(frames: Sequence[TrackFrame]) -> tuple[int, int, int]:
    """Misses, false positives and switches; who was partners stays so while the overlap lasts."""
    partner: dict[int, int] = {}
    misses = false_positives = switches = 0
    for frame in frames:
        alike = np.where(frame.similarity >= LEAST_IOU_2D, frame.similarity, 0.0)
        before = np.array([partner.get(key, -1) for key in frame.truth_ids.tolist()], np.int64)
        kept = before[:, None] == frame.track_ids[None]
        rows, columns = linear_sum_assignment(np.where(alike > 0, alike + 1000.0 * kept, 0.0), maximize=True)
        good = alike[rows, columns] > 0
        rows, columns = rows[good], columns[good]
        tracks = frame.track_ids[columns]
        switches += int(((before[rows] >= 0) & (before[rows] != tracks)).sum())
        partner |= dict(zip(frame.truth_ids[rows].tolist(), tracks.tolist(), strict=True))
        misses += len(frame.truth_ids) - len(rows)
        false_positives += len(frame.track_ids) - len(rows)
    return misses, false_positives, switches


def _idf1(frames: Sequence[TrackFrame]) -> float:
    """Ristani et al., "Performance measures and a data set for multi-target, multi-camera tracking", 2016."""
    truths, tracks = (
        sum(len(getattr(frame, name)) for frame in frames) for name in ("truth_ids", "track_ids")
    )
    together: dict[tuple[int, int], int] = {}
    for frame in frames:
        for row, column in zip(*np.nonzero(frame.similarity >= LEAST_IOU_2D), strict=True):
            key = int(frame.truth_ids[row]), int(frame.track_ids[column])
            together[key] = together.get(key, 0) + 1
    if not together:
        return 0.0 if truths + tracks else float("nan")
    keys = np.array(list(together))
    row_ids, rows = np.unique(keys[:, 0], return_inverse=True)
    column_ids, columns = np.unique(keys[:, 1], return_inverse=True)
    table = np.zeros((len(row_ids), len(column_ids)))
    table[rows, columns] = list(together.values())
    # A pair that shares n boxes saves n misses and n false positives: the most shared boxes are the best.
    return 2 * table[linear_sum_assignment(table, maximize=True)].sum() / (truths + tracks)
