"""Reading rosbag2 recordings: streaming, one message at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rosbags.rosbag2 import Reader, ReaderError

from perception_rt.codec.compressed import parse_compressed
from perception_rt.codec.image import parse_image
from perception_rt.codec.points import parse_points
from perception_rt.replay.storage.values import BagMessage, Damage
from perception_rt.types import BagError, CameraFrame, LidarFrame

__all__ = ["Bag", "BagMessage", "Damage", "frame_of"]

_PARSERS = {
    "sensor_msgs/msg/Image": parse_image,
    "sensor_msgs/msg/CompressedImage": parse_compressed,
    "sensor_msgs/msg/PointCloud2": parse_points,
}


class Bag:
    """An open rosbag2 (mcap or sqlite3, compressed or not); use it in a `with`.

    Attributes:
        topics: message type and count, by topic.

    Raises:
        BagError: the path is no readable bag; says why.
    """

    def __init__(self, path: str | Path, salvage: bool = False) -> None:
        self.damage: list[Damage] = []
        self._path = Path(path)
        if not self._path.exists():
            raise BagError(f"{path}: no such bag")
        try:
            self._reader = Reader(self._path if self._path.is_dir() else self._path.parent)
            self._reader.open()
        except ReaderError as error:
            raise BagError(f"{path}: not a readable rosbag2: {error}") from error
        self.topics = {c.topic: (c.msgtype, c.msgcount) for c in self._reader.connections}

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def duration_s(self) -> float:
        """From the first to the last message, s."""
        return max(self._reader.duration - 1, 0) / 1e9

    def of_type(self, *message_types: str) -> list[str]:
        """The topics of these types, sorted."""
        return sorted(topic for topic, (kind, _) in self.topics.items() if kind in message_types)

    def messages(
        self, topics: Sequence[str] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """The messages of `topics` (None: of all) in order of log time.

        Raises:
            BagError: the recording is damaged from here on.
        """
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not wanted:
            return
        try:
            for connection, log_ns, data in self._reader.messages(wanted, start_ns, stop_ns):
                yield BagMessage(connection.topic, connection.msgtype, log_ns, bytes(data))
        except ReaderError as error:
            raise BagError(f"{self._path}: damaged: {error}") from error


def frame_of(message: BagMessage) -> CameraFrame | LidarFrame:
    """The frame of a recorded image or cloud.

    Raises:
        CodecError: it is malformed.
    """
    return _PARSERS[message.message_type](message.data).decode()
