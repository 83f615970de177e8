"""Score 3D tracks: CLEAR MOT at the best confidence, and averaged over recall.

The protocol of AB3DMOT (Weng et al., arXiv:1907.03961 and arXiv:2008.08063) with the rules of
KITTI's tracking benchmark: in each frame truth and tracks are paired by least cost over 1 - IoU of volumes,
at IoU 0.25 or more; tracks are dropped whole, by the mean of their confidences, at 40 thresholds, one for
each 1/40 of recall. MOTA is 1 - (FP + FN + switches) / truths; sMOTA leaves out the misses that a
recall of r implies, 1 - (FP + FN + switches - (1 - r) truths) / (r truths), clipped to [0, 1]; sAMOTA is its
mean over the 40, where a recall that is never reached counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from perception_rt.model.boxes3d import iou_3d

LEAST_IOU = 0.25
RECALLS = 40
FORBIDDEN = 1e9  # more than any sum of costs: as many pairs as can be, then the cheapest


@dataclass(frozen=True, slots=True, eq=False)
class Trajectories:
    """True or tracked boxes of one recording with ids, in order of frames.

    Attributes:
        frames: (N,) int64, not decreasing.
        ids: (N,) int64, at least 0; no id twice in a frame.
        xyzlwh_yaw: (N, 7) float, boxes in one frame of space.
        ignored: (N,) bool: not an error without a partner, and not a match with one.
        scores: (N,) float, confidence of tracks, on any scale; unused for truths.
    """

    frames: np.ndarray
    ids: np.ndarray
    xyzlwh_yaw: np.ndarray
    ignored: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.frames)
        for name in ("ids", "ignored", "scores", "xyzlwh_yaw"):
            shape = (n, 7) if name == "xyzlwh_yaw" else (n,)
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must be {shape}, got {getattr(self, name).shape}")
        if n and (np.diff(self.frames).min(initial=0) < 0 or self.ids.min() < 0):
            raise ValueError("frames must not decrease, and ids must be at least 0")
        if len(np.unique(np.stack([self.frames, self.ids]), axis=1).T) != n:
            raise ValueError("ids: the same id twice in one frame")

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts over all recordings at one threshold.

    Attributes:
        truths: that are not ignored.
        pairs: truths with a track, ignored ones included.
        misses: truths without (FN).
        false_tracks: boxes of tracks without a truth (FP).
        switches: a truth that has another track than in the frame before (IDS).
        fragments: a truth whose track restarts (FRAG).
    """

    truths: int
    pairs: int
    misses: int
    false_tracks: int
    switches: int
    fragments: int

    @property
    def errors(self) -> int:
        """Return FP + FN + IDS."""
        return self.misses + self.false_tracks + self.switches

    @property
    def mota(self) -> float:
        """Return the CLEAR MOT accuracy, at most 1."""
        return 1 - self.errors / self.truths

    def scaled_mota(self, recall: float) -> float:
        """Return sMOTA at a recall, in [0, 1]."""
        forced = (1 - recall) * self.truths
        return min(1.0, max(0.0, 1 - (self.errors - forced) / (recall * self.truths)))


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of tracks.

    Attributes:
        samota: mean over recall, in [0, 1].
        best: where MOTA is highest.
        threshold: the confidence there.
    """

    samota: float
    best: Counts
    threshold: float


def score_tracks(recordings: Sequence[tuple[Trajectories, Trajectories]]) -> Score:
    """Score tracks of one class against the truth.

    Args:
        recordings: (truth, tracks) of each.

    Raises:
        ValueError: all truths are ignored.
    """
    return score_scenes([Scene(truth, tracks) for truth, tracks in recordings])


def score_scenes(scenes: Sequence[Scene]) -> Score:
    """`score_tracks` of recordings whose overlaps are known."""
    if not sum(scene.truths for scene in scenes):
        raise ValueError("recordings: no truth that is not ignored")
    everything, confidences = _count(scenes, -np.inf)
    levels = _thresholds(confidences, everything.pairs + everything.misses)
    counts = [_count(scenes, threshold)[0] for threshold, _ in levels]
    samota = sum(found.scaled_mota(recall) for found, (_, recall) in zip(counts, levels, strict=True))
    best = max(range(len(counts)), key=lambda i: counts[i].mota, default=None)
    if best is None or counts[best].mota <= 0:
        return Score(samota / RECALLS, everything, float("-inf"))
    return Score(samota / RECALLS, counts[best], levels[best][0])


def _thresholds(confidences: np.ndarray, truths: int) -> list[tuple[float, float]]:
    """(threshold, recall) for each 1/40 of recall that the pairs reach, lowest recall first."""
    ranked = np.sort(confidences)[::-1]
    levels, recall = [], 0.0
    for i, threshold in enumerate(ranked):
        here, following = (i + 1) / truths, (i + 2) / truths
        if i < len(ranked) - 1 and following - recall < recall - here:
            continue
        levels.append((float(threshold), recall))
        recall += 1 / RECALLS
    return levels[1:]


def _count(scenes: Sequence[Scene], threshold: float) -> tuple[Counts, np.ndarray]:
    """Return the counts over all scenes, and the confidences of the matched tracks."""
    results = [scene.count(threshold) for scene in scenes]
    total = np.sum([counts for counts, _ in results], 0)
    return Counts(*(int(value) for value in total)), np.concatenate([found for _, found in results])


class Scene:
    """One recording: the overlaps of truth and tracks, computed once for all thresholds.

    Attributes:
        confidence: (N,) of each box of the tracks, the mean of its track.
        frames: (truth rows, track rows, IoU) of each frame with both.
    """

    def __init__(self, truth: Trajectories, tracks: Trajectories) -> None:
        self.truth, self.tracks = truth, tracks
        self.truths = int((~truth.ignored).sum())
        _, inverse = np.unique(tracks.ids, return_inverse=True)
        means = np.bincount(inverse, tracks.scores) / np.maximum(np.bincount(inverse), 1)
        self.confidence = means[inverse]
        self.rows = [np.flatnonzero(truth.ids == of) for of in np.unique(truth.ids)]
        self.frames = []
        for frame in np.intersect1d(truth.frames, tracks.frames):
            i, j = (np.arange(*np.searchsorted(of.frames, (frame, frame + 1))) for of in (truth, tracks))
            a, b = (torch.from_numpy(np.asarray(of.xyzlwh_yaw[k])) for of, k in ((truth, i), (tracks, j)))
            self.frames.append((i, j, iou_3d(a, b).numpy()))

    def count(self, threshold: float) -> tuple[tuple[int, ...], np.ndarray]:
        """The fields of `Counts` for tracks of at least that mean confidence, and the pairs' confidences."""
        kept = self.confidence >= threshold
        partner = np.full(len(self.truth), -1)  # row of the track
        for i, j, iou in self.frames:
            columns = kept[j]
            overlap = iou[:, columns]
            if (overlap >= LEAST_IOU).any():
                rows, chosen = linear_sum_assignment(np.where(overlap >= LEAST_IOU, 1 - overlap, FORBIDDEN))
                valid = overlap[rows, chosen] >= LEAST_IOU
                partner[i[rows[valid]]] = j[columns][chosen[valid]]
        paired = partner >= 0
        alone = kept & ~self.tracks.ignored
        alone[partner[paired]] = False
        ids = np.where(paired, self.tracks.ids[partner] if len(self.tracks) else -1, -1)
        breaks = [_breaks(ids[rows].tolist(), self.truth.ignored[rows].tolist()) for rows in self.rows]
        switches, fragments = np.sum(breaks, 0) if breaks else (0, 0)
        misses = int((~paired & ~self.truth.ignored).sum())
        counts = (self.truths, int(paired.sum()), misses, int(alone.sum()), int(switches), int(fragments))
        return counts, self.confidence[partner[paired]]


def _breaks(ids: list[int], ignored: list[bool]) -> tuple[int, int]:
    """Switches and fragments along one truth: the track's id in each of its frames, -1 without a track.

    As KITTI counts: a switch needs a track in the frame before; an ignored frame forgets what was before it.
    """
    switches = fragments = 0
    last = ids[0]
    for f in range(1, len(ids)):
        if ignored[f]:
            last = -1
            continue
        if ids[f] == -1:
            continue
        switches += last != -1 and ids[f - 1] != -1 and ids[f] != last
        fragments += ids[f - 1] != ids[f] and (f == len(ids) - 1 or (last != -1 and ids[f + 1] != -1))
        last = ids[f]
    return switches, fragments
