"""Find the messages of an MCAP file, from its summary or by scanning the whole file."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import unpack_from
from zlib import crc32

import numpy as np

from perception_rt.replay.storage.chunk import Chunk, Lost, read_chunk
from perception_rt.replay.storage.records import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    FOOTER,
    FOOTER_BYTES,
    HEADER,
    IN_FILE,
    MAGIC,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    PEEK,
    PREFIX,
    SCHEMA,
    STATISTICS,
    Channel,
    ChunkIndex,
    Schema,
    Statistics,
    each_record,
    parse_channel,
    parse_chunk_head,
    parse_chunk_index,
    parse_message_head,
    parse_schema,
    parse_statistics,
)
from perception_rt.replay.storage.scan import Piece, Read, scan
from perception_rt.replay.storage.values import MAX_BYTES, FormatError


class Loose:
    """Messages outside of chunks: log time, channel, offset and length of their data."""

    def __init__(self) -> None:
        self._columns = (array("q"), array("H"), array("q"), array("q"))

    def append(self, *row: int) -> None:
        """Add one."""
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def sorted(self) -> tuple[np.ndarray, ...]:
        """Return the columns in order of log time."""
        columns = tuple(np.frombuffer(column, column.typecode) for column in self._columns)
        order = np.argsort(columns[0], kind="stable")
        return tuple(column[order] for column in columns)


@dataclass(slots=True)
class Index:
    """The index of a file.

    Attributes:
        schemas, channels: by id. chunks, loose: location of messages. checked: whether chunks have checksums.
        statistics: None if damaged or missing.
        counts: messages by channel, as far as known before reading.
        lost: messages that cannot be read.
    """

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    loose: Loose = field(default_factory=Loose)
    checked: bool = False
    statistics: Statistics | None = None
    counts: Counter[int] = field(default_factory=Counter)
    lost: list[Lost] = field(default_factory=list)


def index_of(read: Read, size: int) -> Index:
    """Return the index of a file of `size` bytes; scans the whole file if the summary is not usable."""
    reasons, summary = [], None
    if read(0, len(MAGIC)) != MAGIC:
        reasons.append("does not begin like an MCAP file")
    try:
        summary = _summary(read, size)
    except FormatError as error:
        reasons.append(f"summary {error}: scanned the whole file instead")
    index = summary or _scanned(read, size)
    index.lost[:0] = [Lost(None, None, 0, reason) for reason in reasons]
    return index


def _summary(read: Read, size: int) -> Index | None:
    """Return the index from the summary; None if it is incomplete or messages lie outside of chunks.

    Raises:
        FormatError: the summary is damaged or belongs to another file.
    """
    section = _summary_section(read, size)
    if section is None:
        return None
    start, data = section
    index, chunks = Index(), []
    for kind, body in each_record(data):
        if kind == CHUNK_INDEX:
            chunks.append(parse_chunk_index(body))
        elif kind in (SCHEMA, CHANNEL, STATISTICS):
            _take_small(index, kind, body)
    if index.statistics is None or (not chunks and index.statistics.messages):
        return None
    if len(chunks) != index.statistics.chunks:
        raise FormatError("lacks some chunks")
    index.chunks = list(_verified(read, start, chunks))
    index.counts = Counter(index.statistics.counts)
    found = sum((Counter(chunk.counts) for chunk in index.chunks), Counter())
    if any(chunk.counts for chunk in index.chunks) and found != +index.counts:
        if found - index.counts:
            raise FormatError("contradicts itself")
        return None  # the other messages lie outside of chunks
    if set(+index.counts) - set(index.channels):
        raise FormatError("lacks some channels")
    return index


def _summary_section(read: Read, size: int) -> tuple[int, bytes] | None:
    """Return offset and bytes of the summary; None if there is none.

    Raises:
        FormatError: it is damaged.
    """
    footer = size - len(MAGIC) - FOOTER_BYTES
    tail = read(max(footer, 0), FOOTER_BYTES + len(MAGIC))
    if footer < len(MAGIC) or not tail.endswith(MAGIC) or tail[:PREFIX] != b"\x02\x14" + bytes(7):
        raise FormatError("is missing: the file is cut off")
    start, _, crc = unpack_from("<QQI", tail, PREFIX)
    if not start:
        return None
    if not len(MAGIC) < start <= footer or footer - start > MAX_BYTES:
        raise FormatError("is not at its stated offset")
    data = read(start, footer - start)
    if crc and crc32(tail[: PREFIX + 16], crc32(data)) != crc:
        raise FormatError("has a wrong checksum")
    return start, data


def _verified(read: Read, stop: int, chunks: list[ChunkIndex]) -> Iterator[Chunk]:
    """Yield the chunks after a check against their headers, as a summary may lack a checksum."""
    end = len(MAGIC)
    for found in sorted(chunks, key=lambda chunk: chunk.start):
        data = read(found.start, PEEK)
        body_length = found.length - PREFIX
        if found.start < end or data[:1] != bytes([CHUNK]) or body_length != unpack_from("<Q", data, 1)[0]:
            raise FormatError(f"lists a chunk at byte {found.start} that does not exist")
        head = parse_chunk_head(data[PREFIX:], body_length)
        if (
            head.start_ns > head.end_ns
        ):  # no messages: libmcap then writes different times in index and header
            found = found._replace(head=found.head._replace(start_ns=head.start_ns, end_ns=head.end_ns))
        if head._replace(crc=0) != found.head:
            raise FormatError(f"describes another chunk at byte {found.start}")
        end = found.start + found.length + found.index_length
        counts = found.counts if found.indexes else None
        if end > stop or (counts and min(counts.values()) < 0):
            raise FormatError(f"lists impossible indexes for the chunk at byte {found.start}")
        if head.start_ns <= head.end_ns:  # otherwise it has no messages
            yield Chunk(found.start, found.length, found.index_length, head.start_ns, head.end_ns, counts)


def _scanned(read: Read, size: int) -> Index:
    """Return the index from a scan of every record."""
    index = Index()
    stop = size - len(MAGIC) if size > 2 * len(MAGIC) and read(size - len(MAGIC), 8) == MAGIC else size
    last = 0
    for piece in scan(read, len(MAGIC), stop, IN_FILE):
        try:
            _take(index, read, piece, stop)
        except FormatError as error:
            where = f"bytes {piece.start} to {piece.stop}"
            index.lost.append(Lost(None, None, None, f"{where}: {error}"))
        last = piece.kind
    if last != FOOTER:
        index.lost.append(Lost(None, None, None, "ends without a footer: the recording is cut off"))
    index.chunks = [chunk for chunk in index.chunks if _looked_into(index, read, chunk)]
    if index.checked and (index.statistics is None or Counter(index.statistics.counts) != +index.counts):
        _distrust(index)
    return index


def _distrust(index: Index) -> None:
    """Report messages between checksummed chunks as lost: they come from a damaged chunk."""
    times, channels, *_ = index.loose.sorted()
    for log_ns, channel in zip(times.tolist(), channels.tolist(), strict=True):
        index.lost.append(Lost(channel, log_ns, 1, "in a damaged chunk whose checksum cannot be verified"))
        index.counts[channel] -= 1
    index.loose = Loose()


def _take(index: Index, read: Read, piece: Piece, stop: int) -> None:
    """Add one record to the index.

    Raises:
        FormatError: it is damaged.
    """
    kind, body = piece.kind, piece.start + PREFIX
    if kind == 0:
        _take_cut(index, read, piece, stop)
    elif kind == MESSAGE:
        channel, log_ns = parse_message_head(read(body, MESSAGE_HEAD))
        index.counts[channel] += 1
        index.loose.append(log_ns, channel, body + MESSAGE_HEAD, piece.stop - body - MESSAGE_HEAD)
    elif kind == CHUNK:
        head = parse_chunk_head(read(body, PEEK - PREFIX), piece.stop - body)
        index.chunks.append(Chunk(piece.start, piece.stop - piece.start, 0, head.start_ns, head.end_ns))
        index.checked |= head.crc != 0
    elif kind == MESSAGE_INDEX:
        chunk = index.chunks[-1] if index.chunks else None
        if chunk is None or chunk.start + chunk.length + chunk.index_length != piece.start:
            raise FormatError("an index without a chunk")
        chunk.index_length += piece.stop - piece.start
    elif kind in (SCHEMA, CHANNEL, STATISTICS):
        _take_small(index, kind, read(body, piece.stop - body))
    elif kind == HEADER and piece.start != len(MAGIC):
        raise FormatError("a file header inside the file")


def _take_small(index: Index, kind: int, body: bytes) -> None:
    if kind == SCHEMA:
        schema = parse_schema(body)
        index.schemas.setdefault(schema.id, schema)
    elif kind == CHANNEL:
        channel = parse_channel(body)
        index.channels.setdefault(channel.id, channel)
    else:
        index.statistics = parse_statistics(body)


def _take_cut(index: Index, read: Read, piece: Piece, stop: int) -> None:
    """Handle bytes without a complete record; at the end of the file, one may be cut off."""
    head = read(piece.start, PEEK)
    length = int.from_bytes(head[1:PREFIX], "little")
    if piece.stop == stop < piece.start + PREFIX + length and head[0] == CHUNK:
        chunk = parse_chunk_head(head[PREFIX:], length)
        index.chunks.append(Chunk(piece.start, PREFIX + length, 0, chunk.start_ns, chunk.end_ns, cut=True))
    else:
        raise FormatError("not a record")


def _looked_into(index: Index, read: Read, chunk: Chunk) -> bool:
    """Add the content and times of a chunk to the index; return whether it has messages."""
    content = read_chunk(read, chunk)
    index.schemas |= content.schemas  # these take precedence over an unusable summary
    index.channels |= content.channels
    index.lost += content.lost
    if not content.messages:
        return False
    chunk.start_ns, chunk.end_ns = content.messages[0].log_ns, content.messages[-1].log_ns
    chunk.counts = Counter(message.channel for message in content.messages)
    index.counts.update(chunk.counts)
    return True
