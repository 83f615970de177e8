"""A real detector that gets into trouble on demand."""

from __future__ import annotations

import torch
from torch import nn

from ..detectors import BrightBox  # noqa: TID252

RAISES, EXHAUSTS, MISLABELS = 111, 113, 115  # image widths


class Failing(nn.Module):
    """A `BrightBox` whose mood the image's size decides.

    Args:
        tall: each row above these costs a product of 512 x 512 matrices, some milliseconds.
    """

    def __init__(self, tall: int) -> None:
        super().__init__()
        self.box = BrightBox()
        self.score_threshold: float = 0.5
        self.nms_threshold: float = 0.5
        self.tall = tall
        self.raises = RAISES
        self.exhausts = EXHAUSTS
        self.mislabels = MISLABELS

    def forward(
        self,
        images: torch.Tensor,
        bgr: bool = False,
        score_threshold: float = -1.0,
        nms_threshold: float = -1.0,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        width = images.shape[2]
        if width == self.raises:
            raise ValueError("this width is not supported")
        if width == self.exhausts:
            images = images + torch.empty([1 << 50], dtype=torch.uint8)[0]
        noise = torch.ones(512, 512)
        for _ in range(images.shape[1] - self.tall):
            noise = (noise @ noise).clamp(0, 1)
        boxes, scores, labels, index = self.box(images, bgr, score_threshold, nms_threshold)
        if width == self.mislabels:
            labels = labels + 7
        return boxes + (noise[0, 0].clamp(1, 1) - 1), scores, labels, index
