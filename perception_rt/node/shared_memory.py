"""Clean up shared memory after killed nodes."""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
SEGMENT = re.compile(r"fastdds_[0-9a-f]{16}")
SEGMENT_BYTES = 64 << 20
"""Segment size of each process with nodes, as in fastdds.xml."""
SETTLED_S = 60.0  # younger files may belong to a process that is just starting


def clean_shared_memory(folder: Path = FOLDER) -> list[str]:
    """Remove the Fast DDS segments whose process has died, as `fastdds shm clean` does.

    A running owner holds a lock on `<segment>_el`; the kernel releases it with the process. Files of other
    users, and files younger than a minute, are kept.

    Returns:
        The names of the removed segments.
    """
    removed = []
    for lock in folder.glob("fastdds_*_el"):
        segment = folder / lock.name.removesuffix("_el")
        if SEGMENT.fullmatch(segment.name) and _is_abandoned(lock):
            segment.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            removed.append(segment.name)
    return removed


def shortage(folder: Path = FOLDER) -> str:
    """Return what to do if there is no room for the segments of two processes; empty if there is.

    Without room, Fast DDS falls back to UDP, which loses large messages.
    """
    usage = shutil.disk_usage(folder) if folder.is_dir() else None
    if usage is None or usage.free >= 2 * SEGMENT_BYTES:
        return ""
    return (
        f"{folder}: {usage.free >> 20} of {usage.total >> 20} MB free, and every process of nodes takes "
        f"{SEGMENT_BYTES >> 20} MB: images and clouds will be lost or late. Start the container with "
        "--shm-size=1g (or --ipc=host), or free the folder"
    )


def _is_abandoned(lock: Path) -> bool:
    try:
        if time.time() - lock.stat().st_mtime < SETTLED_S:
            return False
        with lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, removed, or owned by another user
        return False
    return True
