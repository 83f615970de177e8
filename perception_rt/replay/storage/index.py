"""Where the messages of an MCAP file are: by its summary, or by looking at all of it."""

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
    """Messages that lie in no chunk: log time, channel, offset and length of their bytes."""

    def __init__(self) -> None:
        self._columns = (array("q"), array("H"), array("q"), array("q"))

    def append(self, *row: int) -> None:
        """Add one."""
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def sorted(self) -> tuple[np.ndarray, ...]:
        """The columns, in order of log time."""
        columns = tuple(np.frombuffer(column, column.typecode) for column in self._columns)
        order = np.argsort(columns[0], kind="stable")
        return tuple(column[order] for column in columns)


@dataclass(slots=True)
class Index:
    """What is in a file.

    Attributes:
        schemas, channels: by number. chunks, loose: where messages are. checked: chunks have checksums.
        statistics: None where they are damaged or missing.
        counts: messages by channel, as far as they are known before reading.
        lost: what cannot be read.
    """

    schemas: dict[int, str] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    loose: Loose = field(default_factory=Loose)
    checked: bool = False
    statistics: Statistics | None = None
    counts: Counter[int] = field(default_factory=Counter)
    lost: list[Lost] = field(default_factory=list)


def index_of(read: Read, size: int) -> Index:
    """The index of a file of `size` bytes; costs a look at all of it where the summary is of no use."""
    reasons, summary = [], None
    if read(0, len(MAGIC)) != MAGIC:
        reasons.append("begins unlike an MCAP file")
    try:
        summary = _summary(read, size)
    except FormatError as error:
        reasons.append(f"summary {error}: read without it")
    index = summary or _scanned(read, size)
    index.lost[:0] = [Lost(None, None, 0, reason) for reason in reasons]
    return index


def _summary(read: Read, size: int) -> Index | None:
    """By the summary; None where it has no statistics or chunk indexes, or messages lie beside chunks.

    Raises:
        FormatError: it is damaged, or is not that of this file.
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
        raise FormatError("does not have all chunks")
    index.chunks = list(_verified(read, start, chunks))
    index.counts = Counter(index.statistics.counts)
    told = sum((Counter(chunk.counts) for chunk in index.chunks), Counter())
    if any(chunk.counts for chunk in index.chunks) and told != +index.counts:
        if told - index.counts:
            raise FormatError("contradicts itself")
        return None  # the other messages lie beside the chunks
    if set(+index.counts) - set(index.channels):
        raise FormatError("does not have all channels")
    return index


def _summary_section(read: Read, size: int) -> tuple[int, bytes] | None:
    """Offset and bytes of the summary; None where there is none.

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
        raise FormatError("is not where it should be")
    data = read(start, footer - start)
    if crc and crc32(tail[: PREFIX + 16], crc32(data)) != crc:
        raise FormatError("does not have its checksum")
    return start, data


def _verified(read: Read, stop: int, chunks: list[ChunkIndex]) -> Iterator[Chunk]:
    """The chunks, each held to its head in the file: a summary need not have a checksum."""
    end = len(MAGIC)
    for found in sorted(chunks, key=lambda chunk: chunk.start):
        data = read(found.start, PEEK)
        body_length = found.length - PREFIX
        if found.start < end or data[:1] != bytes([CHUNK]) or body_length != unpack_from("<Q", data, 1)[0]:
            raise FormatError(f"has a chunk at byte {found.start} that is not there")
        head = parse_chunk_head(data[PREFIX:], body_length)
        if head.start_ns > head.end_ns:  # no message: libmcap's index then has other times than the head
            found = found._replace(head=found.head._replace(start_ns=head.start_ns, end_ns=head.end_ns))
        if head._replace(crc=0) != found.head:
            raise FormatError(f"has another chunk at byte {found.start}")
        end = found.start + found.length + found.index_length
        counts = found.counts if found.indexes else None
        if end > stop or (counts and min(counts.values()) < 0):
            raise FormatError(f"has indexes at byte {found.start} that cannot be")
        if head.start_ns <= head.end_ns:  # else it has no messages
            yield Chunk(found.start, found.length, found.index_length, head.start_ns, head.end_ns, counts)


def _scanned(read: Read, size: int) -> Index:
    """By looking at every record."""
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
    """Messages between chunks that have checksums are what is left of a chunk without its head: unchecked."""
    times, channels, *_ = index.loose.sorted()
    for log_ns, channel in zip(times.tolist(), channels.tolist(), strict=True):
        index.lost.append(Lost(channel, log_ns, 1, "of a chunk that is damaged and cannot be checked"))
        index.counts[channel] -= 1
    index.loose = Loose()


def _take(index: Index, read: Read, piece: Piece, stop: int) -> None:
    """Learn from one record.

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
            raise FormatError("an index without its chunk")
        chunk.index_length += piece.stop - piece.start
    elif kind in (SCHEMA, CHANNEL, STATISTICS):
        _take_small(index, kind, read(body, piece.stop - body))
    elif kind == HEADER and piece.start != len(MAGIC):
        raise FormatError("a header within the file")


def _take_small(index: Index, kind: int, body: bytes) -> None:
    if kind == SCHEMA:
        number, name = parse_schema(body)
        index.schemas.setdefault(number, name)
    elif kind == CHANNEL:
        channel = parse_channel(body)
        index.channels.setdefault(channel.id, channel)
    else:
        index.statistics = parse_statistics(body)


def _take_cut(index: Index, read: Read, piece: Piece, stop: int) -> None:
    """Bytes without a whole record; if the file ends here, they may be the beginning of one."""
    head = read(piece.start, PEEK)
    length = int.from_bytes(head[1:PREFIX], "little")
    if piece.stop == stop < piece.start + PREFIX + length and head[0] == CHUNK:
        chunk = parse_chunk_head(head[PREFIX:], length)
        index.chunks.append(Chunk(piece.start, PREFIX + length, 0, chunk.start_ns, chunk.end_ns, cut=True))
    else:
        raise FormatError("no record")


def _looked_into(index: Index, read: Read, chunk: Chunk) -> bool:
    """Learn from a chunk what it has, and when; whether it has messages."""
    content = read_chunk(read, chunk)
    index.schemas |= content.schemas  # rather than those of a summary that is of no use
    index.channels |= content.channels
    index.lost += content.lost
    if not content.messages:
        return False
    chunk.start_ns, chunk.end_ns = content.messages[0].log_ns, content.messages[-1].log_ns
    chunk.counts = Counter(message.channel for message in content.messages)
    index.counts.update(chunk.counts)
    return True
