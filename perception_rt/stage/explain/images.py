"""Heat maps of images by perturbation, for any engine: RISE in a window around the detection."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from perception_rt.stage.explain.check import OcclusionCheck, check_parts, strongest
from perception_rt.stage.explain.probe import Probe, Target

CELLS = 10  # of the window, each way
KEPT = 0.5  # part of the cells that a mask keeps
WINDOW = 3.0  # sides of the window by those of the box
MIN_WINDOW = 0.15  # of the image's shorter side
PARTS = 20  # random ones of the check, and as many near the detection
REGION = 0.3  # size of the checked part, by the area of the detection
MAX_REGION = 0.1  # of the image


def window_of(target: Target, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of an image of (height, width) in which pixels are perturbed."""
    height, width = size
    x1, y1, x2, y2 = target.box.astype(np.float64)
    least = MIN_WINDOW * min(size)
    if target.region is not None:
        return slice(0, height), slice(0, width)
    half_w, half_h = max((x2 - x1) * WINDOW, least) / 2, max((y2 - y1) * WINDOW, least) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    rows = slice(int(max(y - half_h, 0)), int(min(np.ceil(y + half_h), height)))
    columns = slice(int(max(x - half_w, 0)), int(min(np.ceil(x + half_w), width)))
    return rows, columns


def blurred(image: np.ndarray, target: Target) -> np.ndarray:
    """Return the (H, W, 3) image without details of the detection's size, which replaces removed parts."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = target.box
    sigma = float(np.clip(max(x2 - x1, y2 - y1) / 2, min(height, width) / 40, max(height, width) / 4))
    size = max(2, round(width / sigma)), max(2, round(height / sigma))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def rise(
    probe: Probe, target: Target, calls: int, seed: int = 0, on_call: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Return the contribution of each pixel to a detection, by random masks (RISE, Petsiuk et al., 2018).

    Smooth random masks keep about half of a window around the detection; the rest is blurred. A pixel's value
    is the slope of what is left of the detection over its mask.

    Args:
        probe: of the image.
        target: the detection.
        calls: number of masks; more of them give less noise.
        seed: of the masks.
        on_call: called after each.

    Returns:
        (H, W) float32, 0 outside of the window; negative where a pixel weakens the detection.
    """
    image = probe.data[0]
    rows, columns = window_of(target, image.shape[:2])
    plain = image[rows, columns].astype(np.float32)
    soft = blurred(image, target)[rows, columns].astype(np.float32)
    shape = plain.shape[:2]
    rng = np.random.default_rng(seed)
    sums, squares, products = (np.zeros(shape) for _ in range(3))
    total = 0.0
    changed = image.copy()
    for _ in range(calls):
        mask = _mask(rng, shape)
        mixed = soft + mask[..., None] * (plain - soft)
        changed[rows, columns] = (mixed + 0.5).astype(np.uint8)
        left = probe.left(target, changed[None])
        sums += mask
        squares += mask * mask
        products += left * mask
        total += left
        on_call()
    covariance = products / calls - sums / calls * (total / calls)
    variance = np.maximum(squares / calls - (sums / calls) ** 2, 1e-6)
    heat = np.zeros(image.shape[:2], np.float32)
    heat[rows, columns] = covariance / variance
    return heat


def _mask(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return (h, w) float32 in [0, 1]: a coarse random grid, enlarged smoothly and shifted."""
    cells = (rng.random((CELLS + 1, CELLS + 1)) < KEPT).astype(np.float32)
    step = [-(-side // CELLS) for side in shape]
    whole = cv2.resize(cells, (step[1] * (CELLS + 1), step[0] * (CELLS + 1)), interpolation=cv2.INTER_LINEAR)
    top, left = rng.integers(0, step[0]), rng.integers(0, step[1])
    return whole[top : top + shape[0], left : left + shape[1]]


def occlusion_check(probe: Probe, target: Target, heat: np.ndarray, seed: int = 0) -> OcclusionCheck:
    """Check whether the pixels that a heat map marks matter more than others; see `OcclusionCheck`.

    Args:
        probe: of the image.
        target: the detection.
        heat: (H, W).
        seed: of the random places.
    """
    image = probe.data[0]
    x1, y1, x2, y2 = target.box
    area = float(target.region.sum()) if target.region is not None else float((x2 - x1) * (y2 - y1))
    count = int(np.clip(REGION * area, 16, MAX_REGION * heat.size))
    marked = strongest(heat, count)
    soft, before = blurred(image, target), probe.left(target, probe.data)

    def lost(mask: np.ndarray) -> float:
        changed = np.where(mask[..., None], soft, image)
        return (before - probe.left(target, changed[None])) / max(before, 1e-9)

    rng = np.random.default_rng(seed)
    rows, columns = window_of(target, image.shape[:2])
    whole = slice(0, image.shape[0]), slice(0, image.shape[1])
    random = (_moved(marked, rng, *whole) for _ in range(PARTS))
    near = (_moved(marked, rng, rows, columns) for _ in range(PARTS if target.region is None else 0))
    return check_parts(lost, marked, random, near)


def _moved(mask: np.ndarray, rng: np.random.Generator, rows: slice, columns: slice) -> np.ndarray:
    """Return the mask at a random place with its centre within rows and columns; it wraps around."""
    y, x = (int(np.mean(found)) for found in np.nonzero(mask))
    to = rng.integers(rows.start, rows.stop) - y, rng.integers(columns.start, columns.stop) - x
    return np.roll(mask, to, (0, 1))
