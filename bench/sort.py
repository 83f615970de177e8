"""SORT, the baseline of the trackers in the image.

Bewley, Ge, Ott, Ramos and Upcroft: "Simple online and realtime tracking", ICIP 2016, with the settings of the
paper's experiments: a least overlap of 0.3, a track ends with its second frame without a detection and is
reported from its third detection in a row on, or in the first three frames.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from perception_rt.stage.fusion.fuse import iou_2d

LEAST_IOU = 0.3
MOST_MISSED, LEAST_HITS = 1, 3
_NOISE = np.diag([1.0, 1.0, 10.0, 10.0])
_DRIFT = np.diag([1.0, 1.0, 1.0, 1.0, 0.01, 0.01, 0.0001])
_MOVE = np.eye(7) + np.eye(7, k=4)
_SEEN = np.eye(4, 7)


class _Box:
    """One track: centre, area and aspect ratio, and the velocities of the first three."""

    def __init__(self, number: int, xyxy: np.ndarray) -> None:
        self.number, self.missed, self.streak = number, 0, 0
        self.mean = np.append(_measured(xyxy), np.zeros(3))
        self.covariance = np.diag([10.0] * 4 + [10000.0] * 3)

    def predict(self) -> np.ndarray:
        if self.mean[2] + self.mean[6] <= 0:
            self.mean[6] = 0.0
        self.mean = _MOVE @ self.mean
        self.covariance = _MOVE @ self.covariance @ _MOVE.T + _DRIFT
        self.streak = 0 if self.missed else self.streak
        self.missed += 1
        return self.xyxy()

    def update(self, xyxy: np.ndarray) -> None:
        self.missed, self.streak = 0, self.streak + 1
        gain = self.covariance @ _SEEN.T @ np.linalg.inv(_SEEN @ self.covariance @ _SEEN.T + _NOISE)
        self.mean = self.mean + gain @ (_measured(xyxy) - self.mean[:4])
        self.covariance = (np.eye(7) - gain @ _SEEN) @ self.covariance

    def xyxy(self) -> np.ndarray:
        width = np.sqrt(max(self.mean[2] * self.mean[3], 1e-9))
        half = np.array([width, self.mean[2] / width]) / 2
        return np.concatenate((self.mean[:2] - half, self.mean[:2] + half))


def _measured(xyxy: np.ndarray) -> np.ndarray:
    width, height = xyxy[2:] - xyxy[:2]
    return np.array([*(xyxy[:2] + xyxy[2:]) / 2, width * height, width / height])


class Sort:
    """Tracks boxes of one class at a constant rate."""

    def __init__(self) -> None:
        self._tracks: list[_Box] = []
        self._frames = self._begun = 0

    def update(self, xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take the (N, 4) boxes of one frame; return the (T,) ids and (T, 4) boxes of the tracks."""
        self._frames += 1
        predicted = np.array([track.predict() for track in self._tracks]).reshape(-1, 4)
        iou = iou_2d(predicted, xyxy)
        rows, columns = linear_sum_assignment(iou, maximize=True)
        good = iou[rows, columns] >= LEAST_IOU
        for row, column in zip(rows[good], columns[good], strict=True):
            self._tracks[row].update(xyxy[column].astype(np.float64))
        for column in np.setdiff1d(np.arange(len(xyxy)), columns[good]):
            self._tracks.append(_Box(self._begun, xyxy[column].astype(np.float64)))
            self._begun += 1
        early = self._frames <= LEAST_HITS
        shown = [t for t in self._tracks if not t.missed and (early or t.streak >= LEAST_HITS)]
        self._tracks = [track for track in self._tracks if track.missed <= MOST_MISSED]
        ids = np.array([track.number for track in shown], np.int64)
        return ids, np.array([track.xyxy() for track in shown], np.float32).reshape(-1, 4)
