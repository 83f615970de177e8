"""Read ROS 1 recordings (.bag): the index by rosbags, messages converted to the types of ROS 2."""

from __future__ import annotations

import bz2
import heapq
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader, ReaderError
from rosbags.rosbag1.reader import Header, RecordType

from perception_rt.replay.storage.ros1_types import ROS1, Convert, converter
from perception_rt.replay.storage.unpack import unpack
from perception_rt.replay.storage.values import MAX_BYTES, BagMessage, Damage, FormatError, Report, type_name

MAGIC = b"#ROSBAG V"
# rosbags checks with assertions, and leaves some damaged lengths to struct, codecs and slices.
_ERRORS = (
    *(ReaderError, AssertionError, struct.error),
    *(ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError),
)


class Rosbag1File:
    """An open ROS 1 recording; attributes as in `McapFile`.

    Args:
        path: of the file. report: called with every damage.

    Raises:
        FormatError: the file has no usable index.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._report = report
        self._reader = Reader(path)
        try:
            self._reader.open()
        except _ERRORS as error:
            hint = ": run `rosbag reindex`" if "index" in str(error) else ""
            reason = str(error).translate({ord(c): None for c in "(),'"}) or type(error).__name__
            raise FormatError(f"ROS 1 bag: {reason}{hint}") from error
        self._converters = {c.id: self._converter(c) for c in self._reader.connections}
        self.topics: dict[str, str] = {}
        self.promised: Counter[str] = Counter()
        for connection in self._reader.connections:
            self.topics[_topic(connection)] = self._converters[connection.id][0]
            self.promised[_topic(connection)] += len(self._reader.indexes[connection.id])
        ends = [index for index in self._reader.indexes.values() if index]
        self.start_ns = min((index[0].time for index in ends), default=None)
        self.end_ns = max((index[-1].time for index in ends), default=None)
        self._chunk: tuple[int, bytes] = (-1, b"")
        self._lost: dict[int, str] = {}  # why a chunk cannot be read, by its position

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def messages(self, topics: Collection[str] | None, start_ns: int, stop_ns: int) -> Iterator[BagMessage]:
        """Yield messages of `topics` (None: all), `start_ns` <= log time < `stop_ns`, in order."""
        wanted = [c for c in self._reader.connections if topics is None or _topic(c) in topics]
        indexes = [
            [(entry, c) for entry in self._reader.indexes[c.id] if start_ns <= entry.time < stop_ns]
            for c in wanted
        ]
        for entry, connection in heapq.merge(*indexes, key=lambda pair: pair[0].time):
            topic, (kind, convert) = _topic(connection), self._converters[connection.id]
            try:
                data = self._data(entry, connection.id)
                converted = data if convert is None else convert(data)
            except (FormatError, *_ERRORS) as error:
                reason = str(error) or type(error).__name__
                self._report(Damage(topic, entry.time, 1, f"chunk at byte {entry.chunk_pos}: {reason}"))
                continue
            yield BagMessage(topic, kind, entry.time, converted)

    def _data(self, entry: Any, number: int) -> bytes:
        """Return the message of an index entry, as ROS 1 serialized it."""
        chunk = BytesIO(self._unpacked(entry.chunk_pos))
        chunk.seek(entry.offset)
        while (kind := (header := Header.read(chunk)).get_uint8("op")) == RecordType.CONNECTION:
            chunk.seek(struct.unpack("<I", chunk.read(4))[0], 1)
        if kind != RecordType.MSGDATA or header.get_uint32("conn") != number:
            raise FormatError("its index names another record")
        (size,) = struct.unpack("<I", chunk.read(4))
        data = chunk.read(size)
        if len(data) < size:
            raise FormatError("a message ends early")
        return data

    def _unpacked(self, position: int) -> bytes:
        """Return the records of a chunk; the last one is kept."""
        if position in self._lost:
            raise FormatError(self._lost[position])
        if self._chunk[0] != position:
            chunk, file = self._reader.chunks[position], self._reader.bio
            assert file is not None  # it is open
            file.seek(chunk.datapos)
            packed = file.read(chunk.datasize)
            try:
                self._chunk = position, _decompress(packed, chunk.decompressor)
            except FormatError as error:
                self._lost[position] = str(error)
                raise
        return self._chunk[1]

    def _converter(self, connection: Connection) -> tuple[str, Convert | None]:
        try:
            return converter(connection.msgtype, connection.msgdef.data)
        except FormatError as error:
            self._report(Damage(_topic(connection), None, 0, f"definition of {connection.msgtype}: {error}"))
            return type_name(connection.msgtype, ROS1), None


def _topic(connection: Connection) -> str:
    return "/" + connection.topic.lstrip("/")


def _decompress(data: bytes, how: Callable[[bytes], bytes]) -> bytes:
    """Decompress a chunk of at most `MAX_BYTES`.

    Raises:
        FormatError: it is damaged or larger.
    """
    if how is bz2.decompress:
        try:
            found = bz2.BZ2Decompressor().decompress(data, MAX_BYTES + 1)
        except (OSError, ValueError, EOFError) as error:
            raise FormatError(f"bz2: {error}") from error
        if len(found) > MAX_BYTES:
            raise FormatError(f"bz2: more than {MAX_BYTES} bytes")
        return found
    return unpack(data, "lz4" if "lz4" in getattr(how, "__module__", "") else "").data
