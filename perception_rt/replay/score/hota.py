"""Higher order tracking accuracy (HOTA), which combines detection and association.

Luiten et al., "HOTA: a higher order metric for evaluating multi-object tracking", IJCV 129, 2021. At each
IoU threshold 0.05, 0.10 .. 0.95 truths and tracks are paired in every frame, with a preference for pairs that
match in many frames. HOTA is the geometric mean of detection accuracy (DetA) and association accuracy (AssA),
averaged over the thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

ALPHAS = np.arange(0.05, 0.99, 0.05)


@dataclass(frozen=True, slots=True, eq=False)
class TrackFrame:
    """The truths and tracks of one frame and class.

    Attributes:
        truth_ids: (T,) int64, unique. track_ids: (D,) int64, unique.
        similarity: (T, D) float64 in [0, 1].
    """

    truth_ids: np.ndarray
    track_ids: np.ndarray
    similarity: np.ndarray


class Hota(NamedTuple):
    """Means over the thresholds, in [0, 1]; NaN without truths and tracks."""

    hota: float
    det_a: float
    ass_a: float


def hota(frames: Sequence[TrackFrame]) -> Hota:
    """Score the tracks of one class in one recording.

    Memory grows with the number of overlapping pairs, not with truths times tracks.
    """
    truth_ids, truth_index = _numbered([frame.truth_ids for frame in frames])
    track_ids, track_index = _numbered([frame.track_ids for frame in frames])
    if not len(truth_ids) and not len(track_ids):
        return Hota(np.nan, np.nan, np.nan)
    width = max(len(track_ids), 1)
    keys = [i[:, None] * width + j for i, j in zip(truth_index, track_index, strict=True)]
    similarities = [frame.similarity for frame in frames]
    frames_of = _lengths(truth_index, len(truth_ids)), _lengths(track_index, len(track_ids))
    pairs, levels = _paired(keys, similarities, _Alignment(keys, similarities, width, frames_of))
    det_a, ass_a = np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    for a in range(len(ALPHAS)):
        key, count = np.unique(pairs[levels > a], return_counts=True)
        hits = count.sum()
        det_a[a] = hits / max(frames_of[0].sum() + frames_of[1].sum() - hits, 1)
        either = frames_of[0][key // width] + frames_of[1][key % width] - count
        ass_a[a] = (count * count / np.maximum(either, 1)).sum() / max(hits, 1)
    return Hota(float(np.sqrt(det_a * ass_a).mean()), float(det_a.mean()), float(ass_a.mean()))


def _numbered(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return all ids, and the indices of each frame's ids."""
    unique = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
    return unique, [np.searchsorted(unique, here) for here in ids]


def _lengths(index: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Return in how many frames each id occurs."""
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *index]), minlength=count)


class _Alignment:
    """The overlap of truths and tracks over the whole recording, before pairing."""

    def __init__(
        self,
        keys: Sequence[np.ndarray],
        similarities: Sequence[np.ndarray],
        width: int,
        frames_of: tuple[np.ndarray, np.ndarray],
    ) -> None:
        meet, shares = [np.zeros(0, np.int64)], [np.zeros(0)]
        for key, similarity in zip(keys, similarities, strict=True):
            rivals = similarity.sum(0)[None] + similarity.sum(1)[:, None] - similarity
            met = (similarity > 0) & (rivals > np.finfo(float).eps)
            meet.append(key[met])
            shares.append(similarity[met] / rivals[met])
        self._keys, inverse = np.unique(np.concatenate(meet), return_inverse=True)
        together = np.bincount(inverse, np.concatenate(shares), minlength=len(self._keys))
        either = frames_of[0][self._keys // width] + frames_of[1][self._keys % width] - together
        self._values = together / np.maximum(either, np.finfo(float).eps)

    def of(self, keys: np.ndarray) -> np.ndarray:
        """Return the alignment of pairs; 0 for pairs that never overlap."""
        if not len(self._keys):
            return np.zeros(keys.shape)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._values[at], 0.0)


def _paired(
    keys: Sequence[np.ndarray], similarities: Sequence[np.ndarray], alignment: _Alignment
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of all frames, and at how many thresholds each is a match."""
    pairs, levels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for key, similarity in zip(keys, similarities, strict=True):
        rows, columns = linear_sum_assignment(-alignment.of(key) * similarity)
        pairs.append(key[rows, columns])
        levels.append((similarity[rows, columns, None] >= ALPHAS - np.finfo(float).eps).sum(1))
    return np.concatenate(pairs), np.concatenate(levels)
