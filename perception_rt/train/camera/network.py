"""The small camera detector: an anchor-free convolutional network, and its decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_rt.train.blocks import ConvBnRelu, down_stage

INPUT_SIZE = (960, 540)  # width, height: what larger and smaller images are resized to
WIDTHS = (24, 32, 64, 64, 64)  # channels at strides 4 to 64
BLOCKS = (1, 2, 1, 1)  # at strides 8 to 64
NECKS = (16, 24, 32, 32, 32)


class CameraNetwork(nn.Module):
    """Image to raw class logits and boxes at strides 4, 8, 16 and 32.

    One prediction per cell and no anchor boxes, as in FCOS (arXiv:1904.01355) and YOLOX (arXiv:2107.08430).
    The stem goes to a quarter of the size at once: it sees every pixel, which far pedestrians need, cheaply.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.stem = ConvBnRelu(3, WIDTHS[0], 4, 4, 0)
        self.stages = nn.ModuleList(map(down_stage, WIDTHS, WIDTHS[1:], BLOCKS))
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
            (N, classes + 4, A): logits, then the box as `decode` reads it; cells in the order of `all_cells`.
        """
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        for i, lateral in enumerate(self.lateral):
            features[i] = lateral(features[i])
        for j, down in enumerate(self.down):
            i = 3 - j
            up = F.interpolate(down(features[i + 1]), size=features[i].shape[2:], mode="nearest")
            features[i] = F.relu(features[i] + up)
        out: list[Tensor] = []
        for i, head in enumerate(self.heads):
            out.append(head(features[i]).flatten(2))  # a decoder searches the cells in one row of memory
        return torch.cat(out, 2)


class PixelNetwork(nn.Module):
    """A `CameraNetwork` that takes (N, 3, H, W) uint8 RGB: 8-bit engines need no other input."""

    def __init__(self, network: CameraNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """See `CameraNetwork`."""
        return self.network(images.type_as(next(self.network.parameters())) * (1 / 255))


def levels(height: int, width: int) -> Tensor:
    """(3, 4) int64: first cell, columns and cells of each stride.

    Args:
        height, width: of the network's input, px.
    """
    rows, columns, first = height // 4, width // 4, 0
    table: list[list[int]] = []
    for _ in range(4):
        table.append([first, columns, rows * columns])
        first += rows * columns
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return torch.tensor(table).T.contiguous()


def cells(height: int, width: int, index: Tensor) -> Tensor:
    """(K, 3): centre x, centre y and stride in px of the cells (K,) of a network input of this size."""
    table = levels(height, width).to(index.device)
    level = torch.bucketize(index, table[0, 1:], right=True)
    first, columns, _ = table[:, level].unbind()
    row = torch.div(index - first, columns, rounding_mode="floor")
    stride = (2.0 ** (level + 2)).unsqueeze(1)
    centre = (torch.stack((index - first - row * columns, row), 1) + 0.5) * stride
    return torch.cat((centre, stride), 1)


def all_cells(height: int, width: int, device: torch.device) -> Tensor:
    """(A, 3): every cell, as `cells`."""
    table = levels(height, width)
    return cells(height, width, torch.arange(int(table[0, -1] + table[2, -1]), device=device))


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
            outputs: of `CameraNetwork`, (1, classes + 4, A).
            height: of the network's input, px.
            width: of the network's input, px.
            score_threshold: a box below it is dropped.

        Returns:
            boxes (K, 4) xyxy in px of the network's input, scores (K,), labels (K,) int64; best score first.
        """
        raw = outputs[0][0].float()
        logits = raw[: self.classes]
        scores = logits.amax(0).sigmoid()
        index = torch.nonzero(scores >= score_threshold).squeeze(1)
        scores, order = scores[index].topk(min(self.top_k, len(index)))
        index = index[order]
        boxes = decode(raw[self.classes :, index].T, cells(height, width, index))
        return boxes, scores, logits[:, index].argmax(0)
