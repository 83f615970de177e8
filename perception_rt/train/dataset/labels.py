"""Labelled pictures and clouds, and errors in labels."""

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
from perception_rt.types.folders import is_hidden

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MAX_LABELS = 1 << 30  # bytes of a file of labels
MAX_SIDE = 16384  # px
SHOWN = 30  # maximum number of problems that are listed
OVERHANG_PX = 2.0  # by which a box may exceed the picture, as tools round
TURNED = (5, 6, 7, 8)  # orientations in EXIF that swap width and height
ORIENTATION = 0x0112
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

Line = int | Callable[[], int] | None
"""Of a file, from 1; or what finds it, which may take long. None where the file has no lines."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """A labelled picture or cloud.

    Attributes:
        path: of the picture, or of the cloud if `solid` is not None.
        names: (N) class names.
        xyxy: (N, 4) float32, px.
        ignored: (N,) bool, not scored.
        regions: (R, 4) float32 xyxy, px: unlabelled regions.
        solid: (N, 7) float32 xyzlwh_yaw in the frame of the cloud; None for pictures.
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
        """Return the frame with a part of its objects."""
        return replace(
            self,
            names=tuple(name for name, keep in zip(self.names, kept, strict=True) if keep),
            xyxy=self.xyxy[kept],
            ignored=self.ignored[kept],
            solid=None if self.solid is None else self.solid[kept],
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """The content of a data set.

    Attributes:
        form: of the labels, for messages.
        declared: the class names that it lists, in order; empty if it lists none.
        frames: for training. validation: its own validation frames; may be empty.
    """

    form: str
    declared: tuple[str, ...]
    frames: list[LabelledFrame]
    validation: list[LabelledFrame]


class Problems:
    """Errors in labels, each with its file and line.

    Args:
        source: the data set, for the message.
        mend: whether to clip boxes to the picture and to leave out invalid labels; otherwise they are errors.
    """

    def __init__(self, source: object, mend: bool = False) -> None:
        self.source, self.mend, self.count = source, mend, 0
        self.lines: list[str] = []

    def add(self, file: Path, line: Line, text: str) -> None:
        """Add a problem."""
        self.count += 1
        if len(self.lines) < SHOWN:
            line = line() if callable(line) else line
            self.lines.append(f"{file}{'' if line is None else f':{line}'}: {text}")

    def listed(self) -> str:
        """Return the problems, one per line, and the number of further ones."""
        more = self.count - len(self.lines)
        return "\n".join(["", *self.lines, *([f"... {more} more"] if more else [])]).replace("\n", "\n  ")

    def check(self) -> None:
        """Raise an error if there are problems, unless `mend` is set.

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
        """Return a box clipped to its picture; None if it is invalid.

        Args:
            xyxy: px.
            size: (width, height) of the picture.
            file, line: position of the label.
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
    """Return the text of a label file.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > MAX_LABELS:
            raise ConfigError(f"{path}: over {MAX_LABELS} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def size_of(path: Path, problems: Problems, file: Path, line: Line = None) -> tuple[int, int] | None:
    """Return (width, height) of a picture as displayed; None with a problem at `file` and `line`."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # A PNG without EXIF data before its pixels would be decoded completely for this.
            stated = image.format != "PNG" or "exif" in image.info
            turned = stated and image.getexif().get(ORIENTATION) in TURNED
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
    """Decode every picture once, and return the frames whose picture is intact."""
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
            form = image.format
    except PICTURE_ERRORS as error:
        return f"cannot be decoded: {error}"
    # Training reads with OpenCV, which knows fewer kinds of the other formats.
    if form not in ("JPEG", "PNG") and cv2.imread(str(path), cv2.IMREAD_COLOR) is None:
        return f"cannot be decoded by OpenCV: make it a PNG or JPEG (it is {form})"
    return None


def read_picture(path: Path) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, rotated by the EXIF orientation.

    Raises:
        ConfigError: it cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigError(f"{path}: cannot be read; it was there before the training began")
    return np.ascontiguousarray(image[:, :, ::-1])


def pictures_in(folder: Path) -> Iterator[Path]:
    """Yield the pictures below a folder, by name; copies of tools are left out, see `is_hidden`."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not is_hidden(path, folder):
            yield path


def objects(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Return (N, 4) float32 from N boxes."""
    return np.array(boxes, np.float32).reshape(-1, 4)
