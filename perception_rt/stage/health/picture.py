"""Check the pictures of one camera: repeated, dark, overexposed, blurred, partly covered.

Some bands of rows at full resolution represent the picture: unlike a smaller picture they show its sharpness,
and they are fast to measure. OpenCV is imported on use, as in `stage.fusion.project`.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import NamedTuple

import numpy as np

from perception_rt.stage.health.checks import NEVER, Check, Finding, Limits

BANDS, BAND_ROWS, COLUMNS = 8, 24, 12
"""Bands of rows, their height, px, and tiles that each is divided into."""
SATURATED = 250
NEAR_PX, FAR_PX = 1, 8
QUANTIZATION = 2 / 12
"""Variance of the difference of two rounded values."""
LEAST_CONTRAST = 5.0
"""Mean square difference over `FAR_PX`, below which a picture shows too little to judge its sharpness."""
FLAT, BLACK = 3.0, 16.0
"""Standard deviation and mean of a tile, grey values, below which it is flat, and black."""
BRIGHT_REST = 50.0
"""Mean of the other tiles above which a black part is no unlit night."""
LIT = 32.0
"""Mean of a tile above which it is no night sky: black at the next look, it was covered."""
ACROSS = 0.8
"""Share of the upper edge that a night sky takes at least."""
STILL, MOVING = 1.2, 3.0
"""Mean change of a tile between two looks, below which it is still, and above which the scene moves."""
LUMINOUS = 0.8
"""A flat part brighter than this share of the brightest tiles may be sky."""
UNIFORM = 4.0
"""Standard deviation of the tiles' means below which a part has one colour."""
LAST = 4
"""Pictures that a new one is compared with: a stuck buffer may repeat more than one."""
FINGERPRINT_BYTES = 1 << 16

LIMITS = {
    "repeated": Limits(0.8, 0.8, "the picture repeats", below=False),
    "mean_grey": Limits(10.0, 3.0, "the picture is dark", below=True),
    "saturated": Limits(0.5, 0.5, "the picture is overexposed"),
    "sharpness": Limits(0.03, NEVER, "the picture is blurred", below=True),
    "covered": Limits(0.2, 0.25, "a part of the lens is covered"),
}


class PictureFigures(NamedTuple):
    """Figures of a picture.

    Attributes:
        mean_grey: 0 to 255. saturated: share of channel values at their end.
        sharpness: mean square difference of neighbours over that of pixels `FAR_PX` apart, the greater of
            both directions: above .04 in sharp pictures, at most .025 under a Gaussian blur of sigma 5 px;
            None without enough contrast.
        means, deviations: (BANDS, COLUMNS) of the tiles.
        bands: (BANDS, rows, width) uint8 grey.
    """

    mean_grey: float
    saturated: float
    sharpness: float | None
    means: np.ndarray
    deviations: np.ndarray
    bands: np.ndarray


def fingerprint(data: np.ndarray) -> int:
    """Return a checksum of at most `FINGERPRINT_BYTES` of (N,) uint8, evenly spread."""
    step = max(1, len(data) // FINGERPRINT_BYTES) | 1  # odd, to include every channel
    return zlib.crc32(data[::step].tobytes())


def measure_picture(pixels: np.ndarray) -> PictureFigures:
    """Measure (H, W) or (H, W, 3) uint8 pixels."""
    import cv2

    height, width = pixels.shape[:2]
    rows = max(1, min(BAND_ROWS, height // BANDS))
    tops = [
        min(height - rows, (height * band) // BANDS + max(0, height // BANDS - rows) // 2)
        for band in range(BANDS)
    ]
    bands = np.stack([pixels[top : top + rows] for top in tops])
    saturated = float((bands[:, ::4, ::4] >= SATURATED).mean())
    if bands.ndim == 4:
        bands = cv2.cvtColor(bands.reshape(BANDS * rows, width, 3), cv2.COLOR_RGB2GRAY).reshape(
            BANDS, rows, width
        )
    columns = min(COLUMNS, width)
    used = width // columns * columns
    tiles = bands[:, :, :used].reshape(BANDS, rows, columns, -1).transpose(0, 2, 1, 3)
    tiles = tiles[:, :, ::2, ::2].astype(np.float32)
    means, deviations = tiles.mean((2, 3)), tiles.std((2, 3))
    ratios = [ratio for axis in (1, 2) if (ratio := _sharpness(bands, axis)) is not None]
    return PictureFigures(float(means.mean()), saturated, max(ratios, default=None), means, deviations, bands)


def _sharpness(bands: np.ndarray, axis: int) -> float | None:
    """Return the ratio of differences along an axis; None without contrast."""
    import cv2

    length = bands.shape[axis]
    if length <= FAR_PX:
        return None
    # Every second row or column is enough.
    bands = bands[:, :, ::2] if axis == 1 else bands[:, ::2]
    squares = []
    for lag in (NEAR_PX, FAR_PX):
        first = bands[:, :-lag] if axis == 1 else bands[:, :, :-lag]
        second = bands[:, lag:] if axis == 1 else bands[:, :, lag:]
        difference = cv2.absdiff(np.ascontiguousarray(first), np.ascontiguousarray(second)).ravel()
        squares.append(cv2.norm(difference, cv2.NORM_L2SQR) / len(difference) - QUANTIZATION)
    near, far = squares
    return max(near, 0.0) / far if far > LEAST_CONTRAST else None


class PictureHealth:
    """Checks the pictures of one camera.

    Args:
        sensor: topic. findings: list that faults are added to.
    """

    def __init__(self, sensor: str, findings: list[Finding]) -> None:
        self.checks = {name: Check(sensor, name, limits, findings) for name, limits in LIMITS.items()}
        self._prints: deque[int] = deque(maxlen=LAST)
        self._repeats: deque[bool] = deque(maxlen=LAST)
        self._last: PictureFigures | None = None
        self._flat: np.ndarray | None = None  # tiles at the last measurement
        self._covered: np.ndarray | None = None  # tiles that were covered suddenly
        self._blacked: np.ndarray | None = None  # tiles that were lit before they became black

    def update(self, now_ns: int, mark: int) -> None:
        """Update with the fingerprint of a picture; call it for every picture."""
        if self._prints:
            self._repeats.append(mark in self._prints)
            share = sum(self._repeats) / len(self._repeats)
            self.checks["repeated"].update(now_ns, share if len(self._repeats) >= 3 else None)
        self._prints.append(mark)

    def look(self, now_ns: int, figures: PictureFigures) -> None:
        """Update with the figures of a picture, several times a second."""
        checks = self.checks
        if self._last is not None and self._last.means.shape != figures.means.shape:
            self._last = self._flat = self._covered = self._blacked = None  # the camera's resolution changed
        checks["mean_grey"].update(now_ns, figures.mean_grey)
        checks["saturated"].update(now_ns, figures.saturated)
        checks["sharpness"].update(now_ns, figures.sharpness)
        covered = self._covered_share(figures)
        checks["covered"].update(now_ns, None if figures.mean_grey < LIMITS["mean_grey"].warn else covered)
        self._last = figures

    def reset(self) -> None:
        """Forget the latest pictures after the clock was set back."""
        self._prints.clear()
        self._repeats.clear()
        self._last = self._flat = self._covered = self._blacked = None
        for check in self.checks.values():
            check.clear(0)

    def _covered_share(self, figures: PictureFigures) -> float:
        """Return the largest covered part of the picture, share of the tiles."""
        means, flat = figures.means, figures.deviations < FLAT
        parts = [self._black(means, flat), self._dead(figures, flat), self._lost(means, flat)]
        return max(parts)

    def _black(self, means: np.ndarray, flat: np.ndarray) -> float:
        """Return the black part of a picture that is otherwise bright."""
        black = flat & (means < BLACK)
        lit = np.zeros_like(black) if self._last is None else self._last.means > LIT
        if (black & lit).mean() < LIMITS["covered"].warn / 2:
            lit = np.zeros_like(black)  # a lamp that passed
        self._blacked = black & (lit if self._blacked is None else lit | self._blacked)
        if black.all() or not black.any() or means[~black].mean() < BRIGHT_REST:
            return 0.0
        part = _largest(black)
        # Over a lit street the night sky is as black as a cover, but it comes slowly.
        sky = part[0].mean() >= ACROSS and (part & self._blacked).mean() < LIMITS["covered"].warn
        return 0.0 if sky else part.mean()

    def _dead(self, figures: PictureFigures, flat: np.ndarray) -> float:
        """Return the flat part that is not bright and stays unchanged while the scene changes."""
        last = self._last
        if last is None or last.bands.shape != figures.bands.shape or not flat.any():
            return 0.0
        step = (
            4 if figures.bands.shape[2] >= 4 * flat.shape[1] else 1
        )  # a small picture has one pixel per tile
        now, before = (one.bands[:, ::step, ::step].copy() for one in (figures, last))
        change = _tile_means(np.maximum(now, before) - np.minimum(now, before))
        if flat.all() or np.median(change[~flat]) < MOVING:
            return 0.0
        dim = figures.means < LUMINOUS * np.percentile(figures.means, 95)
        black = flat & (figures.means < BLACK)
        if figures.means[~black].mean() < BRIGHT_REST:
            # At night the sky is as black and still as a cover, but a cover of the lit road comes at once;
            # what comes at once along the upper edge is the sky after a lit tunnel.
            came = self._blacked
            assert came is not None  # set by `_black`
            dim &= ~black if came[0].mean() >= ACROSS else ~black | came
        return _largest(flat & dim & (change < STILL)).mean()

    def _lost(self, means: np.ndarray, flat: np.ndarray) -> float:
        """Return the part that suddenly became flat and uniform, as long as it stays flat."""
        if self._covered is not None:
            self._covered &= flat
            if self._covered.mean() < LIMITS["covered"].warn / 2:
                self._covered = None
        if self._covered is None and self._flat is not None:
            part = _largest(flat & ~self._flat)
            # The scene after a passing truck, or an open scene, is not uniform.
            if part.mean() >= LIMITS["covered"].warn and means[part].std() < UNIFORM and not flat.all():
                dim = means[part].mean() < LUMINOUS * np.percentile(means, 95)
                self._covered = part if dim else None
        self._flat = flat
        return 0.0 if self._covered is None else float(self._covered.mean())


def _tile_means(bands: np.ndarray) -> np.ndarray:
    """Return (BANDS, COLUMNS) means of bands."""
    columns = min(COLUMNS, bands.shape[2])
    used = bands.shape[2] // columns * columns
    return bands[:, :, :used].reshape(BANDS, bands.shape[1], columns, -1).mean((1, 3), dtype=np.float32)


def _largest(tiles: np.ndarray) -> np.ndarray:
    """Return the largest connected part of (R, C) bool tiles."""
    if not tiles.any():
        return tiles
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(tiles.astype(np.uint8), connectivity=4)
    return labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
