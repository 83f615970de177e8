"""Opening a recording's files, whatever they are called and compressed with."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Protocol

from perception_rt.replay.storage import records, sqlite
from perception_rt.replay.storage.mcap import McapFile
from perception_rt.replay.storage.sqlite import SqliteFile
from perception_rt.replay.storage.unpack import MAGIC, unpack_file
from perception_rt.replay.storage.values import BagMessage, Damage, FormatError, Report

SUFFIXES = {".mcap": McapFile, ".db3": SqliteFile}
COMPRESSED = (".zstd", ".lz4")
UNPACKED_BYTES, UNPACKED_RATIO = 512 << 20, 500
"""A compressed file may become so large, or so many times its size, whichever is more."""
LFS_POINTER = b"version https://git-lfs."


class StorageFile(Protocol):
    """An open file of a recording; attributes and messages as `McapFile` and `SqliteFile` have them."""

    topics: dict[str, str]
    promised: Counter[str]
    start_ns: int | None
    end_ns: int | None

    def messages(self, topics: Collection[str] | None, start_ns: int, stop_ns: int) -> Iterator[BagMessage]:
        """In order of log time."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def bare(name: str) -> str:
    """A file's name without the suffix of a compression."""
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)


def storage_files(folder: Path) -> list[str]:
    """Names of the files in a folder that hold messages, in order of their numbers."""
    names = [path.name for path in folder.iterdir() if Path(bare(path.name)).suffix in SUFFIXES]
    return sorted(names, key=lambda name: [(len(part), part) for part in bare(name).split("_")])


def open_file(path: Path, unpacked: Path, report: Report) -> StorageFile:
    """Open a file by what it begins with, or else by its name.

    Args:
        path: of the file. unpacked: where to put it decompressed, if need be. report: takes what is damaged.

    Raises:
        FormatError: nothing of it can be read.
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
        if head.startswith(records.MAGIC) or kind is McapFile:
            return McapFile(path, report)
        if kind is None:
            raise FormatError("is no recording")
        return SqliteFile(path, unpacked, report)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}") from error


def _unpack(file: IO[bytes], compression: str, unpacked: Path, report: Report) -> None:
    packed = os.fstat(file.fileno()).st_size
    limit = min(max(UNPACKED_BYTES, packed * UNPACKED_RATIO), shutil.disk_usage(unpacked.parent).free // 2)
    with unpacked.open("wb") as into:
        try:
            unpack_file(file, compression, into, limit)
        except FormatError as error:
            report(Damage("", None, None, f"from byte {into.tell()} of its content: {error}"))


def _whole_pages(path: Path, head: bytes, copied: Path, report: Report) -> Path:
    """The database, or a copy without the page that it is cut off in: SQLite would fill that with zeros."""
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
