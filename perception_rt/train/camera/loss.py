"""Which cell answers for which object, and how wrong the answers are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss

from perception_rt.train.camera.data import ImageBatch
from perception_rt.train.camera.network import all_cells, decode

# Root of the area, px, that a level answers for; by the longest side, tall and narrow pedestrians would get
# too coarse a level. The ranges overlap, so an object at the border has two levels.
LEVEL_RANGE = {4: (0.0, 24.0), 8: (16.0, 48.0), 16: (32.0, 96.0), 32: (72.0, float("inf"))}
RADIUS = 1.0  # in strides: the four cells nearest to an object's centre answer for it
BOX_WEIGHT = 2.0


def assign(batch: ImageBatch, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give each object its cells; a cell that two objects claim goes to the smaller.

    Args:
        batch: truth boxes.
        at: (A, 3) from `all_cells`.

    Returns:
        (P,) int64 each: image, cell and truth of every cell that answers for an object.
    """
    n, g, a = len(batch.images), len(batch.boxes), len(at)
    size = batch.boxes[:, 2:] - batch.boxes[:, :2]
    centre = (batch.boxes[:, :2] + batch.boxes[:, 2:]) / 2
    near = ((at[None, :, :2] - centre[:, None]).abs() < RADIUS * at[:, 2:]).all(2)
    area = size.prod(1)
    extent = area.sqrt()[:, None]
    fits = torch.zeros_like(near)
    for stride, (low, high) in LEVEL_RANGE.items():
        fits |= (at[:, 2] == stride) & (extent >= low) & (extent < high)
    truth, cell = torch.where(near & fits)
    by_area = area.argsort(stable=True)
    rank = torch.empty_like(by_area).scatter_(0, by_area, torch.arange(g, device=at.device))
    owner = torch.full((n * a,), g, device=at.device)
    owner.scatter_reduce_(0, batch.image[truth] * a + cell, rank[truth], "amin")
    place = torch.where(owner < g)[0]
    return place // a, place % a, by_area[owner[place]]


def detection_loss(raw: Tensor, batch: ImageBatch) -> Tensor:
    """Quality focal loss (arXiv:2006.04388) on all cells, complete IoU loss (arXiv:1911.08287) on owned ones.

    The class target is (1 + IoU) / 2, so that of two boxes on one object the better has the higher score.

    Args:
        raw: (N, classes + 4, A) from the network.
        batch: the truth.

    Returns:
        The loss per assigned cell.
    """
    classes = raw.shape[1] - 4
    logits = raw[:, :classes]
    at = all_cells(batch.images.shape[2], batch.images.shape[3], raw.device)
    image, cell, truth = assign(batch, at)
    boxes = decode(raw[image, classes:, cell], at[cell])
    target = torch.zeros_like(logits)
    iou = elementwise_iou(boxes.detach(), batch.boxes[truth])
    target[image, batch.labels[truth], cell] = 0.5 + 0.5 * iou
    focus = (target - logits.detach().sigmoid()).square()
    score_loss = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * focus).sum()
    count = max(1, len(truth))
    box_loss = complete_box_iou_loss(boxes, batch.boxes[truth], reduction="sum")
    return (score_loss + BOX_WEIGHT * box_loss) / count


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(P,) IoU of (P, 4) boxes with (P, 4) boxes, row by row."""
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    outer = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    return inner / outer.clamp(min=1e-6)
