"""Videos, image folders and webcams as timed frames, read by OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from perception_rt.types import ConfigError

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))


class VideoFrame(NamedTuple):
    """A picture of a video.

    Attributes:
        time_ns: since the first frame, ns; strictly rising. pixels: (H, W, 3) uint8 BGR.
    """

    time_ns: int
    pixels: np.ndarray


def read_video(source: str, rate_hz: float = 0.0) -> Iterator[VideoFrame]:
    """Yield the frames of a source, one at a time.

    Args:
        source: a video file, a folder of images (in the order of their names), or a webcam: its number or
            `/dev/video<number>`.
        rate_hz: of a folder, and of a file instead of its own stamps; 0: of a file, its stamps; of a folder,
            10 Hz. A webcam's frames have the time at which they were read.

    Raises:
        ConfigError: a source that does not exist, or in which no picture can be decoded.
    """
    path = Path(source)
    if path.is_dir():
        frames = _folder(path, rate_hz or 10.0)
    elif source.isdecimal() or source.startswith("/dev/video"):
        frames = _capture(source, int(source) if source.isdecimal() else source, 0.0, live=True)
    elif path.is_file():
        frames = _capture(source, source, rate_hz, live=False)
    else:
        raise ConfigError(f"video={source!r}: no such file, folder or device")
    return frames


def _folder(folder: Path, rate_hz: float) -> Iterator[VideoFrame]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ConfigError(f"video={str(folder)!r}: no image in this folder")
    for number, path in enumerate(files):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ConfigError(f"video={str(path)!r}: cannot be decoded")
        yield VideoFrame(round(number * 1e9 / rate_hz), pixels)


def _capture(source: str, device: int | str, rate_hz: float, live: bool) -> Iterator[VideoFrame]:
    capture = cv2.VideoCapture(device)
    try:
        period_ns = round(1e9 / (rate_hz or capture.get(cv2.CAP_PROP_FPS) or 30.0))
        began_ns, last_ns, number = time.monotonic_ns(), -1, 0
        while True:
            good, pixels = capture.read()
            if not good:
                break
            if live:
                time_ns = time.monotonic_ns() - began_ns
            else:
                stamp_ms = 0.0 if rate_hz else capture.get(cv2.CAP_PROP_POS_MSEC)
                time_ns = round(stamp_ms * 1e6) if stamp_ms > 0 else number * period_ns
            # Some containers repeat a stamp or leave it out.
            last_ns = time_ns if time_ns > last_ns else last_ns + period_ns
            yield VideoFrame(last_ns, pixels)
            number += 1
        if not number:
            raise ConfigError(f"video={source!r}: no picture can be decoded")
    finally:
        capture.release()
