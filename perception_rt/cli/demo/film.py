"""Write films of a run, and some frames as pictures."""

from __future__ import annotations

from collections.abc import Collection, Generator
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np


class Film:
    """Writes `<name>.mp4` (H.264, plays in browsers) and some of its frames as `<name>_<index>.png`.

    Args:
        folder: existing folder.
        name: of the files.
        rate_hz: frames per second.
        pictures: indices of the frames that become pictures.
    """

    def __init__(self, folder: Path, name: str, rate_hz: float, pictures: Collection[int]) -> None:
        self._folder, self._name = folder, name
        self._rate_hz, self._pictures = rate_hz, pictures
        self._writer: Generator[None, np.ndarray | None, None] | None = None
        self._index = 0

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, picture: np.ndarray) -> None:
        """Add a frame: (H, W, 3) uint8 RGB, of the same size throughout the film."""
        if self._index in self._pictures:
            path = self._folder / f"{self._name}_{self._index:04d}.png"
            cv2.imwrite(str(path), picture[:, :, ::-1])
        self._index += 1
        # H.264 supports even sizes only.
        picture = np.ascontiguousarray(picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2])
        if self._writer is None:
            film, size = str(self._folder / f"{self._name}.mp4"), picture.shape[1::-1]
            self._writer = imageio_ffmpeg.write_frames(
                film, size, fps=self._rate_hz, macro_block_size=2, ffmpeg_log_level="error"
            )
            self._writer.send(None)
        self._writer.send(picture)
