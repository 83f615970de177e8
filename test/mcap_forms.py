"""MCAP files in the forms that recorders write and rosbags' writer does not (https://mcap.dev/spec)."""

from __future__ import annotations

import struct
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from zlib import crc32

import lz4.frame

from perception_rt.replay.bag import BagMessage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
COMPRESS = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}


def write_mcap(
    path: Path,
    logged: Iterable[BagMessage],
    compression: str = "",
    in_chunk: int = 8,
    checksums: bool = True,
    indexed: bool = True,
    summary: bool = True,
    encoding: str = "cdr",
    definitions: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a file of messages.

    Args:
        compression: of chunks. in_chunk: messages in each; 0: without chunks.
        checksums: of chunks and of the summary. indexed: an index behind each chunk, and chunk indexes.
        summary: statistics, and the indexes if there are any.
        encoding: of the messages. definitions: of their types.
    """
    logged = list(logged)
    ids = {topic: number for number, topic in enumerate(dict.fromkeys(m.topic for m in logged), 1)}
    types = {m.topic: m.message_type for m in logged}
    declared = b"".join(
        _record(
            3,
            struct.pack("<H", n)
            + _text(types[t])
            + _text("ros2msg")
            + _text(definitions.get(types[t], "byte[] data")),
        )
        + _record(4, struct.pack("<HH", n, n) + _text(t) + _text(encoding) + struct.pack("<I", 0))
        for t, n in ids.items()
    )
    out = bytearray(MAGIC + _record(1, _text("ros2") + _text("test")))
    chunk_indexes = []
    if in_chunk:
        for first in range(0, len(logged), in_chunk):
            part = logged[first : first + in_chunk]
            before = b"" if first else declared
            chunk_indexes.append(_add_chunk(out, part, ids, before, compression, checksums, indexed))
    else:
        out += declared + b"".join(_message(m, ids) for m in logged)
    out += _record(15, struct.pack("<I", 0))
    start = len(out) if summary else 0
    if summary:
        counts = b"".join(struct.pack("<HQ", n, sum(m.topic == t for m in logged)) for t, n in ids.items())
        times = [m.log_ns for m in logged]
        about = (len(logged), len(ids), len(ids), 0, 0, len(chunk_indexes), min(times), max(times))
        out += declared + b"".join(chunk_indexes if indexed else [])
        out += _record(11, struct.pack("<QHIIIIQQ", *about) + struct.pack("<I", len(counts)) + counts)
    foot = b"\x02" + struct.pack("<QQQ", 20, start, 0)
    crc = crc32(foot, crc32(bytes(out[start:]))) if summary and checksums else 0
    path.write_bytes(bytes(out) + foot + struct.pack("<I", crc) + MAGIC)
    return path


def _add_chunk(out, part, ids, before, compression, checksums, indexed) -> bytes:
    """Append a chunk and its indexes; the record of its place."""
    raw, entries = bytearray(before), defaultdict(list)
    for message in part:
        entries[ids[message.topic]].append((message.log_ns, len(raw)))
        raw += _message(message, ids)
    packed, times = COMPRESS[compression](bytes(raw)), [m.log_ns for m in part]
    span = struct.pack("<QQ", min(times), max(times))
    head = span + struct.pack("<QI", len(raw), crc32(raw) if checksums else 0) + _text(compression)
    start = len(out)
    out += _record(6, head + struct.pack("<Q", len(packed)) + packed)
    length, offsets = len(out) - start, b""
    for number, found in entries.items() if indexed else ():
        offsets += struct.pack("<HQ", number, len(out))
        body = b"".join(struct.pack("<QQ", *entry) for entry in found)
        out += _record(7, struct.pack("<HI", number, len(body)) + body)
    index = span + struct.pack("<QQI", start, length, len(offsets)) + offsets
    index += struct.pack("<Q", len(out) - start - length) + _text(compression)
    return _record(8, index + struct.pack("<QQ", len(packed), len(raw)))


def _message(message: BagMessage, ids: dict[str, int]) -> bytes:
    head = struct.pack("<HIQQ", ids[message.topic], 0, message.log_ns, message.log_ns)
    return _record(5, head + message.data)


def _record(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack("<Q", len(body)) + body


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()
