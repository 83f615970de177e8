"""Labelled pictures and clouds, and what is wrong with them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from perception_rt.replay.score.labels import IMAGE_SIZE
from perception_rt.types import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MAX_LABELS = 1 << 30  # bytes of a file of labels
MAX_SIDE = 16384  # px
SHOWN = 30  # problems that are listed; the rest is counted
OVERHANG_PX = 2.0  # by which a box may reach beyond the picture: tools round
TURNED = (5, 6, 7, 8)  # orientations in EXIF that swap width and height
ORIENTATION = 0x0112
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

Line = int | Callable[[], int] | None
"""Of a file, from 1; or what finds it, which may take long. None where the file has no lines."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """A picture, or a cloud, and what is in it.

    Attributes:
        path: of the picture; of the cloud where `solid` is not None.
        names: (N) class names.
        xyxy: (N, 4) float32, px.
        ignored: (N,) bool: need not be found.
        regions: (R, 4) float32 xyxy, px: whatever is there, is not labelled.
        solid: (N, 7) float32 xyzlwh_yaw in the frame of the cloud; None of pictures.
        calibration: file of the camera in whose view the cloud is labelled; None for all of it.
        view: (width, height) of that camera's pictures, px.
    """

    path: Path
    names: tuple[str, ...]
    xyxy: np.ndarray
    ignored: np.ndarray
    regions: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    solid: np.ndarray | None = None
    calibration: Path | None = None
    view: tuple[int, int] = IMAGE_SIZE

    def __len__(self) -> int:
        return len(self.names)

    def only(self, kept: np.ndarray) -> LabelledFrame:
        """The same with some of its objects."""
        return replace(
            self,
            names=tuple(name for name, keep in zip(self.names, kept, strict=True) if keep),
            xyxy=self.xyxy[kept],
            ignored=self.ignored[kept],
            solid=None if self.solid is None else self.solid[kept],
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a folder holds.

    Attributes:
        form: of the labels, for messages.
        declared: the class names that it lists, in order; empty where it lists none.
        frames: to learn from. validation: those that it sets apart; empty for none.
    """

    form: str
    declared: tuple[str, ...]
    frames: list[LabelledFrame]
    validation: list[LabelledFrame]


class Problems:
    """Labels that do not fit, each with its file and line.

    Args:
        source: what is read, for the message.
        mend: whether boxes are cut at the picture's edge, and what does not fit is left out; else it is
            refused.
    """

    def __init__(self, source: object, mend: bool = False) -> None:
        self.source, self.mend, self.count = source, mend, 0
        self.lines: list[str] = []

    def add(self, file: Path, line: Line, text: str) -> None:
        """Note a problem."""
        self.count += 1
        if len(self.lines) < SHOWN:
            line = line() if callable(line) else line
            self.lines.append(f"{file}{'' if line is None else f':{line}'}: {text}")

    def listed(self) -> str:
        """All, one a line; the last ones only counted."""
        more = self.count - len(self.lines)
        return "\n".join(["", *self.lines, *([f"... {more} more"] if more else [])]).replace("\n", "\n  ")

    def check(self) -> None:
        """Refuse the data where anything does not fit and is not to be mended.

        Raises:
            ConfigError: lists the problems.
        """
        if self.count and not self.mend:
            raise ConfigError(
                f"--data={self.source}: {self.count} labels do not fit (--mend cuts boxes at the edge and "
                f"leaves the rest out):{self.listed()}"
            )

    def box(
        self, xyxy: Sequence[float] | np.ndarray, size: tuple[int, int], file: Path, line: Line
    ) -> list[float] | None:
        """A box cut at the edges of its picture; None where it cannot be used.

        Args:
            xyxy: px.
            size: (width, height) of the picture.
            file, line: where it stands.
        """
        box, (width, height) = np.asarray(xyxy, np.float64), size
        shown = " ".join(f"{value:g}" for value in box)
        if not np.isfinite(box).all():
            self.add(file, line, f"box {shown}: must be finite")
            return None
        if box[2] <= box[0] or box[3] <= box[1]:
            self.add(file, line, f"box {shown}: has no area")
            return None
        cut = np.clip(box, 0, [width, height, width, height])
        if (np.abs(cut - box) > OVERHANG_PX).any():
            self.add(file, line, f"box {shown}: reaches outside of the picture ({width}x{height})")
        if (cut[2:] - cut[:2] < 1e-3).any():
            if (np.abs(cut - box) <= OVERHANG_PX).all():
                self.add(file, line, f"box {shown}: lies outside of the picture ({width}x{height})")
            return None
        return cut.tolist()


def text_of(path: Path) -> str:
    """The text of a file of labels.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > MAX_LABELS:
            raise ConfigError(f"{path}: over {MAX_LABELS} bytes")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def size_of(path: Path, problems: Problems, file: Path, line: Line = None) -> tuple[int, int] | None:
    """(width, height) of a picture as it is shown; None where it is none, which `file` and `line` ask for."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Of a PNG this would decode it all.
            turned = image.format != "PNG" and image.getexif().get(ORIENTATION) in TURNED
    except FileNotFoundError:
        problems.add(file, line, f"picture {path}: is missing")
        return None
    except PICTURE_ERRORS as error:
        problems.add(file, line, f"picture {path}: cannot be read: {error}")
        return None
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        problems.add(file, line, f"picture {path}: {width}x{height} px: at most {MAX_SIDE}")
        return None
    return (height, width) if turned else (width, height)


def decode_all(
    frames: Sequence[LabelledFrame], problems: Problems, on_frame: Callable[[], None]
) -> list[LabelledFrame]:
    """Decode every picture once; return the frames whose picture is whole."""
    whole = []
    with ThreadPoolExecutor() as pool:
        for frame, why in zip(frames, pool.map(_damage, (frame.path for frame in frames)), strict=True):
            if why is None:
                whole.append(frame)
            else:
                problems.add(frame.path, None, why)
            on_frame()
    return whole


def _damage(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
    except PICTURE_ERRORS as error:
        return f"cannot be decoded: {error}"
    return None


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as its EXIF says.

    Raises:
        ConfigError: it cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigError(f"{path}: cannot be read; it was there before the training began")
    return np.ascontiguousarray(image[:, :, ::-1])


def pictures_in(folder: Path) -> Iterator[Path]:
    """The pictures below a folder, by name."""
    yield from (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)


def objects(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, 4) float32 from N boxes."""
    return np.array(boxes, np.float32).reshape(-1, 4)
