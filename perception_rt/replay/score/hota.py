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
    """Score the tracks of one class through one recording."""
    truth_ids, truth_index = _numbered([frame.truth_ids for frame in frames])
    track_ids, track_index = _numbered([frame.track_ids for frame in frames])
    if not len(truth_ids) and not len(track_ids):
        return Hota(np.nan, np.nan, np.nan)
    placed = [(i, j, frame.similarity) for i, j, frame in zip(truth_index, track_index, frames, strict=True)]
    shape = (len(truth_ids), len(track_ids))
    lengths = _lengths(truth_index, shape[0])[:, None], _lengths(track_index, shape[1])[None]
    together = _alignment(placed, shape, lengths)
    pairs, hits = _paired(placed, together)
    found = hits + (sum(map(len, truth_index)) - hits) + (sum(map(len, track_index)) - hits)
    det_a = hits / np.maximum(found, 1)
    ass_a = np.zeros(len(ALPHAS))
    for a, count in enumerate(pairs):
        ass_a[a] = (count * count / np.maximum(lengths[0] + lengths[1] - count, 1)).sum() / max(hits[a], 1)
    return Hota(float(np.sqrt(det_a * ass_a).mean()), float(det_a.mean()), float(ass_a.mean()))


def _numbered(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """All ids, and each frame's as places among them."""
    unique = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]))
    return unique, [np.searchsorted(unique, here) for here in ids]


def _lengths(index: Sequence[np.ndarray], count: int) -> np.ndarray:
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *index]), minlength=count)


def _alignment(placed: Sequence[tuple], shape: tuple[int, int], lengths: tuple) -> np.ndarray:
    """(truths, tracks) how much they overlap through the recording, before anything is paired."""
    potential = np.zeros(shape)
    for i, j, similarity in placed:
        rivals = similarity.sum(0)[None] + similarity.sum(1)[:, None] - similarity
        potential[np.ix_(i, j)] += np.divide(
            similarity, rivals, out=np.zeros(similarity.shape), where=rivals > np.finfo(float).eps
        )
    return potential / np.maximum(lengths[0] + lengths[1] - potential, np.finfo(float).eps)


def _paired(placed: Sequence[tuple], together: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(overlaps, truths, tracks) in how many frames they are a pair, and (overlaps,) how many pairs."""
    pairs = np.zeros((len(ALPHAS), *together.shape), np.int64)
    for i, j, similarity in placed:
        rows, columns = linear_sum_assignment(-together[np.ix_(i, j)] * similarity)
        enough = similarity[rows, columns] >= ALPHAS[:, None] - np.finfo(float).eps
        for a, kept in enumerate(enough):
            pairs[a, i[rows[kept]], j[columns[kept]]] += 1
    return pairs, pairs.sum((1, 2))
