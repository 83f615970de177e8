"""Pictures and films of a run: every frame with what was found in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np

from perception_rt.stage.draw import draw_detections
from perception_rt.types import CameraFrame, Detections2D


def write_film(
    folder: Path,
    name: str,
    frames: Iterable[CameraFrame],
    detections: Mapping[int, Detections2D],
    classes: Sequence[str],
    rate_hz: float,
    pictures: Sequence[int],
    least_score: float = 0.0,
) -> None:
    """Write `<name>.mp4` (H.264, plays in browsers) and some frames as `<name>_<index>.png`.

    A frame that was not answered is marked, not left out.

    Args:
        folder: exists.
        frames: in order; one size.
        detections: by stamp, ns.
        classes: names by label.
        rate_hz: frames a second of the film.
        pictures: indices of the frames that become pictures.
        least_score: detections below it are not drawn.
    """
    film = None
    try:
        for index, frame in enumerate(frames):
            found = detections.get(frame.stamp_ns)
            picture = annotate(frame, None if found is None else found[found.scores >= least_score], classes)
            if index in pictures:
                cv2.imwrite(str(folder / f"{name}_{index:04d}.png"), picture[:, :, ::-1])
            # H.264 takes even sizes only.
            picture = np.ascontiguousarray(picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2])
            if film is None:
                film = imageio_ffmpeg.write_frames(
                    str(folder / f"{name}.mp4"), picture.shape[1::-1], fps=rate_hz, macro_block_size=2
                )
                film.send(None)
            film.send(picture)
    finally:
        if film is not None:
            film.close()


def annotate(frame: CameraFrame, detections: Detections2D | None, classes: Sequence[str]) -> np.ndarray:
    """The frame as RGB with its boxes, or with a note where it was not answered."""
    pixels = frame.pixels[:, :, ::-1] if frame.bgr else frame.pixels
    if detections is not None:
        return draw_detections(pixels, detections, classes)
    picture = np.ascontiguousarray(pixels).copy()
    cv2.putText(
        picture, "not answered", (10, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 60, 60), 2, cv2.LINE_AA
    )
    return picture
