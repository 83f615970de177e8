"""Decompress data with bounded memory, also if a length is damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BufferedIOBase
from typing import IO, Any, NamedTuple

from lz4.frame import LZ4FrameDecompressor, LZ4FrameFile

from perception_rt.replay.storage.values import MAX_BYTES, FormatError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "zstd": zstd.ZstdDecompressor,
    "lz4": LZ4FrameDecompressor,
}
"""Decompressors by their name in chunks and metadata.yaml."""
OPENERS: dict[str, Callable[[IO[bytes]], BufferedIOBase]] = {"zstd": zstd.ZstdFile, "lz4": LZ4FrameFile}
MAGIC = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""The first bytes of compressed files and messages; a CDR message begins with a zero."""
_ERRORS = (zstd.ZstdError, RuntimeError, EOFError, MemoryError)  # lz4 raises RuntimeError
_PIECE = 1 << 16  # up to this many bytes before a damaged place are lost


class OutOfRoom(FormatError):
    """Decompressed data are larger than allowed."""


class Unpacked(NamedTuple):
    """Decompressed bytes; `whole` is false if the compressed data ended early."""

    data: bytes
    whole: bool


def unpack(data: bytes, compression: str, limit: int = MAX_BYTES) -> Unpacked:
    """Decompress one frame of at most `limit` bytes.

    Args:
        compression: ``zstd``, ``lz4``, or empty for none.

    Raises:
        FormatError: the data is damaged, too large or has another compression.
    """
    if not compression:
        return Unpacked(data, True)
    if compression not in DECOMPRESSORS:
        raise FormatError(f"compression {compression!r} is not known")
    if limit > MAX_BYTES:
        raise FormatError(f"a size of {limit} bytes is not plausible")
    decompressor = DECOMPRESSORS[compression]()
    try:
        found = decompressor.decompress(data, max_length=limit + 1)  # one more, to detect excess data
    except _ERRORS as error:
        raise FormatError(f"{compression}: {error}") from error
    if len(found) > limit:
        raise FormatError(f"{compression}: more than the expected {limit} bytes")
    return Unpacked(found, decompressor.eof)


def unpack_file(packed: IO[bytes], compression: str, into: IO[bytes], limit: int) -> None:
    """Decompress as much as possible of a file, up to `limit` bytes.

    Raises:
        FormatError: the file is damaged or ends early; `into` has the data before that.
        OutOfRoom: there is more.
    """
    try:
        with OPENERS[compression](packed) as unpacked:
            while piece := unpacked.read(_PIECE):
                if into.tell() + len(piece) > limit:
                    raise OutOfRoom(f"{compression}: more than {limit} bytes")
                into.write(piece)
    except _ERRORS as error:
        raise FormatError(f"{compression}: {error}") from error
