"""Detections to tracks: an object keeps its id from frame to frame.

Each update brings the Kalman filter of every track forward to the stamp of the detections, pairs tracks with
sure detections, then what is left of the confirmed tracks with unsure ones (Zhang et al., ByteTrack,
arXiv:2110.06864), corrects, ends and begins tracks. Nothing is random: the same input gives the same tracks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from perception_rt.stage.quantiles import chi_square_quantile
from perception_rt.stage.tracking.associate import assign
from perception_rt.stage.tracking.boxes2d import BoxFilters2D
from perception_rt.stage.tracking.boxes3d import BoxFilters3D
from perception_rt.stage.tracking.config import Life, TrackerConfig2D, TrackerConfig3D
from perception_rt.stage.tracking.lifecycle import LifeCycle
from perception_rt.stage.tracking.view import FieldOfView
from perception_rt.types.detections import Detections2D, Detections3D
from perception_rt.types.errors import TrackingError
from perception_rt.types.tracks import Tracks, Tracks2D

Filters = TypeVar("Filters", BoxFilters2D, BoxFilters3D)


TWIN_WIDTHS = 0.5  # boxes nearer than so many of their mean widths are of one object
TWIN_IOU = 0.7  # and so are those in the image that overlap by more
UNLIKE_IOU = 0.2  # that another class costs in the image
DOUBLES = 5  # detections in a row at the place of an older track, which end a confirmed one
STEPS = 15  # of whose durations the median is taken for the detector's period
MISSES = 4.1  # periods that a confirmed track is remembered at least, whatever its class: three misses
LONGEST_STEP_S = 1.0
# In a frame that stands still, what stands and was followed for so long, s, is remembered for so long, s.
FOLLOWED_S, PARKED_S = 1.5, 10.0


class Sighting(NamedTuple):
    """Detections as the filters want them: (D, ...) boxes, and what `_stated` makes of their covariances."""

    boxes: np.ndarray
    stated: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Distances(NamedTuple):
    """How far tracks and detections are apart.

    Attributes:
        distance, spread: (T, D), as of `assign`.
        gates: (T,) of the first association and (T,) of the second.
    """

    distance: np.ndarray
    spread: np.ndarray
    gates: tuple[np.ndarray, np.ndarray]


class _Tracker(Generic[Filters]):
    """What is the same in space and in the image."""

    def __init__(self, lives: Sequence[Life], filters: Filters, groups: Sequence[Sequence[str]]) -> None:
        self._life = LifeCycle(lives)
        self._confused = np.eye(len(lives), dtype=bool)
        if groups:
            self._confused |= np.array([[not set(a).isdisjoint(b) for b in groups] for a in groups])
        self._filters: Filters = filters
        self._least = np.array([life.least_score for life in lives])
        self._high = np.array([life.high_score for life in lives])
        self._birth = np.array([life.birth_score for life in lives])
        self._stamp_ns: int | None = None
        self._steps: deque[float] = deque(maxlen=STEPS)
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
                self._filters.predict(dt, self._life.labels)
                self._forget(~self._life.remembered(MISSES * min(median(self._steps or [0]), LONGEST_STEP_S)))
            if dt > 0:
                self._steps.append(dt)
        self._stamp_ns = stamp_ns

    def _forget(self, late: np.ndarray) -> None:
        """Drop the tracks whose memory is over, `late` (T,)."""
        self._keep(~late)

    def _update(self, measured: Sighting) -> None:
        """Detections of the time that the tracks were brought to."""
        life, scores, labels = self._life, measured.scores, measured.labels
        high = scores >= self._high[labels]
        known = life.confirmed.copy()
        free = np.ones(len(scores), bool)
        if len(life) and len(scores):
            distance, spread, gates = self._distances(measured, life.labels[:, None] == labels)
            distance[~self._confused[life.labels[:, None], labels]] = np.inf
            able = scores >= self._least[labels]
            stages = (high, np.ones(len(life), bool), gates[0]), (able, life.confirmed, gates[1])
            for part, among, gate in stages:
                rows, columns = np.flatnonzero(among & (life.detection < 0)), np.flatnonzero(part & free)
                if len(rows) and len(columns):
                    pairs = rows[:, None], columns
                    i, j = assign(distance[pairs], spread[pairs], gate[rows])
                    self._correct(rows[i], columns[j], measured)
                    free[columns[j]] = False
        self._keep(life.passed() & ~self._doubles(known, measured))
        born = self._without_twins(np.flatnonzero(free & (scores >= self._birth[labels])), measured)
        if len(born):
            life.append(born, scores[born], labels[born])
            self._append(born, measured)

    def _doubles(self, known: np.ndarray, measured: Sighting) -> np.ndarray:
        """(T,) bool: tracks to end, as an older one is seen where they are seen.

        At once those that were not `known` (T,), by an older one that was; others after `DOUBLES` times.
        """
        life, seen = self._life, np.flatnonzero(self._life.detection >= 0)
        found = life.detection[seen]
        # Rows are in the order of birth.
        doubled = np.tril(self._of_one(measured, found, found) & known[seen], -1).any(1)
        life.doubled[seen] = np.where(doubled, life.doubled[seen] + 1, 0)
        return (life.doubled >= DOUBLES) | ((life.doubled > 0) & ~known)

    def _of_one(self, measured: Sighting, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N, M) bool: twins of classes that are taken for each other."""
        classes = measured.labels[some][:, None], measured.labels[others]
        return self._twins(measured, some, others) & self._confused[classes]

    def _without_twins(self, born: np.ndarray, measured: Sighting) -> np.ndarray:
        """Leave out those of the detections `born` that a track or one of a higher score has found."""
        if not len(born):
            return born
        born = born[np.argsort(-measured.scores[born], kind="stable")]
        taken = self._life.detection[self._life.detection >= 0]
        others = np.concatenate((taken, born))
        twins = self._of_one(measured, born, others)
        kept: list[int] = []
        for row in range(len(born)):
            earlier = np.append(np.arange(len(taken)), len(taken) + np.array(kept, np.int64)).astype(np.int64)
            if not twins[row, earlier].any():
                kept.append(row)
        return np.sort(born[kept])

    def _distances(self, measured: Sighting, alike: np.ndarray) -> Distances:
        """Compare the tracks with the boxes; `alike` (T, D): of one class."""
        raise NotImplementedError

    def _twins(self, measured: Sighting, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        """(N, M) bool: which of the detections `some` and `others` are of one object."""
        raise NotImplementedError

    def _append(self, born: np.ndarray, measured: Sighting) -> None:
        """Begin filters at the detections `born`."""
        raise NotImplementedError

    def _correct(self, rows: np.ndarray, detections: np.ndarray, measured: Sighting) -> None:
        """The tracks `rows` (P,) have these `detections` (P,)."""
        if len(rows):
            before = self._life.labels[rows]
            self._filter(rows, detections, measured)
            self._life.hit(rows, detections, measured.scores[detections], measured.labels[detections])
            other = self._life.labels[rows] != before
            if other.any():
                self._relabel(rows[other], detections[other], measured)

    def _filter(self, rows: np.ndarray, detections: np.ndarray, measured: Sighting) -> None:
        """Correct the filters of the tracks `rows` by these `detections`."""
        raise NotImplementedError

    def _relabel(self, rows: np.ndarray, detections: np.ndarray, measured: Sighting) -> None:
        """The tracks `rows` are of another class since these `detections`."""

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
        stated: (D, 3, 3) covariance of x y yaw that the latest detections stated on top of their classes', in
            the frame of tracking.
    """

    def __init__(self, config: TrackerConfig3D) -> None:
        super().__init__(config.lives, BoxFilters3D(config.motions), config.groups)
        self._own = np.array([2 * motion.position_sd**2 for motion in config.motions])
        quantile = partial(chi_square_quantile, degrees=BoxFilters3D.distance_degrees)
        self._gates = np.array([(quantile(life.gate), quantile(life.wide_gate)) for life in config.lives])
        self._in_odom: bool | None = None
        self._view, self._pose = FieldOfView(), np.eye(4)
        self.stated = np.zeros((0, 3, 3))

    def update(
        self,
        stamp_ns: int,
        detections: Detections3D,
        odom_from_sensor: np.ndarray | None = None,
        covariance: np.ndarray | None = None,
    ) -> Tracks:
        """Take the detections of one moment; a frame without any counts too: it ages the tracks.

        Args:
            stamp_ns: the sensor's stamp, ns; steps may be uneven; a step backwards drops all tracks.
            detections: in the sensor's frame.
            odom_from_sensor: (4, 4) where the sensor is in a frame that stands still (REP 105 odom). Tracks
                then live in that frame, so that the ego vehicle's own motion is no motion of theirs. None:
                they live in the sensor's frame. A change between the two drops all tracks.
            covariance: (D, 3, 3) of x y yaw as stated with the detections, m and rad; where it is none, or
                less than the class is known for, that of the class counts.

        Returns:
            The confirmed tracks with a recent detection, in the frame of tracking.

        Raises:
            TrackingError: detections or a transform that cannot be used; nothing was changed.
        """
        boxes, scores = self._checked("xyzlwh_yaw", detections)
        stated = self._stated(covariance, detections.labels)
        pose, seen = np.eye(4), boxes
        if odom_from_sensor is not None:
            pose = _checked_pose(odom_from_sensor)
            turn = np.eye(3)
            turn[:2, :2] = pose[:2, :2]
            boxes, stated = _moved(boxes, pose), turn @ stated @ turn.T
        in_odom = odom_from_sensor is not None
        if self._in_odom is not None and in_odom != self._in_odom:
            self._reset()
        self._in_odom = in_odom
        self._advance(stamp_ns)
        self.stated, self._pose = stated, pose
        self._update(Sighting(boxes, stated, scores, detections.labels))
        found = self._life.detection >= 0
        self._view.widen(seen[self._life.detection[found]], self._life.ids[found])
        return self._tracks()

    def _forget(self, late: np.ndarray) -> None:
        """Keep what stood when it was last seen, where it stood: an occlusion takes nothing parked away."""
        life = self._life
        if late.any() and self._in_odom:
            parked = late & life.confirmed & self._filters.stand() & (life.missed_s <= PARKED_S)
            parked &= life.age_s - life.missed_s >= FOLLOWED_S
            self._filters.park(parked, life.labels[parked])
            late = late & ~parked
        self._keep(~late)

    def _stated(self, covariance: np.ndarray | None, labels: np.ndarray) -> np.ndarray:
        """(D, 3, 3) what comes on top of the noise of the classes."""
        if covariance is None:
            return np.zeros((len(labels), 3, 3))
        if covariance.shape != (len(labels), 3, 3):
            raise TrackingError("covariance", covariance.shape, f"must be {(len(labels), 3, 3)}")
        finite = np.isfinite(covariance).all((1, 2))
        stated = np.where(finite[:, None, None], (covariance + covariance.swapaxes(1, 2)) / 2, 0)
        more = stated[:, 0, 0] + stated[:, 1, 1] > self._own[labels]
        more &= (np.linalg.eigvalsh(stated) >= 0).all(1)
        return np.where(more[:, None, None], stated, 0)

    def _distances(self, measured: Sighting, alike: np.ndarray) -> Distances:
        labels = self._life.labels
        distance, spread = self._filters.distances(measured.boxes, labels, measured.stated, alike)
        first, second = self._gates[labels].T
        return Distances(distance, spread, (first, second))

    def _twins(self, measured: Sighting, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        a, b = measured.boxes[some], measured.boxes[others]
        apart = (a[:, None, 0] - b[None, :, 0]) ** 2 + (a[:, None, 1] - b[None, :, 1]) ** 2
        return apart < (TWIN_WIDTHS / 2 * (a[:, None, 4] + b[None, :, 4])) ** 2

    def _append(self, born: np.ndarray, measured: Sighting) -> None:
        self._filters.append(measured.boxes[born], measured.labels[born], measured.stated[born])

    def _filter(self, rows: np.ndarray, detections: np.ndarray, measured: Sighting) -> None:
        mine = self._life.labels[rows]
        boxes, stated = measured.boxes[detections], measured.stated[detections]
        self._filters.update(rows, boxes, mine, stated, mine == measured.labels[detections])

    def _relabel(self, rows: np.ndarray, detections: np.ndarray, measured: Sighting) -> None:
        self._filters.take_size(rows, measured.boxes[detections], self._life.labels[rows])

    def _tracks(self) -> Tracks:
        life, filters = self._life, self._filters
        boxes = filters.boxes(np.arange(len(life))).astype(np.float64)
        rows = life.reported(self._view.holds(_moved(boxes, np.linalg.inv(self._pose))))
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
        super().__init__(config.lives, BoxFilters2D(config.motions), config.groups)
        self._buffer = np.array([motion.buffer for motion in config.motions])
        least = np.array([[motion.min_iou, motion.min_iou_low] for motion in config.motions])
        self._gates = 1 - least

    def _distances(self, measured: Sighting, alike: np.ndarray) -> Distances:
        """Compare boxes that are widened, so that fast ones still meet (Yang et al., C-BIoU, WACV 2023)."""
        labels = self._life.labels
        overlap = _widened_iou(self._filters.value, measured.boxes, self._buffer[labels][:, None])
        first, second = self._gates[labels].T
        return Distances(1 - overlap, UNLIKE_IOU * ~alike, (first, second))

    def _twins(self, measured: Sighting, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        a, b = measured.boxes[some], measured.boxes[others]
        if not len(a) or not len(b):
            return np.zeros((len(a), len(b)), bool)
        # Boxes farther apart than this cannot overlap so far: most pairs need no IoU.
        twins = np.abs(a[:, None, 0] - b[None, :, 0]) < (1 - TWIN_IOU) * max(a[:, 2].max(), b[:, 2].max())
        i, j = np.nonzero(twins)
        twins[i, j] = _iou(a[i], b[j]) > TWIN_IOU
        return twins

    def _append(self, born: np.ndarray, measured: Sighting) -> None:
        self._filters.append(measured.boxes[born], measured.labels[born])

    def _filter(self, rows: np.ndarray, detections: np.ndarray, measured: Sighting) -> None:
        self._filters.update(rows, measured.boxes[detections], self._life.labels[rows])

    def update(
        self, stamp_ns: int, detections: Detections2D, camera_motion: np.ndarray | None = None
    ) -> Tracks2D:
        """Take the detections of one moment; a frame without any counts too: it ages the tracks.

        Args:
            stamp_ns: the sensor's stamp, ns; steps may be uneven; a step backwards drops all tracks.
            detections: in px of the image.
            camera_motion: (2, 3) affine map from px of the last update's image to px of this one, of what
                stands, as from `CameraMotion`. The velocities of tracks are then their own. None: unknown.

        Returns:
            The confirmed tracks with a recent detection.

        Raises:
            TrackingError: detections or a map that cannot be used; nothing was changed.
        """
        xyxy, scores = self._checked("xyxy", detections)
        size = xyxy[:, 2:] - xyxy[:, :2]
        flat = (size <= 0).any(1)
        if flat.any():
            reason = "right and bottom must be beyond left and top"
            raise TrackingError(f"xyxy[{flat.argmax()}]", xyxy[flat.argmax()].tolist(), reason)
        motion = None if camera_motion is None else _checked_motion(camera_motion)
        self._advance(stamp_ns)
        if motion is not None:
            self._filters.warp(motion)
        boxes = np.hstack((xyxy[:, :2] + size / 2, size))
        self._update(Sighting(boxes, np.zeros((len(boxes), 0)), scores, detections.labels))
        return self._tracks()

    def _tracks(self) -> Tracks2D:
        life, filters, rows = self._life, self._filters, self._life.reported(np.ones(len(self._life), bool))
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
    grown = np.concatenate((np.ones((len(buffer), 2)), np.repeat(1 + 2 * buffer, 2, 1)), 1)
    return _iou((tracks * grown)[:, None], detections[None] * grown[:, None])


def _iou(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) centre and size, which broadcast."""
    size, other = some[..., 2:], others[..., 2:]
    apart = np.abs(some[..., :2] - others[..., :2])
    inner = np.minimum(np.minimum(size, other), (size + other) / 2 - apart).clip(min=0).prod(-1)
    return inner / (size.prod(-1) + other.prod(-1) - inner)


def _checked_motion(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-3:
        raise TrackingError("camera_motion", matrix.tolist(), "must be a finite, invertible 2 x 3 matrix")
    return matrix


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
