"""Decompression that no damaged length can make expensive."""

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
"""By the name in chunks and in metadata.yaml."""
OPENERS: dict[str, Callable[[IO[bytes]], BufferedIOBase]] = {"zstd": zstd.ZstdFile, "lz4": LZ4FrameFile}
MAGIC = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""What compressed files and messages begin with; a CDR message begins with a zero."""
_ERRORS = (zstd.ZstdError, RuntimeError, EOFError, MemoryError)  # lz4 raises RuntimeError
_PIECE = 1 << 16  # so much is lost before a damaged place


class Unpacked(NamedTuple):
    """Decompressed bytes; not `whole` where the compressed ones ended early."""

    data: bytes
    whole: bool


def unpack(data: bytes, compression: str, limit: int = MAX_BYTES) -> Unpacked:
    """Decompress one frame of at most `limit` bytes.

    Args:
        compression: ``zstd``, ``lz4``, or empty for none.

    Raises:
        FormatError: it is damaged, larger, or of another compression.
    """
    if not compression:
        return Unpacked(data, True)
    if compression not in DECOMPRESSORS:
        raise FormatError(f"compression {compression!r} is not known")
    if limit > MAX_BYTES:
        raise FormatError(f"{limit} bytes are more than any part holds")
    decompressor = DECOMPRESSORS[compression]()
    try:
        found = decompressor.decompress(data, max_length=limit + 1)  # one more, to see the end or the excess
    except _ERRORS as error:
        raise FormatError(f"{compression}: {error}") from error
    if len(found) > limit:
        raise FormatError(f"{compression}: more than the {limit} bytes that it should be")
    return Unpacked(found, decompressor.eof)


def unpack_file(packed: IO[bytes], compression: str, into: IO[bytes], limit: int) -> None:
    """Decompress a file to at most `limit` bytes, as far as can be.

    Raises:
        FormatError: it is damaged, or ends early; what came before that is in `into`.
    """
    try:
        with OPENERS[compression](packed) as unpacked:
            while piece := unpacked.read(_PIECE):
                if into.tell() + len(piece) > limit:
                    raise FormatError(f"{compression}: more than {limit} bytes")
                into.write(piece)
    except _ERRORS as error:
        raise FormatError(f"{compression}: {error}") from error
