"""The field of view of a sensor, learned from where it finds things."""

from __future__ import annotations

import numpy as np

ALL_AROUND = np.pi  # rad: a wider arc is taken for a sensor that sees all around
OBJECTS = 5  # so many must have been seen before the arc counts


class FieldOfView:
    """The smallest arc of bearings that some part of every detection so far lies in.

    A camera, or a lidar's detector that is trained on a camera's images, finds nothing beyond the edge of the
    image: a track that goes over it is not missed but has left.
    """

    def __init__(self) -> None:
        self._low = self._high = np.nan
        self._ids: set[int] = set()

    def widen(self, boxes: np.ndarray, ids: np.ndarray) -> None:
        """Take detections (D, 7), in the sensor's frame, of the tracks `ids` (D,)."""
        if not len(boxes):
            return
        if len(self._ids) < OBJECTS:
            self._ids.update(ids.tolist())
        low, high = bearings(boxes)
        if np.isnan(self._low):
            farthest = np.hypot(boxes[:, 0], boxes[:, 1]).argmax()
            self._low = self._high = (low[farthest] + high[farthest]) / 2
        low, high = self._unwrapped(low, high)
        self._low, self._high = min(self._low, high.min()), max(self._high, low.max())

    def holds(self, boxes: np.ndarray) -> np.ndarray:
        """(N,) bool: which of (N, 7) boxes in the sensor's frame are in view, at least in part."""
        if len(self._ids) < OBJECTS or self._high - self._low > ALL_AROUND:
            return np.ones(len(boxes), bool)
        low, high = self._unwrapped(*bearings(boxes))
        return (low <= self._high) & (high >= self._low)

    def _unwrapped(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same bearings, their middles within half a circle of the arc's."""
        turn = 2 * np.pi * np.round((low + high - self._low - self._high) / (4 * np.pi))
        return low - turn, high - turn


def bearings(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest bearing of the corners of (N, 7) boxes, each (N,) rad, around that of the centre."""
    cos, sin = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    along = boxes[:, 3:4] / 2 * (1, 1, -1, -1)
    across = boxes[:, 4:5] / 2 * (1, -1, 1, -1)
    x = boxes[:, :1] + along * cos - across * sin
    y = boxes[:, 1:2] + along * sin + across * cos
    middle = np.arctan2(boxes[:, 1:2], boxes[:, :1])
    off = (np.arctan2(y, x) - middle + np.pi) % (2 * np.pi) - np.pi
    return (middle + off.min(1, keepdims=True))[:, 0], (middle + off.max(1, keepdims=True))[:, 0]
