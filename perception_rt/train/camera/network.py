"""The small camera detector: an anchor-free convolutional network, and the module that it ships in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_rt.model.detector import select_detections
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
        nn.init.zeros_(predict.bias)
        nn.init.constant_(
            predict.bias[:classes], -4.6
        )  # every score starts at 0.01: few cells hold an object
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


def resize(images: Tensor, width: int, height: int) -> Tensor:
    """Images resized to just fit width x height, aspect kept, antialiased.

    Args:
        images: (N, 3, H, W) uint8.

    Returns:
        (N, 3, h, w), no side under 32 px: uint8 on a CPU, rounded float32 elsewhere.
    """
    h, w = images.shape[2], images.shape[3]
    scale = min(width / w, height / h)
    size = [max(32, int(round(h * scale))), max(32, int(round(w * scale)))]  # noqa: RUF046  (TorchScript: float)
    if size[0] == h and size[1] == w:
        return images
    if images.device.type == "cpu":
        return F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round()


class CameraGridDetector(nn.Module):
    """What the bundle holds: native uint8 images in, boxes in native pixels out."""

    def __init__(self, network: CameraNetwork, score_threshold: float, nms_threshold: float) -> None:
        super().__init__()
        self.network = network
        self.classes = network.classes
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.top_k = 300  # most boxes an image may have, before NMS too
        self.width, self.height = INPUT_SIZE

    def forward(
        self, images: Tensor, bgr: bool = False, score_threshold: float = -1.0, nms_threshold: float = -1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images: (N, H, W, 3) uint8.
            bgr: the channels are blue, green, red.
            score_threshold: a box below it is dropped; negative for the bundle's own.
            nms_threshold: of two boxes of one class with a higher IoU the lesser is dropped; negative for the
                bundle's own.

        Returns:
            boxes (K, 4) xyxy in native px, scores (K,), labels (K,) int64, image index (K,) int64; ordered by
            image, then by falling score.
        """
        x = resize(images.permute(0, 3, 1, 2), self.width, self.height)
        if bgr:
            x = x.flip(1)
        h, w = x.shape[2], x.shape[3]
        x = x.to(self.network.lateral[0].weight.dtype, memory_format=torch.channels_last) * (1.0 / 255.0)
        raw = self.network(x).float()
        at = cells(h, w, raw)
        scores, labels = raw[:, :, : self.classes].max(2)
        scores, best = scores.topk(min(self.top_k, scores.shape[1]), dim=1)
        raw = raw.gather(1, best.unsqueeze(2).expand(-1, -1, raw.shape[2]))
        boxes, scores, labels, image_index = select_detections(
            decode(raw[:, :, self.classes :], at[best]),
            scores.sigmoid(),
            labels.gather(1, best),
            self.score_threshold if score_threshold < 0 else score_threshold,
            self.nms_threshold if nms_threshold < 0 else nms_threshold,
            True,
            self.top_k,
            self.top_k,
        )
        native_h, native_w = images.shape[1], images.shape[2]
        x1x2 = (boxes[:, 0::2] * (native_w / w)).clamp(0.0, float(native_w))
        y1y2 = (boxes[:, 1::2] * (native_h / h)).clamp(0.0, float(native_h))
        boxes = torch.stack((x1x2[:, 0], y1y2[:, 0], x1x2[:, 1], y1y2[:, 1]), 1)
        return boxes, scores, labels, image_index
