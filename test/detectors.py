"""Tiny real detectors for tests: what they find can be computed by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from perception_rt.model import bundle
from perception_rt.model.archive import read_archive, write_archive
from perception_rt.model.manifest import bundle_sha256
from perception_rt.model.specs import CloudSpec


class BrightBox(nn.Module):
    """One box around the pixels of each image whose red channel is above 200: class 0, score 0.9.

    Args:
        fail_above: image heights above this raise, to test model errors.
    """

    def __init__(self, fail_above: int = 1_000_000) -> None:
        super().__init__()
        self.score_threshold: float = 0.5
        self.nms_threshold: float = 0.5
        self.fail_above = fail_above
        self.weight = nn.Parameter(torch.ones(1))

    def forward(
        self,
        images: torch.Tensor,
        bgr: bool = False,
        score_threshold: float = -1.0,
        nms_threshold: float = -1.0,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        if images.shape[1] > self.fail_above:
            raise ValueError("image too tall for this model")
        threshold = self.score_threshold if score_threshold < 0 else score_threshold
        boxes: list[torch.Tensor] = []
        index: list[int] = []
        red = images[:, :, :, 2 if bgr else 0] > 200
        for i in range(images.shape[0]):
            found = torch.nonzero(red[i])
            if found.shape[0] > 0 and threshold <= 0.9:
                low = found.min(0)[0].float()
                high = found.max(0)[0].float() + 1.0
                boxes.append(torch.stack([low[1], low[0], high[1], high[0]]))
                index.append(i)
        n = len(boxes)
        xyxy = torch.stack(boxes) if n > 0 else torch.zeros(0, 4)
        return (
            xyxy,
            torch.full((n,), 0.9) * self.weight,
            torch.zeros(n, dtype=torch.long),
            torch.tensor(index, dtype=torch.long),
        )


class TallBox(nn.Module):
    """One box, along the axes, around the points of a cloud higher than `above`: class 0, score 0.9."""

    def __init__(self, above: float = -1.5) -> None:
        super().__init__()
        self.score_threshold: float = 0.5
        self.nms_threshold: float = 0.5
        self.above = above
        self.weight = nn.Parameter(torch.ones(1))

    def forward(
        self, points: torch.Tensor, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if points.shape[0] == 13:
            raise ValueError("thirteen points are too few")
        threshold = self.score_threshold if score_threshold < 0 else score_threshold
        tall = points[points[:, 2] > self.above, :3]
        n = 1 if tall.shape[0] > 0 and threshold <= 0.9 else 0
        boxes = torch.zeros(n, 7)
        if n == 1:
            low, high = tall.min(0)[0], tall.max(0)[0]
            boxes[0, :3] = (low + high) / 2
            boxes[0, 3:6] = high - low
        return boxes, torch.full((n,), 0.9) * self.weight, torch.zeros(n, dtype=torch.long)


def rewrite(path, **changes):
    """Put another manifest into a bundle."""
    archive = read_archive(path)
    manifest = dataclasses.replace(archive.manifest, **changes)
    if "sha256" not in changes:  # so that the change itself is what is refused
        manifest = dataclasses.replace(manifest, sha256=bundle_sha256(manifest, archive.members))
    write_archive(path, manifest, archive.members)


class EarlierBox(nn.Module):
    """One box, along the axes, around the points of earlier sweeps: class 0, score a tenth of the sweeps."""

    def __init__(self) -> None:
        super().__init__()
        self.score_threshold: float = 0.0
        self.nms_threshold: float = 0.5

    def forward(
        self, points: torch.Tensor, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        older = points[:, :3]
        sweeps = 1
        if points.shape[1] > 4:
            sweeps = int(torch.unique(points[:, 4]).shape[0])
            if sweeps > 1:
                older = points[points[:, 4] > 0, :3]
        low, high = older.min(0)[0], older.max(0)[0]
        box = torch.cat(((low + high) / 2, high - low, torch.zeros(1)))
        return box[None], torch.full((1,), sweeps / 10), torch.zeros(1, dtype=torch.long)


def save_earlier_box(path: Path, sweeps: int) -> None:
    """A bundle of it that takes so many sweeps."""
    spec = CloudSpec((-100.0, -100.0, -10.0, 100.0, 100.0, 10.0), "unused", sweeps=sweeps, ages=True)
    bundle.save(
        path,
        EarlierBox(),
        name="earlier",
        classes=["car"],
        input_spec=spec,
        licence="Apache-2.0",
        task="detect3d",
    )
