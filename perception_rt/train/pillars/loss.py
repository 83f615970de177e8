"""Which cell answers for which object, and how wrong the answers are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_rt.model.boxes3d import intersection_bev
from perception_rt.train.pillars.data import CloudBatch
from perception_rt.train.pillars.network import (
    BOX_CHANNELS,
    CELL,
    CELL_COLUMNS,
    CELL_ROWS,
    X_RANGE,
    Y_RANGE,
    decode,
)

RADIUS = 0.75  # m: cells whose centre is as near to an object's answer for it
OFFSET_WEIGHT, HEIGHT_WEIGHT, SIZE_WEIGHT, AXIS_WEIGHT, FRONT_WEIGHT = 2.0, 0.5, 1.0, 1.0, 0.3


def assign(batch: CloudBatch) -> tuple[Tensor, Tensor]:
    """Give each object its cells; a cell that two objects claim goes to the nearer.

    Returns:
        (P,) int64 each: the cell, counted through the batch, and the truth that it answers for.
    """
    low = torch.tensor([X_RANGE[0], Y_RANGE[0]], device=batch.boxes.device)
    place = (batch.boxes[:, :2] - low) / CELL - 0.5  # in cells, 0 in the middle of the first
    reach = torch.arange(-2, 3, device=place.device)
    around = torch.cartesian_prod(reach, reach)
    at = place.round().long()[:, None] + around
    away = (at - place[:, None]).square().sum(2).sqrt() * CELL
    inside = (at >= 0).all(2) & (at < torch.tensor([CELL_COLUMNS, CELL_ROWS], device=at.device)).all(2)
    truth, which = torch.where(inside & (away < RADIUS))
    x, y = at[truth, which].unbind(1)
    cell = (batch.box_frame[truth] * CELL_ROWS + y) * CELL_COLUMNS + x
    by_distance = away[truth, which].argsort(stable=True)
    claims = len(by_distance)
    rank = torch.empty_like(by_distance).scatter_(0, by_distance, torch.arange(claims, device=at.device))
    owner = torch.full((batch.frames * CELL_ROWS * CELL_COLUMNS,), claims, device=at.device)
    owner.scatter_reduce_(0, cell, rank, "amin")
    owned = torch.where(owner < claims)[0]
    return owned, truth[by_distance[owner[owned]]]


def detection_loss(raw: Tensor, batch: CloudBatch, at: Tensor) -> Tensor:
    """Quality focal loss (arXiv:2006.04388) on all cells, box errors on owned ones.

    The class target is (1 + IoU) / 2 of the footprints, so that of two boxes on one object the better has the
    higher score. Cells of objects with hardly a point are asked nothing.

    Args:
        raw: (frames, A, classes + BOX_CHANNELS) from the network.
        batch: the truth.
        at: (A, 3) from `cells`.

    Returns:
        The loss per assigned cell.
    """
    cell, truth = assign(batch)
    classes = raw.shape[2] - BOX_CHANNELS
    raw = raw.flatten(0, 1)
    asked = torch.ones(len(raw), device=raw.device)
    clear = batch.clear[truth]
    asked[cell[~clear]] = 0.0
    cell, truth = cell[clear], truth[clear]
    boxes, label = batch.boxes[truth], batch.labels[truth]
    answer, at = raw[cell, classes:], at[cell % len(at)]
    target = torch.zeros_like(raw[:, :classes])
    target[cell, label] = 0.5 + 0.5 * _quality(answer.detach(), at, boxes)
    logits = raw[:, :classes]
    focus = (target - logits.detach().sigmoid()).square() * asked[:, None]
    score_loss = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * focus).sum()
    return (score_loss + _box_loss(answer, at, boxes)) / max(1, len(cell))


def _quality(answer: Tensor, at: Tensor, boxes: Tensor) -> Tensor:
    """(P,) IoU of the footprints, answer by answer."""
    found = decode(answer, at)
    inner = intersection_bev(found, boxes).float()
    outer = found[:, 3:5].prod(1) + boxes[:, 3:5].prod(1) - inner
    return (inner / outer.clamp(min=1e-6)).clamp(0, 1)


def _box_loss(answer: Tensor, at: Tensor, boxes: Tensor) -> Tensor:
    """Sum of absolute errors; places in parts of the object's length, width and height, as IoU sees them."""
    yaw = boxes[:, 6]
    off = at[:, :2] + answer[:, :2] * at[:, 2:] - boxes[:, :2]
    along, across = (
        off[:, 0] * yaw.cos() + off[:, 1] * yaw.sin(),
        off[:, 1] * yaw.cos() - off[:, 0] * yaw.sin(),
    )
    place = along.abs() / boxes[:, 3] + across.abs() / boxes[:, 4]
    height = (answer[:, 2] - boxes[:, 2]).abs() / boxes[:, 5]
    size = (answer[:, 3:6] - boxes[:, 3:6].log()).abs().sum(1)
    axis = (answer[:, 6] - (2 * yaw).sin()).abs() + (answer[:, 7] - (2 * yaw).cos()).abs()
    front = (answer[:, 8] - yaw.sin()).abs() + (answer[:, 9] - yaw.cos()).abs()
    return (
        OFFSET_WEIGHT * place
        + HEIGHT_WEIGHT * height
        + SIZE_WEIGHT * size
        + AXIS_WEIGHT * axis
        + FRONT_WEIGHT * front
    ).sum()
