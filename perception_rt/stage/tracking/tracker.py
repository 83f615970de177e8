"""Detections to tracks: an object keeps its id from frame to frame.

Each update brings the Kalman filter of every track forward to the stamp of the detections, pairs tracks with
sure detections, then what is left of the confirmed tracks with unsure ones (Zhang et al., ByteTrack,
arXiv:2110.06864), corrects, ends and begins tracks. Nothing is random: the same input gives the same tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from scipy.stats import chi2

from perception_rt.stage.tracking.associate import assign
from perception_rt.stage.tracking.boxes2d import BoxFilters2D
from perception_rt.stage.tracking.boxes3d import BoxFilters3D
from perception_rt.stage.tracking.config import Life, TrackerConfig2D, TrackerConfig3D
from perception_rt.stage.tracking.lifecycle import LifeCycle
from perception_rt.types.detections import Detections2D, Detections3D
from perception_rt.types.errors import TrackingError
from perception_rt.types.tracks import Tracks, Tracks2D

Filters = TypeVar("Filters", BoxFilters2D, BoxFilters3D)


class Distances(NamedTuple):
    """How far tracks and detections are apart.

    Attributes:
        distance: (T, D). spread: (T,), as of `assign`.
        gates: (T,) of the first association and (T,) of the second.
    """

    distance: np.ndarray
    spread: np.ndarray
    gates: tuple[np.ndarray, np.ndarray]


class _Tracker(Generic[Filters]):
    """What is the same in space and in the image."""

    def __init__(self, lives: Sequence[Life], filters: Filters) -> None:
        self._life = LifeCycle(lives)
        self._filters: Filters = filters
        self._least = np.array([life.least_score for life in lives])
        self._high = np.array([life.high_score for life in lives])
        self._birth = np.array([life.birth_score for life in lives])
        self._stamp_ns: int | None = None
        self.resets = 0

    def _reset(self) -> None:
        if len(self._life):
            self._keep(np.zeros(len(self._life), bool))
        self.resets += 1

    def _keep(self, mask: np.ndarray) -> None:
        if not mask.all():
            self._life.keep(mask)
            self._filters.keep(mask)

    def _advance(self, stamp_ns: int) -> None:
        """Bring the tracks forward to the stamp; time that runs backwards (a bag that loops) starts anew."""
        if self._stamp_ns is not None:
            dt = (stamp_ns - self._stamp_ns) * 1e-9
            if dt < 0:
                self._reset()
            elif len(self._life):
                self._life.advance(dt)
                self._keep(self._life.remembered())
                self._filters.predict(dt, self._life.labels)
        self._stamp_ns = stamp_ns

    def _update(self, measured: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Detections of the time that the tracks were brought to: (D, ...) boxes as the filters want them."""
        life, high = self._life, scores >= self._high[labels]
        free = np.ones(len(scores), bool)
        if len(life) and len(scores):
            distance, spread, gates = self._distances(measured)
            distance[life.labels[:, None] != labels] = np.inf
            low = (scores >= self._least[labels]) & ~high
            stages = (high, np.ones(len(life), bool), gates[0]), (low, life.confirmed, gates[1])
            for part, among, gate in stages:
                rows, columns = np.flatnonzero(among & (life.detection < 0)), np.flatnonzero(part)
                if len(rows) and len(columns):
                    i, j = assign(distance[rows[:, None], columns], spread[rows], gate[rows])
                    self._correct(rows[i], columns[j], measured, scores)
                    free[columns[j]] = False
        self._keep(life.passed())
        born = np.flatnonzero(free & (scores >= self._birth[labels]))
        if len(born):
            life.append(born, scores[born], labels[born])
            self._filters.append(measured[born], labels[born])

    def _distances(self, measured: np.ndarray) -> Distances:
        """Compare the tracks with (D, ...) boxes."""
        raise NotImplementedError

    def _correct(
        self, rows: np.ndarray, detections: np.ndarray, measured: np.ndarray, scores: np.ndarray
    ) -> None:
        """The tracks `rows` (P,) have these `detections` (P,)."""
        if len(rows):
            self._filters.update(rows, measured[detections], self._life.labels[rows])
            self._life.hit(rows, detections, scores[detections])

    def _checked(self, name: str, detections: Detections3D | Detections2D) -> tuple[np.ndarray, np.ndarray]:
        """Boxes, which the field `name` holds, and scores, in float64.

        Raises:
            TrackingError: a number that is not finite, a score beyond [0, 1], or a label without a class.
        """
        boxes, scores, labels = getattr(detections, name), detections.scores, detections.labels
        bad = ~np.isfinite(boxes).all(1)
        if bad.any():
            raise TrackingError(f"{name}[{bad.argmax()}]", boxes[bad.argmax()].tolist(), "must be finite")
        bad = ~((scores >= 0) & (scores <= 1))
        if bad.any():
            raise TrackingError(f"scores[{bad.argmax()}]", float(scores[bad.argmax()]), "must be in [0, 1]")
        bad = (labels < 0) | (labels >= len(self._least))
        if bad.any():
            reason = f"the tracker knows {len(self._least)} classes"
            raise TrackingError(f"labels[{bad.argmax()}]", int(labels[bad.argmax()]), reason)
        return boxes.astype(np.float64), scores.astype(np.float64)


class Tracker3D(_Tracker[BoxFilters3D]):
    """Tracks boxes on the ground.

    Args:
        config: one entry a class, in the order of the detector's labels.

    Attributes:
        resets: how often all tracks were dropped: time ran backwards, or the frame of tracking changed.
    """

    def __init__(self, config: TrackerConfig3D) -> None:
        super().__init__(config.lives, BoxFilters3D(config.motions))
        self._gate = chi2.ppf([life.gate for life in config.lives], BoxFilters3D.distance_degrees)
        self._in_odom: bool | None = None

    def update(
        self, stamp_ns: int, detections: Detections3D, odom_from_sensor: np.ndarray | None = None
    ) -> Tracks:
        """Take the detections of one moment; a frame without any counts too: it ages the tracks.

        Args:
            stamp_ns: the sensor's stamp, ns; steps may be uneven; a step backwards drops all tracks.
            detections: in the sensor's frame.
            odom_from_sensor: (4, 4) where the sensor is in a frame that stands still (REP 105 odom). Tracks
                then live in that frame, so that the ego vehicle's own motion is no motion of theirs. None:
                they live in the sensor's frame. A change between the two drops all tracks.

        Returns:
            The confirmed tracks with a recent detection, in the frame of tracking.

        Raises:
            TrackingError: detections or a transform that cannot be used; nothing was changed.
        """
        boxes, scores = self._checked("xyzlwh_yaw", detections)
        if odom_from_sensor is not None:
            boxes = _moved(boxes, _checked_pose(odom_from_sensor))
        in_odom = odom_from_sensor is not None
        if self._in_odom is not None and in_odom != self._in_odom:
            self._reset()
        self._in_odom = in_odom
        self._advance(stamp_ns)
        self._update(boxes, scores, detections.labels)
        return self._tracks()

    def _distances(self, measured: np.ndarray) -> Distances:
        labels = self._life.labels
        distance, spread = self._filters.distances(measured, labels)
        return Distances(distance, spread, (self._gate[labels], self._gate[labels]))

    def _tracks(self) -> Tracks:
        life, filters, rows = self._life, self._filters, self._life.reported()
        mean = filters.mean[rows].astype(np.float32)
        return Tracks(
            ids=life.ids[rows],
            xyzlwh_yaw=filters.boxes(rows),
            velocity=mean[:, 3:5],
            yaw_rate=mean[:, 5],
            covariance=filters.covariance[rows].astype(np.float32),
            scores=life.scores[rows].astype(np.float32),
            labels=life.labels[rows],
            hits=life.hits[rows],
            age_s=life.age_s[rows].astype(np.float32),
            missed_s=life.missed_s[rows].astype(np.float32),
            detection=life.detection[rows],
        )


class Tracker2D(_Tracker[BoxFilters2D]):
    """Tracks boxes in the image.

    Args:
        config: one entry a class, in the order of the detector's labels.

    Attributes:
        resets: how often all tracks were dropped because time ran backwards.
    """

    def __init__(self, config: TrackerConfig2D) -> None:
        super().__init__(config.lives, BoxFilters2D(config.motions))
        self._buffer = np.array([motion.buffer for motion in config.motions])
        least = np.array([[motion.min_iou, motion.min_iou_low] for motion in config.motions])
        self._gates = 1 - least

    def _distances(self, measured: np.ndarray) -> Distances:
        """Compare boxes that are widened, so that fast ones still meet (Yang et al., C-BIoU, WACV 2023)."""
        labels = self._life.labels
        overlap = _widened_iou(self._filters.value, measured, self._buffer[labels][:, None])
        first, second = self._gates[labels].T
        return Distances(1 - overlap, np.zeros(len(labels)), (first, second))

    def update(self, stamp_ns: int, detections: Detections2D) -> Tracks2D:
        """Take the detections of one moment; a frame without any counts too: it ages the tracks.

        Args:
            stamp_ns: the sensor's stamp, ns; steps may be uneven; a step backwards drops all tracks.
            detections: in px of the image.

        Returns:
            The confirmed tracks with a recent detection.

        Raises:
            TrackingError: detections that cannot be used; nothing was changed.
        """
        xyxy, scores = self._checked("xyxy", detections)
        size = xyxy[:, 2:] - xyxy[:, :2]
        flat = (size <= 0).any(1)
        if flat.any():
            reason = "right and bottom must be beyond left and top"
            raise TrackingError(f"xyxy[{flat.argmax()}]", xyxy[flat.argmax()].tolist(), reason)
        self._advance(stamp_ns)
        self._update(np.hstack((xyxy[:, :2] + size / 2, size)), scores, detections.labels)
        return self._tracks()

    def _tracks(self) -> Tracks2D:
        life, filters, rows = self._life, self._filters, self._life.reported()
        centre, half = filters.value[rows, :2], filters.value[rows, 2:] / 2
        return Tracks2D(
            ids=life.ids[rows],
            xyxy=np.hstack((centre - half, centre + half)).astype(np.float32),
            velocity=filters.rate[rows].astype(np.float32),
            covariance=filters.covariance(rows),
            scores=life.scores[rows].astype(np.float32),
            labels=life.labels[rows],
            hits=life.hits[rows],
            age_s=life.age_s[rows].astype(np.float32),
            missed_s=life.missed_s[rows].astype(np.float32),
            detection=life.detection[rows],
        )


def _widened_iou(tracks: np.ndarray, detections: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Return the (T, D) IoU of boxes widened by `buffer` (T, 1) of their size on each side.

    Args:
        tracks: (T, 4) centre x, centre y, width, height in px. detections: (D, 4).
    """
    grown = 1 + 2 * buffer[:, :, None]
    size, other = tracks[:, None, 2:] * grown, detections[None, :, 2:] * grown
    apart = np.abs(tracks[:, None, :2] - detections[None, :, :2])
    inner = np.minimum(np.minimum(size, other), (size + other) / 2 - apart).clip(min=0).prod(2)
    return inner / (size.prod(2) + other.prod(2) - inner)


def _checked_pose(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise TrackingError("odom_from_sensor", matrix.tolist(), "must be a finite 4 x 4 matrix")
    rotation = matrix[:3, :3]
    rigid = np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3 and np.linalg.det(rotation) > 0
    if not rigid or np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise TrackingError("odom_from_sensor", matrix.tolist(), "must be a rotation and a translation")
    return matrix


def _moved(boxes: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """(D, 7) boxes in the frame that `pose` leads to; they stay upright."""
    moved = boxes.copy()
    moved[:, :3] = boxes[:, :3] @ pose[:3, :3].T + pose[:3, 3]
    heading = np.column_stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6]))) @ pose[:2, :2].T
    moved[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    return moved
