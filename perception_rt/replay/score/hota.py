"""Higher order tracking accuracy: how well objects are found and how long they keep one track.

Luiten et al., "HOTA: a higher order metric for evaluating multi-object tracking", IJCV 129, 2021. At each
overlap of 0.05, 0.10 .. 0.95 truths and tracks are paired in every frame, where those belong together that do
so in many frames; HOTA is there the root of the accuracies of detection (DetA) and of association (AssA), and
altogether the mean over the overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

ALPHAS = np.arange(0.05, 0.99, 0.05)


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """The truths and tracks of one frame and class.

    Attributes:
        truth_ids: (T,) int64, none twice. track_ids: (D,) int64, none twice.
        similarity: (T, D) float64 in [0, 1].
    """

    truth_ids: np.ndarray
    track_ids: np.ndarray
    similarity: np.ndarray


class Hota(NamedTuple):
    """Means over the overlaps, in [0, 1]; NaN where there are neither truths nor tracks."""

    hota: float
    det_a: float
    ass_a: float


def hota(frames: Sequence[Followed]) -> Hota:
    """Score the tracks of one class through one recording.

    Memory grows with the pairs that meet, not with truths times tracks: hours have many of both.
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
    """All ids, and each frame's as places among them."""
    unique = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
    return unique, [np.searchsorted(unique, here) for here in ids]


def _lengths(index: Sequence[np.ndarray], count: int) -> np.ndarray:
    """In how many frames each is."""
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *index]), minlength=count)


class _Alignment:
    """How much truths and tracks overlap through the recording, before anything is paired."""

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
        """That of pairs; 0 for those that never meet."""
        if not len(self._keys):
            return np.zeros(keys.shape)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._values[at], 0.0)


def _paired(
    keys: Sequence[np.ndarray], similarities: Sequence[np.ndarray], alignment: _Alignment
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of all frames, and at how many of the overlaps each is one."""
    pairs, levels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for key, similarity in zip(keys, similarities, strict=True):
        rows, columns = linear_sum_assignment(-alignment.of(key) * similarity)
        pairs.append(key[rows, columns])
        levels.append((similarity[rows, columns, None] >= ALPHAS - np.finfo(float).eps).sum(1))
    return np.concatenate(pairs), np.concatenate(levels)
