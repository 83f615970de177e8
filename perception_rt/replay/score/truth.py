"""Ground truth: labelled boxes and the ego path, at any moment of a recording."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from perception_rt.replay.kitti import Calibration
from perception_rt.replay.score.places import wrapped

LONGEST_GAP_NS = 500_000_000
"""The longest gap between two truths that is interpolated, ns."""
YAW = 6


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The labelled boxes of one moment.

    Attributes:
        boxes: (N, 4) float64 xyxy in px, or (N, 7) float64 xyzlwh_yaw in m and rad.
        labels: (N,) int64, indices of the truth's classes. ids: (N,) int64, -1 for none.
        ignored: (N,) bool: neither a miss nor a hit.
        regions: (R, 4) float64 xyxy, px: unlabelled regions of the image.
    """

    stamp_ns: int
    boxes: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    ignored: np.ndarray
    regions: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))

    def __post_init__(self) -> None:
        n = len(self.boxes)
        for name in ("labels", "ids", "ignored"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must be ({n},), got {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The labelled part of space: the view of a camera.

    Attributes:
        calibration: from the truth's frame to the image.
        size: (width, height) of the image, px.
    """

    calibration: Calibration
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class BoxTruth:
    """Labelled boxes through a recording.

    Attributes:
        name: unique name in the scores: a topic, or a file's format, name and sensor.
        frame_id: of the boxes: an optical frame (2D) or a 3D frame.
        classes: canonical names.
        moments: in order of time, with unique stamps.
        flat: whether the boxes are 2D.
        view: the labelled part of space; None for all of it.
        least_height: lower boxes in the image are not scored, px.
    """

    name: str
    frame_id: str
    classes: tuple[str, ...]
    moments: Sequence[Moment]
    flat: bool
    view: View | None = None
    least_height: float = 0.0

    @property
    def has_ids(self) -> bool:
        """Return whether the boxes have ids."""
        return any((moment.ids >= 0).any() for moment in self.moments)

    def at(self, stamp_ns: int) -> Moment | None:
        """Return the boxes at any moment, interpolated between the two neighbouring truths.

        Position, size and yaw (the short way round) are interpolated linearly for ids in both truths. Other
        boxes are taken from the nearer truth (from the earlier one at half way).

        Returns:
            None before the first and after the last truth, and in gaps longer than `LONGEST_GAP_NS`.
        """
        after = bisect_left(self.moments, stamp_ns, key=_stamp)
        if after < len(self.moments) and self.moments[after].stamp_ns == stamp_ns:
            return self.moments[after]
        if not 0 < after < len(self.moments):
            return None
        a, b = self.moments[after - 1], self.moments[after]
        gap_ns = b.stamp_ns - a.stamp_ns
        if gap_ns > LONGEST_GAP_NS:
            return None
        return _between(a, b, (stamp_ns - a.stamp_ns) / gap_ns, stamp_ns)

    def nearest(self, stamp_ns: int, within_ns: int) -> Moment | None:
        """Return the nearest truth within a time; None if there is none."""
        after = bisect_left(self.moments, stamp_ns, key=_stamp)
        near = self.moments[max(after - 1, 0) : after + 1]
        best = min(near, key=lambda moment: abs(moment.stamp_ns - stamp_ns), default=None)
        return best if best is not None and abs(best.stamp_ns - stamp_ns) <= within_ns else None


def _stamp(moment: Moment) -> int:
    return moment.stamp_ns


def _between(a: Moment, b: Moment, share: float, stamp_ns: int) -> Moment:
    near, other, weight = (a, b, share) if share <= 0.5 else (b, a, 1 - share)
    row_of = {(int(i), int(k)): row for row, (i, k) in enumerate(zip(other.ids, other.labels, strict=True))}
    boxes = near.boxes.copy()
    for row, key in enumerate(zip(near.ids.tolist(), near.labels.tolist(), strict=True)):
        there = row_of.get(key)
        if key[0] < 0 or there is None:
            continue
        step = other.boxes[there] - near.boxes[row]
        if len(step) > YAW:
            step[YAW] = wrapped(step[YAW])
        boxes[row] += weight * step
    if boxes.shape[1] > YAW:
        boxes[:, YAW] = wrapped(boxes[:, YAW])
    return replace(near, stamp_ns=stamp_ns, boxes=boxes)


@dataclass(frozen=True, slots=True, eq=False)
class EgoTruth:
    """The path of the ego vehicle.

    Attributes:
        name: the topic.
        frame_id: of the poses.
        stamps_ns: (N,) int64, rising.
        poses: (N, 3) float64 x y yaw, m and rad; yaw without jumps.
        speeds: (N,) float64, m/s.
    """

    name: str
    frame_id: str
    stamps_ns: np.ndarray
    poses: np.ndarray
    speeds: np.ndarray

    def at(self, stamps_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return interpolated poses (M, 3) and speeds (M,); NaN without a truth nearby."""
        stamps = np.asarray(stamps_ns, np.int64)
        columns = np.column_stack([self.poses, self.speeds])
        values = np.full((len(stamps), 4), np.nan)
        if len(self.stamps_ns):
            first = self.stamps_ns[0]  # float64 cannot represent ns since the epoch
            x, known = (stamps - first).astype(float), (self.stamps_ns - first).astype(float)
            for column in range(4):
                values[:, column] = np.interp(x, known, columns[:, column])
            values[self._unknown(stamps)] = np.nan
        return values[:, :3], values[:, 3]

    def _unknown(self, stamps: np.ndarray) -> np.ndarray:
        after = np.searchsorted(self.stamps_ns, stamps)
        exact = self.stamps_ns[np.minimum(after, len(self.stamps_ns) - 1)] == stamps
        inside = (after > 0) & (after < len(self.stamps_ns))
        gaps = np.append(np.diff(self.stamps_ns), 0)[np.clip(after - 1, 0, len(self.stamps_ns) - 1)]
        return ~exact & (~inside | (gaps > LONGEST_GAP_NS))


Truth = BoxTruth | EgoTruth


def latest(stamps_ns: Sequence[int], moment_ns: int) -> int:
    """Return the index of the last stamp not after a moment; -1 if all are later."""
    return bisect_right(stamps_ns, moment_ns) - 1
