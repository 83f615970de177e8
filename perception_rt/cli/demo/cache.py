"""The cache of rendered drives, in the user's cache folder."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2

from perception_rt.realtime.cores import available_cores
from perception_rt.sim.recording import Course, Recording, create, finish, render
from perception_rt.types import ConfigError

MAX_BYTES = 2 << 30
ABANDONED_S = 3600.0  # an unfinished folder older than this was left by a killed run


def recorded(root: Path, course: Course, step: Callable[[int, int], None]) -> tuple[Path, Recording]:
    """Return the recording of a course; render it if it is missing or damaged.

    Args:
        root: the folder of all recordings; the least recently used ones are removed to stay within MAX_BYTES.
        course: the course to render. step: called with the number of rendered samples and the total.

    Returns:
        The recording's folder, and the recording.

    Raises:
        ConfigError: it would be larger than MAX_BYTES, or than half of the free space.
        OSError: the folder cannot be written.
    """
    folder = root / course.key
    try:
        recording = Recording(folder)
    except ConfigError:
        root.mkdir(parents=True, exist_ok=True)
        make_room(root, course.bytes(), spare=folder)
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        _render(folder, course, step)
        recording = Recording(folder)
    os.utime(folder)  # mark as used
    return folder, recording


def make_room(root: Path, wanted: int, spare: Path) -> None:
    """Remove the least recently used recordings until `wanted` more bytes are within MAX_BYTES."""
    if wanted > MAX_BYTES:
        raise ConfigError(f"a recording of {wanted >> 20} MiB is larger than {MAX_BYTES >> 20} MiB")
    kept = []
    for folder in root.iterdir():
        age_s = time.time() - folder.stat().st_mtime
        if folder.suffix == ".part":
            if age_s > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
        elif folder.is_dir() and folder != spare:
            size = sum(file.stat().st_size for file in folder.iterdir())
            kept.append((age_s, size, folder))
    total = wanted + sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept, reverse=True):
        if total <= MAX_BYTES:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= size
    free = shutil.disk_usage(root).free
    if wanted > free / 2:
        raise ConfigError(f"a recording of {wanted >> 20} MiB needs twice that free, {free >> 20} MiB are")


def _alone() -> None:
    """Set up a rendering process: one thread; the parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _render(folder: Path, course: Course, step: Callable[[int, int], None]) -> None:
    """Render on all cores into a temporary folder, then rename it, so that it is never incomplete."""
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        parts = create(part, course)
        total, done = sum(one.last - one.first for one in parts), 0
        found: dict[bool, list] = {True: [], False: []}
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of this one's threads
        pool = ProcessPoolExecutor(min(available_cores(), len(parts)), context, _alone)
        try:
            step(0, total)
            for one, samples in zip(parts, pool.map(render, parts), strict=True):
                found[one.camera] += samples
                done += one.last - one.first
                step(done, total)
        finally:
            pool.shutdown(cancel_futures=True)
        finish(part, course, found[True], found[False])
        try:
            part.rename(folder)
        except OSError:  # another demo was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
