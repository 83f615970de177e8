"""Read rosbag2 recordings message by message, intact or damaged."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from perception_rt.codec.compressed import EncodedImage, parse_compressed
from perception_rt.codec.image import RawImage, parse_image
from perception_rt.codec.points import RawCloud, parse_points
from perception_rt.replay.storage.files import StorageFile, bare, open_file, storage_files
from perception_rt.replay.storage.merge import Source, merged
from perception_rt.replay.storage.metadata import NAME, Metadata, read_metadata
from perception_rt.replay.storage.unpack import DECOMPRESSORS, MAGIC, unpack
from perception_rt.replay.storage.values import BagMessage, Damage, FormatError
from perception_rt.types import BagError, CameraFrame, CodecError, LidarFrame

__all__ = ["Bag", "BagMessage", "Damage", "frame_of", "frames_of"]

_PARSERS: dict[str, Callable[[bytes], RawImage | EncodedImage | RawCloud]] = {
    "sensor_msgs/msg/Image": parse_image,
    "sensor_msgs/msg/CompressedImage": parse_compressed,
    "sensor_msgs/msg/PointCloud2": parse_points,
}
_EARLIEST_NS, _LATEST_NS = -(1 << 63), (1 << 63) - 1


class Bag:
    """An open rosbag2 recording; a context manager.

    Supports a folder or a single file, the storages mcap and sqlite3, and zstd and lz4 compression of files,
    messages and chunks, from every ROS 2 distribution. Messages are streamed; memory holds only a few numbers
    per message. Files that are compressed as a whole are unpacked to a temporary folder until `close`.

    Attributes:
        topics: message type and count by topic; the count is the one of index and metadata.
        offers: QoS of the publishers in words, by topic, where metadata.yaml has it.
        damage: the unreadable parts found so far; grows while reading.

    Args:
        path: the folder or file.
        salvage: read as much as possible of a damaged recording and list the rest in `damage`.

    Raises:
        BagError: the path is not a readable bag, or the bag is damaged and `salvage` is false.
    """

    def __init__(self, path: str | Path, salvage: bool = False) -> None:
        self._path = Path(path)
        self._salvage = salvage
        self._opened = False
        self._reported: set[Damage] = set()
        self.damage: list[Damage] = []
        self._files: list[StorageFile] = []
        self._behind_ns: Mapping[str, int] = {}
        if not self._path.exists():
            raise BagError(f"{path}: no such bag")
        self._stack = ExitStack()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        self._opened = True

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def start_ns(self) -> int:
        """The log time of the first message, ns; 0 if there is none."""
        return min((file.start_ns for file in self._files if file.start_ns is not None), default=0)

    @property
    def end_ns(self) -> int:
        """The log time of the last message, ns; 0 if there is none."""
        return max((file.end_ns for file in self._files if file.end_ns is not None), default=0)

    @property
    def duration_s(self) -> float:
        """The time from the first to the last message, s."""
        return (self.end_ns - self.start_ns) / 1e9

    def retime(self, behind_ns: Mapping[str, int]) -> None:
        """Move the log times that `messages` takes and yields; none goes below 0.

        Args:
            behind_ns: how far to move each topic back, ns; other topics keep their times.
        """
        self._behind_ns = behind_ns

    def of_type(self, *message_types: str) -> list[str]:
        """Return the sorted topics that have one of some message types.

        Args:
            message_types: as ``sensor_msgs/msg/Image``.
        """
        return sorted(topic for topic, (kind, _) in self.topics.items() if kind in message_types)

    def messages(
        self, topics: Sequence[str] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield messages in order of log time.

        Args:
            topics: names of the topics to read; None for all.
            start_ns, stop_ns: range of log times, `stop_ns` excluded; None for no limit.

        Raises:
            BagError: a message cannot be read, and `salvage` is false.
        """
        groups: dict[int, list[str]] = {}
        for topic in self.topics if topics is None else topics:
            groups.setdefault(self._behind_ns.get(topic, 0), []).append(topic)
        if len(groups) == 1:
            (behind_ns,) = groups
            yield from self._moved(topics, start_ns, stop_ns, behind_ns)
            return
        parts = [self._moved(group, start_ns, stop_ns, behind_ns) for behind_ns, group in groups.items()]
        yield from heapq.merge(*parts, key=attrgetter("log_ns"))

    def _moved(
        self, topics: Sequence[str] | None, start_ns: int | None, stop_ns: int | None, behind_ns: int
    ) -> Iterator[BagMessage]:
        """Yield the messages of topics that are moved back by the same time."""
        start_ns = None if start_ns is None else start_ns + behind_ns
        stop_ns = None if stop_ns is None else stop_ns + behind_ns
        messages = self._in_order(topics, start_ns, stop_ns)
        if not behind_ns:
            yield from messages
            return
        for message in messages:
            yield replace(message, log_ns=max(message.log_ns - behind_ns, 0))

    def _in_order(
        self, topics: Sequence[str] | None, start_ns: int | None, stop_ns: int | None
    ) -> Iterator[BagMessage]:
        """Yield messages in order of log time; report those that cannot be read."""
        begin = _EARLIEST_NS if start_ns is None else start_ns
        end = _LATEST_NS if stop_ns is None else stop_ns
        read: Counter[str] = Counter()
        last_ns = begin
        for message in self._stored(topics, begin, end):
            if message.log_ns < last_ns:
                reason = "its log time is before that of an earlier message: the index is wrong"
                self._report(Damage(message.topic, message.log_ns, 1, reason))
                continue
            last_ns = message.log_ns
            try:
                whole = self._unpacked(message)
            except FormatError as error:
                self._report(Damage(message.topic, message.log_ns, 1, str(error)))
                continue
            read[message.topic] += 1
            yield whole
        if start_ns is None and stop_ns is None:
            self._check_counts(read, self.topics if topics is None else topics)

    def _stored(self, topics: Sequence[str] | None, begin: int, end: int) -> Iterator[BagMessage]:
        chosen = None if topics is None else frozenset(topics)
        sources = [
            Source(file.start_ns, partial(file.messages, chosen, begin, end + (end == _LATEST_NS)))
            for file in self._files
            if file.start_ns is not None
        ]
        return merged(sources)

    def _unpacked(self, message: BagMessage) -> BagMessage:
        compression = MAGIC.get(message.data[:4])
        if compression is None:
            return message
        data, whole = unpack(message.data, compression)
        if not whole:
            raise FormatError(f"{compression}: data ends early")
        return replace(message, data=data)

    def _check_counts(self, read: Counter[str], topics: Iterable[str]) -> None:
        """Report the messages that index and metadata list, but that were neither read nor reported."""
        reported: Counter[str] = Counter()
        for damage in self.damage:
            reported[damage.topic] += damage.messages or 0
        missing = Counter({t: self.topics[t][1] - read[t] - reported[t] for t in topics if t in self.topics})
        missing = +missing
        if reported[""] and missing:  # some were reported without a topic
            count = missing.total() - reported[""]
            if count > 0:
                self._report(Damage("", None, count, f"promised, but not there: of {', '.join(missing)}"))
            return
        for topic, count in missing.items():
            reason = f"{self.topics[topic][1]} messages promised, but {count} not there"
            self._report(Damage(topic, None, count, reason))

    def _open(self) -> None:
        metadata = self._metadata()
        self.offers = metadata.offers
        folder = self._path if self._path.is_dir() else self._path.parent
        for name in metadata.files:
            self._open_file(folder / name)
        if not any(file.topics for file in self._files) and (self.damage or not self._files):
            raise BagError(f"{self._path}: not a readable rosbag2: {self._reasons()}")
        promised = sum((file.promised for file in self._files), Counter())
        types = {topic: kind for file in self._files for topic, kind in file.topics.items()}
        self.topics = {topic: (kind, promised[topic]) for topic, kind in types.items()}
        for topic, (kind, count) in metadata.topics.items():
            known, found = self.topics.get(topic, (kind, 0))
            if found > count:
                self._report(Damage(topic, None, 0, f"{NAME}: {count} messages, but there are {found}"))
            self.topics[topic] = (known, max(count, found))
        if not self._salvage and any(damage.messages != 0 for damage in self.damage):
            raise BagError(f"{self._path}: not a readable rosbag2: damaged: {self._reasons()}")

    def _reasons(self) -> str:
        first = list(dict.fromkeys(damage.reason for damage in self.damage))
        return "; ".join(first[:3]) or "no files of messages"

    def _metadata(self) -> Metadata:
        """Return the metadata of the folder or single file; report its faults."""
        if not self._path.is_dir():
            return Metadata([self._path.name])
        there = storage_files(self._path)
        try:
            metadata = read_metadata(self._path)
        except FormatError as error:
            if not self._salvage:
                raise BagError(
                    f"{self._path}: not a readable rosbag2: {error}: `ros2 bag reindex` restores it"
                ) from error
            metadata = Metadata()
            self._report(Damage("", None, 0, str(error)))
        for fault in metadata.faults:
            self._report(Damage("", None, 0, f"{NAME}: {fault}"))
        if metadata.compression and metadata.compression not in DECOMPRESSORS:
            reason = f"{NAME}: compression_format={metadata.compression!r} is not known"
            self._report(Damage("", None, None, reason))
        by_bare = {bare(name): name for name in reversed(there)}
        for place, name in enumerate(metadata.files):
            if not os.path.exists(self._path / name):  # perhaps unpacked by hand, or compressed
                metadata.files[place] = by_bare.get(bare(name), name)
        listed = {bare(name) for name in metadata.files}
        stems = {Path(bare(name)).stem: name for name in metadata.files if os.path.exists(self._path / name)}
        for name in there:
            if bare(name) in listed:
                continue
            twin = stems.setdefault(Path(bare(name)).stem, name)
            if twin != name:  # the same messages in another storage, as `ros2 bag convert` writes them
                self._report(Damage("", None, 0, f"{name}: not read, as {twin} is"))
                continue
            listed.add(bare(name))
            metadata.files.append(name)
            if metadata.topics:
                self._report(Damage("", None, 0, f"{NAME}: does not list {name}"))
        return metadata

    def _open_file(self, path: Path) -> None:
        temporary = self._stack.enter_context(TemporaryDirectory(prefix="perception-rt-"))

        def report(damage: Damage) -> None:
            self._report(replace(damage, reason=f"{path.name}: {damage.reason}"))

        if not os.path.exists(path):  # also answers for names that are too long
            report(Damage("", None, None, "is missing"))
            return
        try:
            file = open_file(path, Path(temporary, bare(path.name)), report)
        except FormatError as error:
            report(Damage("", None, None, str(error)))
            return
        self._stack.callback(file.close)
        self._files.append(file)

    def _report(self, damage: Damage) -> None:
        """Add a damage once; raise if it costs messages and `salvage` is false."""
        if damage in self._reported:
            return
        self._reported.add(damage)
        self.damage.append(damage)
        if self._opened and not self._salvage and damage.messages != 0:
            topic = f"{damage.topic}: " if damage.topic else ""
            raise BagError(f"{self._path}: damaged: {topic}{damage.reason}")


def frame_of(message: BagMessage) -> CameraFrame | LidarFrame:
    """Decode the frame of a recorded image or point cloud.

    Raises:
        CodecError: the message is malformed.
    """
    return _PARSERS[message.message_type](message.data).decode()


def frames_of(messages: Iterable[BagMessage]) -> Iterator[tuple[BagMessage, CameraFrame | LidarFrame]]:
    """Yield recorded images and point clouds with their frames; those that cannot be decoded are skipped."""
    for message in messages:
        try:
            frame = frame_of(message)
        except CodecError:
            continue
        yield message, frame
