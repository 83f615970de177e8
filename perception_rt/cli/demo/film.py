"""Write films of a run, and some frames as pictures."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np


class Film:
    """Writes `<name>.mp4` (H.264, plays in browsers) and some of its frames as `<name>_<index>.png`.

    Of each of `pictures` equal parts of the film, the frame with the most objects becomes a picture; of equal
    ones, that nearest to the middle of the part.

    Args:
        folder: existing folder.
        name: of the files.
        rate_hz: frames per second.
        frames: expected number of frames.
        pictures: number of pictures.
    """

    def __init__(self, folder: Path, name: str, rate_hz: float, frames: int, pictures: int) -> None:
        self._folder, self._name, self._rate_hz = folder, name, rate_hz
        self._frames, self._pictures = max(frames, 1), min(pictures, max(frames, 1))
        self._writer: Generator[None, np.ndarray | None, None] | None = None
        self._index = self._part = 0
        self._best: tuple[tuple[int, float], int, np.ndarray] | None = None

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_picture()
        if self._writer is not None:
            self._writer.close()

    def add(self, picture: np.ndarray, objects: int = 0) -> None:
        """Add a frame.

        Args:
            picture: (H, W, 3) uint8 RGB, of the same size throughout the film.
            objects: how many are drawn in it.
        """
        part = min(self._index * self._pictures // self._frames, self._pictures - 1)
        if part != self._part:
            self._write_picture()
            self._part = part
        middle = (part + 0.5) * self._frames / self._pictures
        value = objects, -abs(self._index - middle)
        if self._best is None or value > self._best[0]:
            self._best = value, self._index, picture
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

    def _write_picture(self) -> None:
        """Write the best frame of the part that ends."""
        if self._best is not None:
            _, index, picture = self._best
            cv2.imwrite(str(self._folder / f"{self._name}_{index:04d}.png"), picture[:, :, ::-1])
            self._best = None
