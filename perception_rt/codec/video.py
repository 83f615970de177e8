"""Videos, image folders, webcams and network cameras as timed frames, read by OpenCV."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from perception_rt.types import ConfigError
from perception_rt.types.folders import is_hidden

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))

_LIVE_NS, _LIVE_FRAMES = 10**9, 100  # looked at of a live source to learn its rate
_TIMEOUT_MS = 5000  # of a network camera


class VideoFrame(NamedTuple):
    """A picture of a video.

    Attributes:
        time_ns: since the first frame, ns; strictly rising. pixels: (H, W, 3) uint8 BGR.
    """

    time_ns: int
    pixels: np.ndarray


class VideoSize(NamedTuple):
    """How many frames, how many a second, and of which width and height, px."""

    frames: int
    rate_hz: float
    width: int
    height: int


def is_live(source: str) -> bool:
    """Whether a source is a webcam (its number or `/dev/video<number>`) or a stream (`rtsp://`, `http://`)."""
    webcam = source.isdecimal() and not Path(source).exists()
    return webcam or source.startswith("/dev/video") or "://" in source


def check_source(source: str) -> None:
    """Refuse what is not there; opens nothing.

    Raises:
        ConfigError: no such file, folder or device, or a device that may not be read.
    """
    if "://" in source:
        return
    if not is_live(source):
        if not source or not Path(source).exists():
            raise ConfigError(f"video={source!r}: no such file, folder or device")
        return
    device = Path(f"/dev/video{source}" if source.isdecimal() else source)
    if sys.platform == "linux" and not device.exists():
        there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))) or "none"
        there += " (a container needs `docker run --device`)" if Path("/.dockerenv").exists() else ""
        raise ConfigError(f"video={source!r}: no such device; cameras of this machine: {there}")
    if sys.platform == "linux" and not os.access(device, os.R_OK | os.W_OK):
        raise ConfigError(f"video={source!r}: no permission (is the user in the group `video`?)")


def read_video(source: str, rate_hz: float = 0.0) -> Iterator[VideoFrame]:
    """Yield the frames of a source, one at a time.

    Args:
        source: a video file, a folder of images (in the order of their names), or what `is_live` takes.
        rate_hz: of a folder, and of a file instead of its own stamps; 0: of a file, its stamps; of a folder,
            10 Hz. A live source's frames have the time at which they were read.

    Raises:
        ConfigError: a source that does not exist, or in which no picture can be decoded.
    """
    check_source(source)
    if Path(source).is_dir():
        return _folder(Path(source), rate_hz or 10.0)
    return _capture(source, rate_hz)


def measure_video(source: str) -> VideoSize:
    """Decode a video once, as containers are often wrong about themselves; of a live source, a second.

    Raises:
        ConfigError: it cannot be read, or its frames differ in size.
    """
    count, last_ns, size = 0, 0, (0, 0)
    frames = read_video(source)
    if is_live(source):
        frames = islice(takewhile(lambda frame: frame.time_ns < _LIVE_NS, frames), _LIVE_FRAMES)
    for frame in frames:
        height, width, _ = frame.pixels.shape
        if count and (width, height) != size:
            raise ConfigError(
                f"video={source!r}: frame {count} is {width}x{height}, those before are {size[0]}x{size[1]}"
            )
        count, last_ns, size = count + 1, frame.time_ns, (width, height)
    return VideoSize(count, (count - 1) / last_ns * 1e9 if last_ns else 1.0, *size)


def _folder(folder: Path, rate_hz: float) -> Iterator[VideoFrame]:
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path, folder)
    ]
    if not files:
        raise ConfigError(f"video={str(folder)!r}: no image in this folder")
    for number, path in enumerate(files):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ConfigError(f"video={str(path)!r}: cannot be decoded")
        yield VideoFrame(round(number * 1e9 / rate_hz), pixels)


def _capture(source: str, rate_hz: float) -> Iterator[VideoFrame]:
    live = is_live(source)
    capture = _opened(source)
    try:
        period_ns = round(1e9 / (rate_hz or capture.get(cv2.CAP_PROP_FPS) or 30.0))
        began_ns, last_ns, number = -1, -1, 0
        while True:
            good, pixels = capture.read()
            if not good:
                break
            if live:
                now_ns = time.monotonic_ns()
                began_ns = now_ns if began_ns < 0 else began_ns
                time_ns = now_ns - began_ns
            else:
                stamp_ms = 0.0 if rate_hz else capture.get(cv2.CAP_PROP_POS_MSEC)
                time_ns = round(stamp_ms * 1e6) if stamp_ms > 0 else number * period_ns
            # Some containers repeat a stamp or leave it out.
            last_ns = time_ns if time_ns > last_ns else last_ns + period_ns
            yield VideoFrame(last_ns, pixels)
            number += 1
        if not number:
            reason = "; does another program use it, or is it no camera?" if live else ""
            raise ConfigError(f"video={source!r}: no picture can be decoded{reason}")
    finally:
        capture.release()


def _opened(source: str) -> cv2.VideoCapture:
    """Return the opened source; the caller's error replaces OpenCV's output on the terminal."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        if "://" in source:
            os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
            limits = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                _TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                _TIMEOUT_MS,
            ]
            return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        if is_live(source):
            backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
            return cv2.VideoCapture(int(source) if source.isdecimal() else source, backend)
        return cv2.VideoCapture(source)
    finally:
        cv2.utils.logging.setLogLevel(level)
