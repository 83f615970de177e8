"""Random augmentation of pictures with torchvision.transforms.v2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from perception_rt.types import ConfigError

GREY = 114  # of filled areas
AUGMENTATIONS: dict[str, Callable[[], v2.Transform]] = {
    "flip": v2.RandomHorizontalFlip,
    "colour": lambda: v2.RandomPhotometricDistort(hue=(-0.02, 0.02)),
    "blur": lambda: v2.RandomApply([v2.GaussianBlur(5, (0.3, 2.0))], 0.2),
    "turn": lambda: v2.RandomAffine(degrees=5.0),
    "zoom": lambda: v2.RandomZoomOut(fill=GREY, side_range=(1.0, 2.0)),
    "crop": v2.RandomIoUCrop,
}
NONE = "none"
LEAST_SIDE = 2.0  # px of a box after augmentation


def transform_of(names: Sequence[str]) -> v2.Transform:
    """Return the named augmentations in this order, for a picture with boxes.

    Raises:
        ConfigError: a name is unknown.
    """
    chosen = [name for name in names if name != NONE]
    for name in chosen:
        if name not in AUGMENTATIONS:
            raise ConfigError(f"--augment={name}: must be of {', '.join((*AUGMENTATIONS, NONE))}")
    parts: list[Any] = [AUGMENTATIONS[name]() for name in chosen]
    return v2.Compose([*parts, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=LEAST_SIDE)])


def augmented(
    transform: v2.Transform, image: np.ndarray, boxes: Tensor, labels: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return an augmented picture with the boxes that are still visible.

    Args:
        transform: of `transform_of`.
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy, px.
        labels: (N,) int64.
        rng: random generator.

    Returns:
        image (3, h, w) uint8, boxes (n, 4) float32, labels (n,) int64.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(1 << 62)))
        placed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[:2])
        data = {
            "image": tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            "boxes": placed,
            "labels": labels,
        }
        data = transform(data)
    varied, kept = (data[key].as_subclass(Tensor) for key in ("image", "boxes"))
    return varied, kept.float(), data["labels"]
