"""Read the messages of one chunk of an MCAP file and check them against its index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple
from zlib import crc32

from perception_rt.replay.storage.records import (
    CHANNEL,
    IN_CHUNK,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    PREFIX,
    SCHEMA,
    Channel,
    ChunkHead,
    Schema,
    each_record,
    parse_channel,
    parse_chunk_head,
    parse_message_head,
    parse_message_index,
    parse_message_index_entries,
    parse_schema,
)
from perception_rt.replay.storage.scan import Read, scan
from perception_rt.replay.storage.unpack import unpack
from perception_rt.replay.storage.values import FormatError


@dataclass(slots=True)
class Chunk:
    """The location of a chunk in its file.

    Attributes:
        start: offset of its record. length, index_length: of the record and of the indexes after it, bytes.
        start_ns, end_ns: log times of its first and last message.
        counts: messages by channel; None if not known.
        cut: whether the file ends within the chunk.
    """

    start: int
    length: int
    index_length: int
    start_ns: int
    end_ns: int
    counts: dict[int, int] | None = None
    cut: bool = False

    def may_hold(self, channels: Collection[int]) -> bool:
        """Return whether the chunk may have messages of one of these channels."""
        return self.counts is None or any(self.counts.get(channel) for channel in channels)


class InChunk(NamedTuple):
    """A message; `start` and `stop` of its data in the decompressed chunk."""

    log_ns: int
    channel: int
    start: int
    stop: int


class Lost(NamedTuple):
    """Unreadable messages of a channel (None: unknown); fields as in `Damage`."""

    channel: int | None
    log_ns: int | None
    messages: int | None
    reason: str


@dataclass(slots=True)
class Content:
    """The content of a chunk: messages in order of log time, their bytes in `raw`, and lost messages."""

    raw: memoryview = field(default_factory=lambda: memoryview(b""))
    messages: list[InChunk] = field(default_factory=list)
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)


Promised = Counter[tuple[int, int]]
"""Messages by channel and log time."""


def read_chunk(read: Read, chunk: Chunk) -> Content:
    """Read and decompress a chunk.

    Messages are returned whose record is complete and agrees with index and chunk header, if present.
    """
    content = Content()
    data = read(chunk.start, chunk.length + chunk.index_length)
    promised = _promised(data[chunk.length :], chunk, content)
    try:
        head = parse_chunk_head(data[PREFIX : PREFIX + 64], chunk.length - PREFIX)
        content.raw, fault = _unpacked(data, head, chunk)
    except FormatError as error:
        content.lost += _all(chunk, promised, f"chunk at byte {chunk.start}: {error}")
        return content
    found = list(_found(content, chunk, promised is None and not fault))
    if fault:  # keep its schemas and channels for other chunks, but not its messages
        content.lost += _all(chunk, promised, f"chunk at byte {chunk.start} {fault}")
        return content
    content.messages = sorted(_agreed(content, found, promised, head, chunk), key=attrgetter("log_ns"))
    return content


def read_indexed(read: Read, chunk: Chunk, wanted: Collection[int]) -> Content | None:
    """Read the messages of some channels by the index behind a chunk; others are not looked at.

    Return None where chunk or index is damaged or they disagree: `read_chunk` then finds out what is lost.
    """
    if chunk.counts is None or chunk.cut:
        return None
    content = Content()
    data = read(chunk.start, chunk.length + chunk.index_length)
    left = {channel: chunk.counts.get(channel, 0) for channel in wanted}
    try:
        head = parse_chunk_head(data[PREFIX : PREFIX + 64], chunk.length - PREFIX)
        content.raw, fault = _unpacked(data, head, chunk)
        if fault:
            return None
        for kind, body in each_record(data[chunk.length :]):
            channel = int.from_bytes(body[:2], "little")
            if kind == MESSAGE_INDEX and channel in left:
                for log_ns, start in parse_message_index_entries(body):
                    message = _indexed(content.raw, start)
                    if message is None or (message.log_ns, message.channel) != (log_ns, channel):
                        return None
                    content.messages.append(message)
                    left[channel] -= 1
    except FormatError:
        return None
    content.messages.sort(key=attrgetter("log_ns", "start"))
    same = len({message.start for message in content.messages}) < len(content.messages)
    return None if same or any(left.values()) else content


def _indexed(raw: memoryview, start: int) -> InChunk | None:
    """Return the message at an offset of a chunk; None if there is none."""
    head = bytes(raw[start : start + PREFIX + MESSAGE_HEAD])
    if len(head) < PREFIX + MESSAGE_HEAD or head[0] != MESSAGE:
        return None
    stop = start + PREFIX + int.from_bytes(head[1:PREFIX], "little")
    if not start + len(head) <= stop <= len(raw):
        return None
    channel, log_ns = parse_message_head(head[PREFIX:])
    return InChunk(log_ns, channel, start + len(head), stop)


def _promised(data: bytes, chunk: Chunk, content: Content) -> Promised | None:
    """Return the message indexes after a chunk; None if they are absent or damaged."""
    promised: Promised = Counter()
    try:
        for kind, body in each_record(data):
            if kind != MESSAGE_INDEX:
                raise FormatError("is not an index of messages")
            channel, times = parse_message_index(body)
            promised.update((channel, log_ns) for log_ns in times)
    except FormatError as error:
        content.lost.append(Lost(None, chunk.start_ns, 0, f"index of chunk at byte {chunk.start} {error}"))
        return None
    return promised or None


def _unpacked(data: bytes, head: ChunkHead, chunk: Chunk) -> tuple[memoryview, str]:
    """Return the records of a chunk, and what is wrong with them.

    Raises:
        FormatError: the records cannot be decompressed.
    """
    packed = data[PREFIX + head.data : PREFIX + head.data + head.packed]
    raw, whole = unpack(packed, head.compression, head.size)
    fault = ""
    if chunk.cut:
        pass  # the messages before the cut are intact
    elif not whole or len(raw) != head.size:
        fault = f"has {len(raw)} bytes instead of {head.size}"
    elif head.crc and crc32(raw) != head.crc:
        fault = "has a wrong checksum"
    return memoryview(raw), fault


def _all(chunk: Chunk, promised: Promised | None, reason: str) -> Iterator[Lost]:
    """Yield all messages of a chunk as lost."""
    counts: Counter[int] = Counter()
    for (channel, _), count in (promised or Counter()).items():
        counts[channel] += count
    known = counts or chunk.counts
    if not known:
        yield Lost(None, chunk.start_ns, None, reason)
        return
    yield from (Lost(channel, chunk.start_ns, count, reason) for channel, count in known.items() if count)


def _found(content: Content, chunk: Chunk, report_gaps: bool) -> Iterator[InChunk]:
    """Yield the messages of a chunk; add its schemas and channels to `content`."""
    raw = content.raw
    for kind, start, stop in scan(lambda at, size: bytes(raw[at : at + size]), 0, len(raw), IN_CHUNK):
        body = start + PREFIX
        where = f"in chunk at byte {chunk.start}, byte {start}"
        if kind == MESSAGE:
            channel, log_ns = parse_message_head(bytes(raw[body : body + MESSAGE_HEAD]))
            yield InChunk(log_ns, channel, body + MESSAGE_HEAD, stop)
            continue
        try:
            if kind == SCHEMA:
                schema = parse_schema(bytes(raw[body:stop]))
                content.schemas[schema.id] = schema
            elif kind == CHANNEL:
                defined = parse_channel(bytes(raw[body:stop]))
                content.channels[defined.id] = defined
            else:
                raise FormatError(f"to {stop}: no record")
        except FormatError as error:
            # An index, if present, tells which messages are lost here.
            content.lost.append(Lost(None, chunk.start_ns, None if report_gaps else 0, f"{where} {error}"))


def _agreed(
    content: Content, found: list[InChunk], promised: Promised | None, head: ChunkHead, chunk: Chunk
) -> Iterator[InChunk]:
    """Yield the messages that agree with the index and the chunk header."""
    counted = Counter((message.channel, message.log_ns) for message in found)
    missing = (promised or Counter()) - counted
    extra = counted - (promised or Counter())
    if not missing and not extra:
        yield from found
        return
    channels, times = {channel for channel, _ in missing}, {log_ns for _, log_ns in missing}
    for message in found:
        key = (message.channel, message.log_ns)
        if extra[key]:
            extra[key] -= 1
            if message.channel in channels or message.log_ns in times:
                continue  # differs from the index: reported below
            if not head.start_ns <= message.log_ns <= head.end_ns:
                reason = f"log time is outside the range of its chunk at byte {chunk.start}"
                content.lost.append(Lost(message.channel, message.log_ns, 1, reason))
                continue
        yield message
    reason = f"differs from the index of the chunk at byte {chunk.start}"
    first = {channel: min(t for c, t in missing if c == channel) for channel in channels}
    for channel in sorted(channels):
        count = sum(n for (c, _), n in missing.items() if c == channel)
        content.lost.append(Lost(channel, first[channel], count, reason))
