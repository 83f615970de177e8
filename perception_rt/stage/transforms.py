"""The tree of coordinate frames over time: what tf2 does, as plain NumPy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from perception_rt.types import TransformError

HISTORY_NS = 10_000_000_000  # as tf2's default
TOLERANCE_NS = 20_000_000


class TransformBuffer:
    """Frames, each with its parent (REP 105: a tree), and where it was during the last `history_ns`.

    A frame that gets another parent begins anew; so does one whose stamps step back by more than the history
    (a bag that loops). Frame names may start with a slash, which tf2 dropped.

    Args:
        history_ns: how long transforms are kept, ns, counted from the newest of their frame.
        tolerance_ns: how far beyond the first and the last one the nearest is held, ns.
    """

    def __init__(self, history_ns: int = HISTORY_NS, tolerance_ns: int = TOLERANCE_NS) -> None:
        self._history_ns = history_ns
        self._tolerance_ns = tolerance_ns
        self._frames: dict[str, _Frame] = {}  # by name; the roots have none

    def add(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: Sequence[float],
        quaternion_xyzw: Sequence[float],
        static: bool = False,
    ) -> None:
        """Learn where `child` is in `parent`.

        Args:
            parent: frame that the numbers are in.
            child: frame that they place.
            stamp_ns: when, ns; means nothing for a static transform.
            translation: (3,) m.
            quaternion_xyzw: (4,) rotation, of any length but zero.
            static: true for ever, as from /tf_static.

        Raises:
            TransformError: an empty name, numbers that are no transform, or a frame that would become its own
                ancestor; nothing was learned then.
        """
        parent, child = parent.removeprefix("/"), child.removeprefix("/")
        if not parent or not child:
            raise TransformError(parent, child, "a frame without a name")
        pose = _checked_pose(parent, child, translation, quaternion_xyzw)
        if child in self._way_up(parent):
            raise TransformError(parent, child, f"{child} would be its own ancestor")
        frame = self._frames.get(child)
        if frame is None or frame.parent != parent or frame.static != static:
            frame = self._frames[child] = _Frame(parent, static)
        frame.add(0 if static else stamp_ns, pose, self._history_ns)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """What takes points of `source` to `target` at a time, through whatever way the tree has.

        Between two stamps the translation is interpolated linearly and the rotation spherically.

        Args:
            target: frame to go to.
            source: frame that the points are in.
            stamp_ns: when, ns.

        Returns:
            (4, 4) float64, `points_target = matrix @ points_source` (homogeneous).

        Raises:
            TransformError: a frame nobody published, two trees, or a stamp beyond what is known.
        """
        target, source = target.removeprefix("/"), source.removeprefix("/")
        if target == source:
            return np.eye(4)
        parents = {frame.parent for frame in self._frames.values()}
        for name in (target, source):
            if name not in self._frames and name not in parents:
                raise TransformError(target, source, f"no frame {name!r}; known: {self._known(parents)}")
        down, up = self._way_up(target), self._way_up(source)
        common = next((name for name in up if name in down), None)
        if common is None:
            raise TransformError(
                target, source, f"not in one tree: their roots are {down[-1]!r} and {up[-1]!r}"
            )
        common_from_source = self._compose(up[: up.index(common)], target, source, stamp_ns)
        common_from_target = self._compose(down[: down.index(common)], target, source, stamp_ns)
        return inverse(common_from_target) @ common_from_source

    def clear(self) -> None:
        """Forget all but the static transforms: the clock was set."""
        self._frames = {name: frame for name, frame in self._frames.items() if frame.static}

    def _way_up(self, name: str) -> list[str]:
        """`name`, its parent, and so on to the root."""
        way = [name]
        while way[-1] in self._frames:
            way.append(self._frames[way[-1]].parent)
        return way

    def _compose(self, names: list[str], target: str, source: str, stamp_ns: int) -> np.ndarray:
        """From the first of `names` to the parent of the last."""
        matrix = np.eye(4)
        for name in names:
            frame = self._frames[name]
            beyond = frame.beyond_ns(stamp_ns)
            if abs(beyond) > self._tolerance_ns:
                side = "after the newest" if beyond > 0 else "before the oldest"
                reason = f"{abs(beyond) / 1e6:.1f} ms {side} transform {frame.parent} <- {name}"
                raise TransformError(target, source, f"stamp {stamp_ns / 1e9:.6f} s is {reason}")
            matrix = frame.at(stamp_ns) @ matrix
        return matrix

    def _known(self, parents: set[str]) -> str:
        return ", ".join(sorted(parents | set(self._frames))) or "none"


class _Frame:
    """Where one frame was in its parent: stamps in order, and (7,) x y z, quaternion x y z w for each."""

    def __init__(self, parent: str, static: bool) -> None:
        self.parent = parent
        self.static = static
        self._stamps: list[int] = []
        self._poses: list[np.ndarray] = []

    def add(self, stamp_ns: int, pose: np.ndarray, history_ns: int) -> None:
        if self._stamps and self._stamps[-1] - stamp_ns > history_ns:
            self._stamps, self._poses = [], []
        at = bisect_left(self._stamps, stamp_ns)
        if at < len(self._stamps) and self._stamps[at] == stamp_ns:
            self._poses[at] = pose
            return
        self._stamps.insert(at, stamp_ns)
        self._poses.insert(at, pose)
        old = bisect_left(self._stamps, self._stamps[-1] - history_ns)
        del self._stamps[:old], self._poses[:old]

    def beyond_ns(self, stamp_ns: int) -> int:
        """How far a stamp lies after the newest (positive) or before the oldest one (negative)."""
        if self.static:
            return 0
        return max(stamp_ns - self._stamps[-1], 0) + min(stamp_ns - self._stamps[0], 0)

    def at(self, stamp_ns: int) -> np.ndarray:
        """(4, 4) parent from frame; beyond the ends, as at the ends."""
        after = bisect_left(self._stamps, stamp_ns)
        if self.static or after == 0:
            return to_matrix(self._poses[0][:3], self._poses[0][3:])
        if after == len(self._stamps):
            return to_matrix(self._poses[-1][:3], self._poses[-1][3:])
        first, last = self._stamps[after - 1], self._stamps[after]
        share = (stamp_ns - first) / (last - first)
        a, b = self._poses[after - 1], self._poses[after]
        return to_matrix(a[:3] + share * (b[:3] - a[:3]), slerp(a[3:], b[3:], share))


def _checked_pose(
    parent: str, child: str, translation: Sequence[float], quaternion: Sequence[float]
) -> np.ndarray:
    pose = np.concatenate((np.asarray(translation, np.float64), np.asarray(quaternion, np.float64)))
    if pose.shape != (7,) or not np.isfinite(pose).all():
        raise TransformError(
            parent, child, f"translation and quaternion {pose.tolist()} are not 7 finite numbers"
        )
    length = np.linalg.norm(pose[3:])
    if length < 1e-6:
        raise TransformError(parent, child, f"quaternion {pose[3:].tolist()} is no rotation")
    pose[3:] /= length
    return pose


def slerp(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Spherical interpolation (Shoemake, 1985) of unit quaternions, the short way round.

    Args:
        a: (4,) x y z w, the result at share 0.
        b: (4,) the result at share 1.
        share: in [0, 1].

    Returns:
        (4,) a unit quaternion.
    """
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = np.arccos(min(cosine, 1.0))
    if angle < 1e-6:  # too close for the sines; a straight line is the same there
        mixed = a + share * (b - a)
    else:
        mixed = np.sin((1 - share) * angle) * a + np.sin(share * angle) * b
    return mixed / np.linalg.norm(mixed)


def to_matrix(translation: np.ndarray, quaternion_xyzw: np.ndarray) -> np.ndarray:
    """(4, 4) float64 of (3,) m and a (4,) unit quaternion."""
    x, y, z, w = quaternion_xyzw
    matrix = np.eye(4)
    matrix[:3, :3] = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    matrix[:3, 3] = translation
    return matrix


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (4, 4) rotation and translation."""
    turned = matrix[:3, :3].T
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = turned, -turned @ matrix[:3, 3]
    return result


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 3) points taken through a (4, 4) matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]
