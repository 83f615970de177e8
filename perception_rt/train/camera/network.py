"""The small camera detector: an anchor-free convolutional network, and its decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_rt.train.blocks import ConvBnRelu, down_stage

INPUT_SIZE = (960, 540)  # width, height: what larger and smaller images are resized to
WIDTHS = (32, 48, 96, 128, 128)  # channels at strides 4 to 64
NECKS = (16, 40, 48, 48, 48)


class CameraNetwork(nn.Module):
    """Image to raw class logits and boxes at strides 4, 8, 16 and 32.

    One prediction per cell and no anchor boxes, as in FCOS (arXiv:1904.01355) and YOLOX (arXiv:2107.08430).
    The stem goes to a quarter of the size at once: it sees every pixel, which far pedestrians need, cheaply.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.stem = ConvBnRelu(3, 32, 6, 4, 1)
        self.stages = nn.ModuleList(
            [down_stage(32, 48, 1), down_stage(48, 96, 2), down_stage(96, 128, 2), down_stage(128, 128, 1)]
        )
        self.lateral = nn.ModuleList([nn.Conv2d(c, n, 1) for c, n in zip(WIDTHS, NECKS, strict=True)])
        self.down = nn.ModuleList([nn.Conv2d(NECKS[i + 1], NECKS[i], 1) for i in (3, 2, 1, 0)])
        self.heads = nn.ModuleList([self._head(neck, classes) for neck in NECKS[:4]])

    @staticmethod
    def _head(neck: int, classes: int) -> nn.Sequential:
        predict = nn.Conv2d(neck, classes + 4, 1)
        nn.init.normal_(predict.weight, std=0.01)
        bias = predict.bias
        assert bias is not None
        nn.init.zeros_(bias)
        nn.init.constant_(bias[:classes], -4.6)  # every score starts at 0.01: few cells hold an object
        return nn.Sequential(ConvBnRelu(neck, neck), predict)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions of all cells.

        Args:
            x: (N, 3, H, W) float RGB in [0, 1]; H and W at least 32.

        Returns:
            (N, A, classes + 4): logits, then the box as `decode` reads it; cells in the order of `cells`.
        """
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        for i, lateral in enumerate(self.lateral):
            features[i] = lateral(features[i])
        for j, down in enumerate(self.down):
            i = 3 - j
            _, _, h, w = features[i].shape
            up = F.interpolate(down(features[i + 1]), scale_factor=2.0, mode="nearest")
            features[i] = F.relu(features[i] + up[:, :, :h, :w])
        out: list[Tensor] = []
        for i, head in enumerate(self.heads):
            out.append(head(features[i]).permute(0, 2, 3, 1).flatten(1, 2))
        return torch.cat(out, 1)


def cells(height: int, width: int, like: Tensor) -> Tensor:
    """(A, 3): centre x, centre y and stride in px of every cell of a network input of this size."""
    grids: list[Tensor] = []
    rows, columns = height // 4, width // 4
    for stride in (4, 8, 16, 32):
        x = (torch.arange(columns, device=like.device, dtype=torch.float32) + 0.5) * stride
        y = (torch.arange(rows, device=like.device, dtype=torch.float32) + 0.5) * stride
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        grids.append(torch.stack((xx, yy, torch.full_like(xx, stride)), 2).flatten(0, 1))
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return torch.cat(grids)


def decode(raw: Tensor, at: Tensor) -> Tensor:
    """Boxes xyxy in px of the network input from raw (..., 4) predictions at cells (..., 3)."""
    stride = at[..., 2:]
    centre = at[..., :2] + raw[..., :2] * stride
    half = raw[..., 2:].clamp(-4.0, 3.0).exp() * stride * 0.5
    return torch.cat((centre - half, centre + half), -1)


class CameraDecoder(nn.Module):
    """From raw predictions to candidate boxes, as the bundle holds it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.top_k = 300  # most boxes an image may have, before NMS too

    def forward(
        self, outputs: list[Tensor], height: int, width: int, score_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode one image.

        Args:
            outputs: of `CameraNetwork`, (1, A, classes + 4).
            height: of the network's input, px.
            width: of the network's input, px.
            score_threshold: a box below it is dropped.

        Returns:
            boxes (K, 4) xyxy in px of the network's input, scores (K,), labels (K,) int64; best score first.
        """
        raw = outputs[0][0].float()
        logits, labels = raw[:, : self.classes].max(1)
        logits, best = logits.topk(min(self.top_k, logits.shape[0]))
        scores = logits.sigmoid()
        kept = scores >= score_threshold
        scores, best = scores[kept], best[kept]
        at = cells(height, width, raw)
        return decode(raw[best, self.classes :], at[best]), scores, labels[best]
