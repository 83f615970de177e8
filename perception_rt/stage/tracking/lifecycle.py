"""Birth, age and death of tracks: the same for boxes in space and in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.stage.tracking.config import Life

COLUMNS = (
    "ids", "labels", "hits", "scores", "age_s", "missed_s", "confirmed", "detection", "belief", "doubled",
)  # fmt: skip
FADING = 0.95  # of what is believed of a class, a detection
MARGIN = 1.2  # by which another class must be believed more, so that a track's class does not flicker


class LifeCycle:
    """What is known of every track besides its box, as (T,) arrays.

    Attributes:
        ids: never used twice.
        labels: class of each.
        hits: detections so far.
        scores: of the last detection.
        age_s: since the first detection, s.
        missed_s: since the last detection, s.
        confirmed: whether it was sure enough, or seen often enough, to be reported.
        detection: row of this update's detection; -1 for none.
        doubled: detections in a row that were of the same object as an older track's.
        belief: (T, C), sums of the scores of detections of each class, old ones fading.
    """

    def __init__(self, lives: Sequence[Life]) -> None:
        def by_label(name: str) -> np.ndarray:
            return np.array([getattr(life, name) for life in lives])

        self._sure, self._hits_to_confirm = by_label("sure_score"), by_label("hits_to_confirm")
        self._probation, self._memory = by_label("probation_s"), by_label("memory_s")
        self._coast = by_label("coast_s")
        self._next_id = 0
        self.clear()

    def clear(self) -> None:
        """Forget every track; their ids stay used."""
        self.ids, self.labels, self.hits = (np.zeros(0, np.int64) for _ in range(3))
        self.detection, self.doubled = (np.zeros(0, np.int64) for _ in range(2))
        self.scores, self.age_s, self.missed_s = (np.zeros(0) for _ in range(3))
        self.confirmed = np.zeros(0, bool)
        self.belief = np.zeros((0, len(self._sure)))

    def __len__(self) -> int:
        return len(self.ids)

    def advance(self, dt: float) -> None:
        """Age every track by `dt` s; none has a detection yet."""
        self.age_s += dt
        self.missed_s += dt
        self.detection.fill(-1)

    def remembered(self, least_s: float) -> np.ndarray:
        """(T,) bool: had a detection within the memory of its class, at least within `least_s`."""
        return self.missed_s <= np.maximum(self._memory[self.labels], least_s)

    def hit(self, rows: np.ndarray, detections: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """The tracks `rows` (P,) have the `detections` (P,) with these scores and labels."""
        self.belief[rows] *= FADING
        self.belief[rows, labels] += scores
        best = self.belief[rows].argmax(1)
        surer = self.belief[rows, best] > MARGIN * self.belief[rows, self.labels[rows]]
        self.labels[rows] = np.where(surer, best, self.labels[rows])
        self.hits[rows] += 1
        self.missed_s[rows] = 0.0
        self.scores[rows] = scores
        self.detection[rows] = detections
        self.confirmed[rows] |= self._confirm(self.labels[rows], self.hits[rows], scores)

    def _confirm(self, labels: np.ndarray, hits: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return (hits >= self._hits_to_confirm[labels]) | (scores >= self._sure[labels])

    def passed(self) -> np.ndarray:
        """(T,) bool: confirmed, or seen now, or still within the probation of its class."""
        return self.confirmed | (self.detection >= 0) | (self.missed_s <= self._probation[self.labels])

    def keep(self, mask: np.ndarray) -> None:
        """Drop the tracks where `mask` (T,) is false."""
        for name in COLUMNS:
            setattr(self, name, getattr(self, name)[mask])

    def append(self, detections: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Begin a track at each of the `detections` (M,)."""
        count = len(detections)
        hits, none, zeros = np.ones(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
        ids = np.arange(self._next_id, self._next_id + count)
        self._next_id += count
        confirmed = self._confirm(labels, hits, scores)
        belief = np.zeros((count, self.belief.shape[1]))
        belief[np.arange(count), labels] = scores
        new = (ids, labels, hits, scores, zeros, zeros, confirmed, detections, belief, none)
        for name, values in zip(COLUMNS, new, strict=True):
            setattr(self, name, np.concatenate((getattr(self, name), values)))

    def reported(self, visible: np.ndarray) -> np.ndarray:
        """(R,) rows of the tracks to report: confirmed, and seen now or not long ago.

        Args:
            visible: (T,) bool, whether the sensor would see it.
        """
        coasting = visible & (self.missed_s <= self._coast[self.labels])
        return np.flatnonzero(self.confirmed & ((self.detection >= 0) | coasting))
