"""The tree of coordinate frames over time, by the rules of tf2, as plain NumPy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import acos, isfinite, sin, sqrt
from operator import mul

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.codec.transforms import parse_transforms
from perception_rt.types import PerceptionError, TransformError

HISTORY_NS = 10_000_000_000  # tf2's default
MAX_FRAMES = 1024  # a further frame replaces the least recently updated one
Lookup = Callable[[str, str, int], np.ndarray]
"""Target frame, source frame and time, ns, to (4, 4); raises TransformError."""


class TransformBuffer:
    """Frames, each with its parent (REP 105: a tree) and its poses of the last `history_ns`.

    The rules are those of tf2's BufferCore: nothing is extrapolated; stamp 0 asks for the latest time that
    all transforms on the way have; a transform older than the history of its frame is ignored (TF_OLD_DATA);
    static transforms hold at any time. A frame that gets another parent loses its history. A leading slash of
    a frame name is dropped.

    Args:
        history_ns: how long transforms are kept, ns, counted from the newest one of their frame.
        tolerance_ns: how far a frame is held constant beyond its first and last stamp, ns; 0 in tf2.
        zero_is_latest: False if time may begin at 0, so that stamp 0 is an ordinary time.

    Attributes:
        ignored: number of transforms that came too late.
    """

    def __init__(
        self, history_ns: int = HISTORY_NS, tolerance_ns: int = 0, zero_is_latest: bool = True
    ) -> None:
        self.ignored = 0
        self._history_ns = history_ns
        self._tolerance_ns = tolerance_ns
        self._zero_is_latest = zero_is_latest
        self._frames: dict[str, _Frame] = {}  # by name, the latest updated last; the roots have none

    def add(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: Sequence[float] | np.ndarray,
        quaternion_xyzw: Sequence[float] | np.ndarray,
        static: bool = False,
    ) -> None:
        """Add the pose of `child` in `parent`.

        Args:
            parent: the reference frame.
            child: the frame to place.
            stamp_ns: time, ns; ignored for a static transform.
            translation: (3,) m.
            quaternion_xyzw: (4,) rotation, of any length but zero.
            static: valid at any time, as from /tf_static.

        Raises:
            TransformError: a name is empty, the numbers are not a transform, or a frame would become its own
                ancestor; the buffer is unchanged.
        """
        parent, child = parent.removeprefix("/"), child.removeprefix("/")
        if not parent or not child:
            raise TransformError(parent, child, "a frame without a name")
        pose = _checked_pose(parent, child, translation, quaternion_xyzw)
        if child in self._way_up(parent):
            raise TransformError(parent, child, f"{child} would be its own ancestor")
        frame = self._frames.pop(child, None)
        if frame is None or frame.parent != parent or frame.static != static:
            frame = _Frame(parent, static)
        self._frames[child] = frame
        if not frame.add(0 if static else stamp_ns, pose, self._history_ns):
            self.ignored += 1
        if len(self._frames) > MAX_FRAMES:
            self._evict()

    def add_message(
        self, data: bytes, static: bool, refuse: Callable[[PerceptionError], None] = lambda error: None
    ) -> int:
        """Add all transforms of a serialized tf2_msgs/TFMessage; return how many could be used.

        Args:
            data: the message. static: it came on /tf_static.
            refuse: called with what is wrong with a transform, or with the message; the others are used.
        """
        try:
            transforms = parse_transforms(data, refuse)
        except PerceptionError as error:
            refuse(error)
            return 0
        used = 0
        for one in transforms:
            try:
                self.add(one.parent, one.child, one.stamp_ns, one.translation, one.quaternion, static)
                used += 1
            except TransformError as error:
                refuse(error)
        return used

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return the transform from `source` to `target` at a time.

        Between two stamps the translation is interpolated linearly and the rotation spherically.

        Args:
            target: the frame of the result.
            source: the frame of the points.
            stamp_ns: time, ns; 0 for the latest time that all transforms between the frames have.

        Returns:
            (4, 4) float64, `points_target = matrix @ points_source` (homogeneous).

        Raises:
            TransformError: a frame is unknown, the frames are not connected, or the stamp lies outside of the
                known time.
        """
        target, source = target.removeprefix("/"), source.removeprefix("/")
        if target == source:
            return np.eye(4)
        for name in (target, source):
            if name not in self._frames:
                parents = {frame.parent for frame in self._frames.values()}
                if name not in parents:
                    raise TransformError(target, source, f"no frame {name!r}; known: {self._known(parents)}")
        down, up = self._way_up(target), self._way_up(source)
        common = next((name for name in up if name in down), None)
        if common is None:
            raise TransformError(
                target, source, f"not in one tree: their roots are {down[-1]!r} and {up[-1]!r}"
            )
        up, down = up[: up.index(common)], down[: down.index(common)]
        if stamp_ns == 0 and self._zero_is_latest:
            moving = [frame for frame in map(self._frames.__getitem__, up + down) if not frame.static]
            stamp_ns = min((frame.newest_ns for frame in moving), default=0)
        common_from_source = self._compose(up, target, source, stamp_ns)
        if not down:
            return common_from_source
        return inverse(self._compose(down, target, source, stamp_ns)) @ common_from_source

    def copy(self) -> TransformBuffer:
        """Return an independent copy."""
        other = TransformBuffer(self._history_ns, self._tolerance_ns, self._zero_is_latest)
        other._frames = {name: frame.copy() for name, frame in self._frames.items()}
        return other

    def clear(self) -> None:
        """Forget all but the static transforms after the clock was set back."""
        self._frames = {name: frame for name, frame in self._frames.items() if frame.static}

    def _evict(self) -> None:
        """Drop the least recently updated frame; static ones last, as they are published once."""
        oldest = next((name for name, frame in self._frames.items() if not frame.static), None)
        del self._frames[oldest or next(iter(self._frames))]

    def _way_up(self, name: str) -> list[str]:
        """Return `name`, its parent, and so on to the root."""
        way = [name]
        while way[-1] in self._frames:
            way.append(self._frames[way[-1]].parent)
        return way

    def _compose(self, names: list[str], target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return the matrix from the first of `names` to the parent of the last."""
        matrix: np.ndarray | None = None
        for name in names:
            frame = self._frames[name]
            beyond = frame.beyond_ns(stamp_ns)
            if abs(beyond) > self._tolerance_ns:
                side = "after the newest" if beyond > 0 else "before the oldest"
                reason = f"{abs(beyond) / 1e6:.1f} ms {side} transform {frame.parent} <- {name}"
                raise TransformError(target, source, f"stamp {stamp_ns / 1e9:.6f} s is {reason}")
            step = frame.at(stamp_ns)
            matrix = step if matrix is None else step @ matrix
        return np.eye(4) if matrix is None else matrix

    def _known(self, parents: set[str]) -> str:
        return ", ".join(sorted(parents | set(self._frames))) or "none"


class _Frame:
    """Poses of one frame in its parent: stamps in order, and x y z, quaternion x y z w for each."""

    def __init__(self, parent: str, static: bool) -> None:
        self.parent = parent
        self.static = static
        self._stamps: list[int] = []
        self._poses: list[list[float]] = []

    def copy(self) -> _Frame:
        other = _Frame(self.parent, self.static)
        other._stamps, other._poses = self._stamps.copy(), self._poses.copy()
        return other

    @property
    def newest_ns(self) -> int:
        """The newest stamp."""
        return self._stamps[-1]

    def add(self, stamp_ns: int, pose: list[float], history_ns: int) -> bool:
        """Add a pose; return False if it is older than the history."""
        if self._stamps and self._stamps[-1] - stamp_ns > history_ns:
            return False
        at = bisect_left(self._stamps, stamp_ns)
        if at < len(self._stamps) and self._stamps[at] == stamp_ns:
            self._poses[at] = pose
            return True
        self._stamps.insert(at, stamp_ns)
        self._poses.insert(at, pose)
        old = bisect_left(self._stamps, self._stamps[-1] - history_ns)
        del self._stamps[:old], self._poses[:old]
        return True

    def beyond_ns(self, stamp_ns: int) -> int:
        """Return how far a stamp lies after the newest (positive) or before the oldest one (negative)."""
        if self.static:
            return 0
        return max(stamp_ns - self._stamps[-1], 0) + min(stamp_ns - self._stamps[0], 0)

    def at(self, stamp_ns: int) -> np.ndarray:
        """Return (4, 4) parent from frame; constant beyond the ends."""
        after = bisect_left(self._stamps, stamp_ns)
        if self.static or after == 0:
            return to_matrix(self._poses[0][:3], self._poses[0][3:])
        if after == len(self._stamps):
            return to_matrix(self._poses[-1][:3], self._poses[-1][3:])
        first, last = self._stamps[after - 1], self._stamps[after]
        share = (stamp_ns - first) / (last - first)
        a, b = self._poses[after - 1], self._poses[after]
        between = [one + share * (other - one) for one, other in zip(a[:3], b[:3], strict=True)]
        return to_matrix(between, slerp(a[3:], b[3:], share))


def camera_way(
    lookup: Lookup, model: CameraModel, frame: str, stamp_ns: int, optical: str = ""
) -> np.ndarray:
    """Return (4, 4) from points of `frame` at a time to where the camera's K and D hold.

    For a stereo camera that is not its optical frame: transforms lead to the rectified one.

    Args:
        optical: the camera's frame, if it is known from elsewhere than CameraInfo.

    Raises:
        TransformError: see `TransformBuffer.lookup`.
    """
    return model.camera_from_frame @ lookup(optical or model.frame_id, frame, stamp_ns)


def _checked_pose(
    parent: str,
    child: str,
    translation: Sequence[float] | np.ndarray,
    quaternion: Sequence[float] | np.ndarray,
) -> list[float]:
    pose: list[float] = (
        np.asarray(translation, np.float64).tolist() + np.asarray(quaternion, np.float64).tolist()
    )
    if len(pose) != 7 or not all(map(isfinite, pose)):
        raise TransformError(parent, child, f"translation and quaternion {pose} are not 7 finite numbers")
    length = sqrt(sum([value * value for value in pose[3:]]))
    if length < 1e-6:
        raise TransformError(parent, child, f"quaternion {pose[3:]} is no rotation")
    return [*pose[:3], *(value / length for value in pose[3:])]


def slerp(a: Sequence[float], b: Sequence[float], share: float) -> list[float]:
    """Interpolate unit quaternions spherically (Shoemake, 1985), along the shorter arc.

    Args:
        a: x y z w, the result at share 0.
        b: the result at share 1.
        share: in [0, 1].

    Returns:
        x y z w of a unit quaternion.
    """
    cosine = sum(map(mul, a, b))
    sign = 1.0
    if cosine < 0:
        sign, cosine = -1.0, -cosine
    angle = acos(min(cosine, 1.0))
    of_a, of_b = 1 - share, share
    if angle >= 1e-6:  # nearer, the sines are too close to 0; a straight line is the same there
        of_a, of_b = sin(of_a * angle), sin(of_b * angle)
    of_b *= sign
    mixed = [of_a * one + of_b * other for one, other in zip(a, b, strict=True)]
    length = sqrt(sum([value * value for value in mixed]))
    return [value / length for value in mixed]


def to_matrix(
    translation: Sequence[float] | np.ndarray, quaternion_xyzw: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return (4, 4) float64 of 3 values in m and a unit quaternion."""
    (x, y, z, w), place = map(float, quaternion_xyzw), [float(value) for value in translation]
    return np.array(
        (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), place[0]),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), place[1]),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), place[2]),
            (0.0, 0.0, 0.0, 1.0),
        )
    )


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of a (4, 4) rotation and translation."""
    turned = matrix[:3, :3].T
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = turned, -turned @ matrix[:3, 3]
    return result


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (..., 3) points transformed by a (4, 4) matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]
