"""Open the files of a recording, of any name and compression."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Protocol

from perception_rt.replay.storage import records, rosbag1, sqlite
from perception_rt.replay.storage.mcap import McapFile
from perception_rt.replay.storage.rosbag1 import Rosbag1File
from perception_rt.replay.storage.sqlite import SqliteFile
from perception_rt.replay.storage.unpack import MAGIC, OutOfRoom, unpack_file
from perception_rt.replay.storage.values import BagMessage, Damage, FormatError, Report

SUFFIXES = {".mcap": McapFile, ".db3": SqliteFile, ".bag": Rosbag1File}
COMPRESSED = (".zstd", ".zst", ".lz4")  # by rosbag2; by the programs zstd and lz4
UNPACKED_BYTES, UNPACKED_RATIO = 512 << 20, 500
"""Limits for decompressing a file: bytes and multiple of its size, whichever is more."""
LFS_POINTER = b"version https://git-lfs."


class StorageFile(Protocol):
    """The interface of an open file of a recording; attributes as in `McapFile` and `SqliteFile`."""

    topics: dict[str, str]
    promised: Counter[str]
    start_ns: int | None
    end_ns: int | None

    def messages(self, topics: Collection[str] | None, start_ns: int, stop_ns: int) -> Iterator[BagMessage]:
        """Yield messages in order of log time."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def bare(name: str) -> str:
    """Return a file's name without its compression suffix."""
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)


def storage_files(folder: Path) -> list[str]:
    """Return the names of the storage files in a folder, in order of their numbers."""
    names = [path.name for path in folder.iterdir() if Path(bare(path.name)).suffix in SUFFIXES]
    return sorted(names, key=lambda name: [(len(part), part) for part in bare(name).split("_")])


def open_file(path: Path, unpacked: Path, report: Report) -> StorageFile:
    """Open a file; its format is known by its first bytes, or else by its name.

    Args:
        path: of the file. unpacked: where to decompress it if needed. report: called with every damage.

    Raises:
        FormatError: the file cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            head = file.read(sqlite.HEAD)
            if not head:
                raise FormatError("is empty")
            if head.startswith(LFS_POINTER):
                raise FormatError("is a Git LFS pointer, not the recording: run `git lfs pull`")
            if compression := MAGIC.get(head[:4]):
                file.seek(0)
                _unpack(file, compression, unpacked, report)
                return open_file(unpacked, unpacked, report)
        if head.startswith(sqlite.MAGIC):
            return SqliteFile(_whole_pages(path, head, unpacked, report), unpacked, report)
        kind = SUFFIXES.get(Path(bare(path.name)).suffix)
        if head.startswith(rosbag1.MAGIC) or kind is Rosbag1File:
            return Rosbag1File(path, report)
        if head.startswith(records.MAGIC) or kind is McapFile:
            return McapFile(path, report)
        if kind is None:
            raise FormatError("is not a recording")
        return SqliteFile(path, unpacked, report)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}") from error


def _unpack(file: IO[bytes], compression: str, unpacked: Path, report: Report) -> None:
    """Decompress a file as far as it is intact.

    Raises:
        FormatError: the disk has no room for it: how far it was read would depend on the machine.
    """
    allowed = max(UNPACKED_BYTES, os.fstat(file.fileno()).st_size * UNPACKED_RATIO)
    room = shutil.disk_usage(unpacked.parent).free // 2
    with unpacked.open("wb") as into:
        try:
            unpack_file(file, compression, into, min(allowed, room))
        except OutOfRoom as error:
            if room < allowed:
                raise FormatError(
                    f"takes more than {room} bytes decompressed, half of what is free in {unpacked.parent}: "
                    "set TMPDIR to a folder on a larger disk"
                ) from error
            report(Damage("", None, None, f"from byte {into.tell()} of the decompressed data: {error}"))
        except FormatError as error:
            report(Damage("", None, None, f"from byte {into.tell()} of the decompressed data: {error}"))


def _whole_pages(path: Path, head: bytes, copied: Path, report: Report) -> Path:
    """Return the database, or a copy without its incomplete last page, which SQLite would fill with zeros."""
    size = path.stat().st_size
    missing, rest = sqlite.missing_bytes(head, size)
    if missing:
        report(Damage("", None, None, f"is cut off: {missing} bytes are missing"))
    if not rest:
        return path
    if path != copied:
        shutil.copyfile(path, copied)
    os.truncate(copied, size - rest)
    return copied
