"""Transforms between frames at different moments of a recording."""

from __future__ import annotations

import numpy as np

from perception_rt.codec.transforms import Transform, parse_transforms
from perception_rt.replay.bag import Bag
from perception_rt.replay.message_types import is_static
from perception_rt.stage.transforms import TransformBuffer, transform
from perception_rt.types import CodecError, PerceptionError, TransformError

TRANSFORMS = "tf2_msgs/msg/TFMessage"
TOLERANCE_NS = 100_000_000  # extrapolation at both ends: results are published a little after the last /tf
FOREVER_NS = 1 << 62


class Places:
    """The recorded transform tree (REP 105); its root is the fixed world frame.

    Attributes:
        refused: number of unreadable or invalid transforms of the recording.
    """

    def __init__(self) -> None:
        self._buffer = TransformBuffer(FOREVER_NS, TOLERANCE_NS, zero_is_latest=False)
        self._parents: dict[str, str] = {}
        self.refused = 0

    @classmethod
    def of(cls, bag: Bag) -> Places:
        """Read all /tf and /tf_static messages of a recording."""
        places = cls()
        topics = bag.of_type(TRANSFORMS)

        def refuse(error: PerceptionError) -> None:
            places.refused += 1

        for message in bag.messages(topics) if topics else ():
            try:
                for found in parse_transforms(message.data, refuse):
                    places.add(found, is_static(message.topic))
            except (CodecError, TransformError) as error:
                refuse(error)
        return places

    def add(self, found: Transform, static: bool) -> None:
        """Add a transform; raises TransformError."""
        self._buffer.add(
            found.parent, found.child, found.stamp_ns, found.translation, found.quaternion, static=static
        )
        self._parents[found.child] = found.parent

    def between(self, target: str, target_ns: int, source: str, source_ns: int) -> np.ndarray:
        """Return the transform from `source` at one moment to `target` at another.

        A frame without a parent is a fixed world frame of its own.

        Returns:
            (4, 4) float64.

        Raises:
            TransformError: the frames are not in one tree, or a moment is outside of the recording.
        """
        target, source = target.removeprefix("/"), source.removeprefix("/")
        if target == source and target_ns == source_ns:
            return np.eye(4)
        world = self._world(target)
        if world != self._world(source):
            raise TransformError(target, source, f"not in one tree: {world!r} and {self._world(source)!r}")
        world_from_source = self._buffer.lookup(world, source, source_ns)
        return self._buffer.lookup(target, world, target_ns) @ world_from_source

    def _world(self, name: str) -> str:
        while name in self._parents:
            name = self._parents[name]
        return name


def moved(matrix: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Transform (N, 7) xyzlwh_yaw boxes by a (4, 4); only the yaw of its rotation is applied."""
    turned = boxes.copy()
    turned[:, :3] = transform(matrix, boxes[:, :3])
    turned[:, 6] = wrapped(boxes[:, 6] + np.arctan2(matrix[1, 0], matrix[0, 0]))
    return turned


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Return angles wrapped to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
