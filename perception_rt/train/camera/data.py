"""Simulated pictures to learn from: rendered once, then cropped and varied for every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from perception_rt.sim.drive import Drive, DriveSample
from perception_rt.train.camera.network import INPUT_SIZE
from perception_rt.train.drives import moments, over_drives

FRAMES_PER_DRIVE = 12
CROP = (288, 512)  # height, width: a quarter of the pixels, around something
ZOOM = 0.22  # of the logarithm of a window's size
BLANK = 0.04  # share of windows of one dark or bright colour: a covered or blinded camera sees nothing

Vary = Callable[[np.ndarray, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""A window (h, w, 3) uint8, its boxes and labels, to what is learned from: (3, h, w) uint8, boxes, labels."""


@dataclass(frozen=True)
class Frames:
    """Frames at the network's size.

    Attributes:
        images: (F, H, W, 3) uint8 RGB; or F of them, of any sizes that hold a window.
        boxes: F tensors (n, 4) float32, xyxy in px of `images`.
        labels: F tensors (n,) int64.
    """

    images: np.ndarray | list[np.ndarray]
    boxes: list[Tensor]
    labels: list[Tensor]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageBatch:
    """Images of one training step and their truth, flat over the batch.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1].
        boxes: (G, 4) float32 xyxy in px of `images`.
        labels: (G,) int64.
        image: (G,) int64, which image a truth is in.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    image: Tensor

    def to(self, device: torch.device) -> ImageBatch:
        """The same batch on a device."""
        return ImageBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def drive_samples(seed: int, count: int) -> list[DriveSample]:
    """`count` samples of one drive, spread over its first minute at times that the seed decides."""
    drive = Drive(seed, INPUT_SIZE)
    return [drive.sample(t) for t in moments(seed, count)]


def _render_drive(seed: int, count: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    samples = drive_samples(seed, count)
    return (
        np.stack([s.image for s in samples]),
        [s.truth.xyxy for s in samples],
        [s.truth.labels for s in samples],
    )


def render(
    seeds: Sequence[int],
    per_drive: int = FRAMES_PER_DRIVE,
    workers: int | None = None,
    on_drive: Callable[[], None] = lambda: None,
) -> Frames:
    """Render drives into memory, 1.6 MB a frame.

    Args:
        seeds: of the drives.
        per_drive: frames of each.
        workers: processes; None for one a core, 0 to render in this one.
        on_drive: called after each drive.
    """
    width, height = INPUT_SIZE
    images = np.empty((len(seeds), per_drive, height, width, 3), np.uint8)
    boxes, labels = [], []
    made = over_drives(_render_drive, seeds, [per_drive] * len(seeds), workers)
    for row, drive in zip(images, made, strict=True):
        row[:] = drive[0]
        boxes += [torch.from_numpy(b) for b in drive[1]]
        labels += [torch.from_numpy(b) for b in drive[2]]
        on_drive()
    return Frames(images.reshape(-1, height, width, 3), boxes, labels)


def draw_batch(
    frames: Frames, index: Sequence[int], rng: np.random.Generator, vary: Vary | None = None
) -> ImageBatch:
    """A window of each frame of `index`, zoomed at random.

    Args:
        frames: what is drawn from.
        index: of the frames.
        rng: decides what is random.
        vary: what else is done to each window and its boxes; None recolours and mirrors it.
    """
    images, boxes, labels = [], [], []
    for i in index:
        window, box, keep = _window(frames.images[i], frames.boxes[i], frames.labels[i], rng)
        image, box, label = (vary or partial(_varied, rng=rng))(window, box[keep], frames.labels[i][keep])
        images.append(image)
        boxes.append(box)
        labels.append(label)
    counts = torch.tensor([len(b) for b in boxes])
    return ImageBatch(
        torch.stack(images).float().mul_(1.0 / 255.0),
        torch.cat(boxes),
        torch.cat(labels),
        torch.arange(len(index)).repeat_interleave(counts),
    )


def _varied(
    window: np.ndarray, boxes: Tensor, labels: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    if rng.random() < BLANK:
        blank = np.clip(rng.choice((0, 255)) + rng.normal(0, 15, 3), 0, 255).astype(np.uint8)
        return torch.from_numpy(np.full_like(window, blank)).permute(2, 0, 1), boxes[:0], labels[:0]
    window = cv2.LUT(window, _recolouring(rng))
    if rng.random() < 0.5:
        window = np.ascontiguousarray(window[:, ::-1])
        boxes = torch.stack((CROP[1] - boxes[:, 2], boxes[:, 1], CROP[1] - boxes[:, 0], boxes[:, 3]), 1)
    return torch.from_numpy(window).permute(2, 0, 1), boxes, labels


def _recolouring(rng: np.random.Generator) -> np.ndarray:
    """(256, 1, 3) uint8: each channel's contrast, and the brightness, changed a little."""
    contrast, brightness = rng.uniform(0.8, 1.2, 3), rng.uniform(-25, 25)
    table = (np.arange(256.0)[:, None] - 128) * contrast + 128 + brightness
    return np.clip(np.rint(table), 0, 255).astype(np.uint8)[:, None]


def _window(
    image: np.ndarray, boxes: Tensor, labels: Tensor, rng: np.random.Generator
) -> tuple[np.ndarray, Tensor, Tensor]:
    """A window of an image with something in it, enlarged or shrunk by up to a quarter to CROP.

    The something is of each class present with equal chance, so rare classes are seen more often.

    Returns:
        The window, all boxes in its px and cut at its edges, and a mask of those of which enough is left.
    """
    height, width, _ = image.shape
    zoom = float(np.exp(rng.uniform(-ZOOM, ZOOM)))
    h, w = round(CROP[0] / zoom), round(CROP[1] / zoom)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    if len(labels):
        chosen = boxes[labels == int(rng.choice(labels.unique().numpy()))]
        left, top, right, bottom = chosen[int(rng.integers(len(chosen)))].tolist()
        x, y = (left + right) / 2, (top + bottom) / 2
    left = int(np.clip(x - w * rng.random(), 0, width - w))
    top = int(np.clip(y - h * rng.random(), 0, height - h))
    window = cv2.resize(image[top : top + h, left : left + w], CROP[::-1], interpolation=cv2.INTER_LINEAR)
    moved = (boxes - torch.tensor([left, top, left, top])) * torch.tensor([CROP[1] / w, CROP[0] / h] * 2)
    cut = torch.minimum(moved.clamp(min=0), torch.tensor([CROP[1], CROP[0]] * 2))
    whole, seen = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (moved, cut))
    return window, cut, seen > 0.3 * whole
