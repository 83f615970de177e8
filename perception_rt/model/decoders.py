"""From a network's raw output to candidate boxes: one small scripted module for each family."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


class YoloV5(nn.Module):
    """YOLOv5 export: (N, A, 5 + C): cx cy w h in px, objectness, class scores, all after their sigmoid."""

    suppress = True

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, raw: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Raw outputs -> boxes (N, A, 4) xyxy px of the network, scores (N, A), labels (N, A)."""
        out = raw[0].float()
        scores, labels = out[..., 5:].max(-1)
        return cxcywh_to_xyxy(out[..., :4]), scores * out[..., 4], labels

    def class_count(self, raw: list[Tensor]) -> int:
        """How many classes this output holds."""
        return raw[0].shape[-1] - 5


class YoloV8(nn.Module):
    """YOLOv8 (and v9, v11) export: (N, 4 + C, A): cx cy w h in px, class scores after their sigmoid."""

    suppress = True

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, raw: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Raw outputs -> boxes (N, A, 4) xyxy px of the network, scores (N, A), labels (N, A)."""
        out = raw[0].float()
        scores, labels = out[:, 4:].max(1)
        return cxcywh_to_xyxy(out[:, :4].transpose(1, 2)), scores, labels

    def class_count(self, raw: list[Tensor]) -> int:
        """How many classes this output holds."""
        return raw[0].shape[1] - 4


class Detr(nn.Module):
    """DETR (Carion et al., 2020): logits (N, Q, C + 1) and boxes (N, Q, 4), cxcywh as fractions.

    The last class is "no object". A set prediction: no NMS.
    """

    suppress = False

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, raw: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Raw outputs -> boxes (N, Q, 4) xyxy px of the network, scores (N, Q), labels (N, Q)."""
        logits, boxes = raw[0].float(), raw[1].float()
        if logits.shape[-1] == 4 and boxes.shape[-1] != 4:
            logits, boxes = boxes, logits
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        size = torch.tensor([self.width, self.height, self.width, self.height], device=boxes.device)
        return cxcywh_to_xyxy(boxes) * size, scores, labels

    def class_count(self, raw: list[Tensor]) -> int:
        """How many classes this output holds."""
        widths = [tensor.shape[-1] for tensor in raw[:2]]
        return (widths[1] if widths[0] == 4 and widths[1] != 4 else widths[0]) - 1


class FastestDet(nn.Module):
    """FastestDet: (N, 5 + C, h, w) cells: objectness, box, class scores.

    Score is obj^0.6 * class^0.4; the centre is the cell plus a tanh, the size a sigmoid of the image.
    """

    suppress = True

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.height, self.width = size

    def forward(self, raw: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Raw outputs -> boxes (N, A, 4) xyxy px of the network, scores (N, A), labels (N, A)."""
        out = raw[0].float()
        rows, columns = out.shape[2], out.shape[3]
        best, labels = out[:, 5:].max(1)
        scores = out[:, 0].pow(0.6) * best.pow(0.4)
        x = (torch.arange(columns, device=out.device) + out[:, 1].tanh()) * (self.width / columns)
        y = (torch.arange(rows, device=out.device).unsqueeze(1) + out[:, 2].tanh()) * (self.height / rows)
        width, height = out[:, 3].sigmoid() * self.width, out[:, 4].sigmoid() * self.height
        boxes = cxcywh_to_xyxy(torch.stack([x, y, width, height], -1))
        return boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1)

    def class_count(self, raw: list[Tensor]) -> int:
        """How many classes this output holds."""
        return raw[0].shape[1] - 5


# How many raw outputs each takes is 1, but for detr: 2.
DECODERS = {"yolov5": YoloV5, "yolov8": YoloV8, "detr": Detr, "fastestdet": FastestDet}
