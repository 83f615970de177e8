"""Parse the records of MCAP files (https://mcap.dev/spec) strictly: a wrong length is an error."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from perception_rt.replay.storage.values import LATEST_NS, MAX_BYTES, FormatError

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
ATTACHMENT, ATTACHMENT_INDEX, STATISTICS, METADATA, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = range(9, 16)
IN_FILE = frozenset(range(HEADER, DATA_END + 1))
IN_CHUNK = frozenset({SCHEMA, CHANNEL, MESSAGE})
PREFIX = 9
"""Size of a record's prefix: its opcode and the length of its body."""
PEEK = PREFIX + 64
"""Number of bytes needed to recognise a record."""
FOOTER_BYTES = PREFIX + 20
_FIXED = {FOOTER: 20, SUMMARY_OFFSET: 17, DATA_END: 4}
_LEAST = {
    HEADER: 8,
    SCHEMA: 14,
    CHANNEL: 16,
    CHUNK_INDEX: 60,
    ATTACHMENT: 36,
    ATTACHMENT_INDEX: 44,
    METADATA: 8,
}


class Schema(NamedTuple):
    """A message type of a file, with its schema id and definition."""

    id: int
    name: str
    definition: bytes


class Channel(NamedTuple):
    """A topic of a file, with its channel id, schema id and the encoding of its messages."""

    id: int
    schema_id: int
    topic: str
    encoding: str


class MessageHead(NamedTuple):
    """The header of a message record."""

    channel: int
    log_ns: int


MESSAGE_HEAD = 22


class ChunkHead(NamedTuple):
    """The header of a chunk record.

    Attributes:
        start_ns, end_ns: log times of its first and last message.
        size, crc: of the decompressed records; a crc of 0 means none.
        data: offset of the records in the body. packed: their compressed length.
    """

    start_ns: int
    end_ns: int
    size: int
    crc: int
    compression: str
    data: int
    packed: int


class ChunkIndex(NamedTuple):
    """The location of a chunk and its message indexes; offsets in the file, lengths in bytes."""

    head: ChunkHead
    start: int
    length: int
    indexes: dict[int, int]
    index_length: int

    @property
    def counts(self) -> dict[int, int]:
        """Return the messages by channel, from the distances between the message indexes."""
        stops = [*sorted(self.indexes.values())[1:], self.start + self.length + self.index_length]
        by_offset = sorted((offset, channel) for channel, offset in self.indexes.items())
        pairs = zip(by_offset, stops, strict=True)
        return {channel: (stop - offset - PREFIX - 6) // 16 for (offset, channel), stop in pairs}


class Statistics(NamedTuple):
    """The statistics of a file: messages in total and by channel, first and last log time."""

    messages: int
    chunks: int
    start_ns: int
    end_ns: int
    counts: dict[int, int]


class Fields:
    """A reader for the fields of a record's body."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        """Return the next numbers."""
        size = struct.calcsize(layout)
        if self.at + size > len(self._body):
            raise FormatError("is cut short")
        self.at += size
        return struct.unpack_from(layout, self._body, self.at - size)

    def block(self) -> bytes:
        """Return the next length-prefixed bytes."""
        (size,) = self.take("<I")
        if self.at + size > len(self._body):
            raise FormatError("is cut short")
        self.at += size
        return self._body[self.at - size : self.at]

    def text(self) -> str:
        """Return the next string."""
        try:
            return self.block().decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"has an invalid string: {error}") from error

    def end(self) -> None:
        """Check that no bytes are left."""
        if self.at != len(self._body):
            raise FormatError("is longer than its content")


def parse_schema(body: bytes) -> Schema:
    """A message type."""
    fields = Fields(body)
    (number,), name = fields.take("<H"), fields.text()
    fields.text()  # encoding
    definition = fields.block()
    fields.end()
    return Schema(number, name, definition)


def parse_channel(body: bytes) -> Channel:
    """A topic."""
    fields = Fields(body)
    number, schema = fields.take("<HH")
    topic, encoding = fields.text(), fields.text()
    fields.block()
    fields.end()
    if not topic.isprintable() or not topic:
        raise FormatError(f"topic={topic!r} is not a valid name")
    return Channel(number, schema, topic, encoding)


def parse_message_head(body: bytes) -> MessageHead:
    """Return the header of a message: channel and log time."""
    if len(body) < 22:
        raise FormatError(f"a message has {len(body)} bytes")
    channel, _sequence, log_ns, _publish_ns = struct.unpack_from("<HIQQ", body)
    return MessageHead(channel, log_ns)


def parse_chunk_head(body: bytes, length: int) -> ChunkHead:
    """Return a chunk's header from the first bytes of its body, which has `length` bytes."""
    fields = Fields(body)
    start_ns, end_ns, size, crc = fields.take("<QQQI")
    compression = fields.text()
    (packed,) = fields.take("<Q")
    # For an empty chunk, libmcap writes the greatest time as start and 0 as end.
    times = start_ns <= end_ns <= LATEST_NS or (start_ns >= LATEST_NS and end_ns == 0)
    if fields.at + packed != length or size > MAX_BYTES or not times:
        raise FormatError("has a contradictory header")
    return ChunkHead(start_ns, end_ns, size, crc, compression, fields.at, packed)


def parse_message_index(body: bytes) -> tuple[int, list[int]]:
    """Return channel id and log times, ns, of its messages in the chunk."""
    return int.from_bytes(body[:2], "little"), [log_ns for log_ns, _ in parse_message_index_entries(body)]


def parse_message_index_entries(body: bytes) -> Iterator[tuple[int, int]]:
    """Return log time, ns, and offset in the chunk of the messages of a channel."""
    fields = Fields(body)
    fields.take("<H")
    entries = fields.block()
    fields.end()
    if len(entries) % 16:
        raise FormatError("has a length that is not a multiple of its entries")
    return struct.iter_unpack("<QQ", entries)


def parse_chunk_index(body: bytes) -> ChunkIndex:
    """Return the location of a chunk."""
    fields = Fields(body)
    start_ns, end_ns, start, length = fields.take("<QQQQ")
    offsets = fields.block()
    if len(offsets) % 10:
        raise FormatError("has a length that is not a multiple of its entries")
    (index_length,), compression = fields.take("<Q"), fields.text()
    packed, size = fields.take("<QQ")
    fields.end()
    data = 40 + len(compression.encode())
    head = ChunkHead(start_ns, end_ns, size, 0, compression, data, packed)
    return ChunkIndex(head, start, length, dict(struct.iter_unpack("<HQ", offsets)), index_length)


def parse_statistics(body: bytes) -> Statistics:
    """Return the statistics of the file."""
    fields = Fields(body)
    messages, _schemas, _channels, _attachments, _metadata, chunks = fields.take("<QHIIII")
    start_ns, end_ns = fields.take("<QQ")
    counts = fields.block()
    fields.end()
    found = dict(struct.iter_unpack("<HQ", counts)) if len(counts) % 10 == 0 else {}
    if sum(found.values()) != messages:
        raise FormatError("are contradictory")
    return Statistics(messages, chunks, start_ns, end_ns, found)


def record_length(head: bytes, kinds: frozenset[int]) -> int | None:
    """Return the total length of the record that begins with `head`; None if it is not a record.

    Args:
        head: `PEEK` bytes, or fewer at the end. kinds: the opcodes allowed here.
    """
    if len(head) < PREFIX:
        return None
    kind, length = head[0], int.from_bytes(head[1:PREFIX], "little")
    if kind not in kinds or length > MAX_BYTES:
        return None
    return PREFIX + length if _fits(kind, length, head[PREFIX:]) else None


def _fits(kind: int, length: int, body: bytes) -> bool:
    if kind in _FIXED:
        return length == _FIXED[kind]
    if kind in _LEAST:
        return length >= _LEAST[kind]
    if kind == MESSAGE:
        return length >= MESSAGE_HEAD and int.from_bytes(body[6:14], "little") <= LATEST_NS
    if kind == CHUNK:
        try:
            parse_chunk_head(body, length)
        except FormatError:
            return False
        return True
    if kind == MESSAGE_INDEX:
        return length == 6 + int.from_bytes(body[2:6], "little") and length % 16 == 6
    if kind == STATISTICS:
        return length == 46 + int.from_bytes(body[42:46], "little") and length % 10 == 6
    return length == 20 + int.from_bytes(body[16:20], "little")  # METADATA_INDEX


def each_record(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield opcode and body of consecutive records.

    Raises:
        FormatError: the bytes are not a sequence of records.
    """
    at = 0
    while at < len(data):
        length = record_length(data[at : at + PEEK], IN_FILE)
        if length is None or at + length > len(data):
            raise FormatError(f"has no record at byte {at}")
        yield data[at], data[at + PREFIX : at + length]
        at += length
