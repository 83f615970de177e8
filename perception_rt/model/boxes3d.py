"""Functions over rotated boxes `x y z length width height yaw`. All of them can be scripted into a bundle."""

from __future__ import annotations

import torch
from torch import Tensor


def corners_bev(boxes: Tensor) -> Tensor:
    """Return the footprints of boxes, counter-clockwise from the front left corner.

    Args:
        boxes: (N, 7) xyzlwh_yaw.

    Returns:
        (N, 4, 2) x y in m.
    """
    sign = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]], dtype=boxes.dtype)
    local = sign.to(boxes.device) * boxes[:, None, 3:5]
    cos, sin = boxes[:, 6:7].cos(), boxes[:, 6:7].sin()
    x = boxes[:, 0:1] + cos * local[:, :, 0] - sin * local[:, :, 1]
    y = boxes[:, 1:2] + sin * local[:, :, 0] + cos * local[:, :, 1]
    return torch.stack((x, y), 2)


def _inside(points: Tensor, corners: Tensor) -> Tensor:
    """Return (P, K) whether each of (P, K, 2) points lies in the convex (P, 4, 2) polygon."""
    edge = corners.roll(-1, 1) - corners
    to = points[:, :, None] - corners[:, None]
    cross = edge[:, None, :, 0] * to[..., 1] - edge[:, None, :, 1] * to[..., 0]
    return (cross >= -1e-9).all(2)


def intersection_bev(a: Tensor, b: Tensor) -> Tensor:
    """Return the overlap area of pairs of footprints, row by row.

    The vertices of the common polygon are the corners of each that lie in the other and the points where
    their edges cross; in order of their angle about their middle, the shoelace formula gives the area.

    Args:
        a: (P, 7) boxes.
        b: (P, 7) boxes.

    Returns:
        (P,) m^2, float64.
    """
    origin = a[:, :2].double()
    ca, cb = corners_bev(a.double()) - origin[:, None], corners_bev(b.double()) - origin[:, None]
    da, db = ca.roll(-1, 1) - ca, cb.roll(-1, 1) - cb
    # Edge i of a against edge j of b: ca_i + t da_i = cb_j + u db_j.
    det = da[:, :, None, 0] * db[:, None, :, 1] - da[:, :, None, 1] * db[:, None, :, 0]
    gap = cb[:, None] - ca[:, :, None]
    safe = torch.where(det.abs() < 1e-12, torch.ones_like(det), det)
    t = (gap[..., 0] * db[:, None, :, 1] - gap[..., 1] * db[:, None, :, 0]) / safe
    u = (gap[..., 0] * da[:, :, None, 1] - gap[..., 1] * da[:, :, None, 0]) / safe
    meets = (det.abs() >= 1e-12) & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    crossing = ca[:, :, None] + t[..., None] * da[:, :, None]
    points = torch.cat((ca, cb, crossing.flatten(1, 2)), 1)
    valid = torch.cat((_inside(ca, cb), _inside(cb, ca), meets.flatten(1)), 1)
    count = valid.sum(1)
    weight = valid.to(points.dtype)[..., None]
    middle = (points * weight).sum(1) / count.clamp(min=1)[:, None]
    around = points - middle[:, None]
    angle = torch.atan2(around[..., 1], around[..., 0])
    angle = torch.where(valid, angle, torch.full_like(angle, 10.0))
    order = angle.argsort(1)
    around = around.gather(1, order[..., None].expand(-1, -1, 2))
    # What is not a vertex repeats the first one, so that it adds no area.
    rank = torch.arange(around.shape[1], device=a.device)
    around = torch.where((rank[None] < count[:, None])[..., None], around, around[:, :1])
    following = around.roll(-1, 1)
    cross = around[..., 0] * following[..., 1] - around[..., 1] * following[..., 0]
    return torch.where(count >= 3, cross.sum(1).abs() / 2, torch.zeros_like(middle[:, 0]))


def near_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a (N, 7) and b (M, 7) whose footprints may touch: their circumscribed circles do."""
    reach = (torch.hypot(a[:, 3], a[:, 4])[:, None] + torch.hypot(b[:, 3], b[:, 4])[None]) / 2
    away = a[:, None, :2] - b[None, :, :2]
    rows, columns = torch.where(torch.hypot(away[..., 0], away[..., 1]) < reach)
    return rows, columns


def iou_bev(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of footprints.

    Args:
        a: (N, 7) boxes.
        b: (M, 7) boxes.

    Returns:
        (N, M) float32 in [0, 1].
    """
    iou = torch.zeros((a.shape[0], b.shape[0]), device=a.device)
    i, j = near_pairs(a, b)
    iou[i, j] = pairwise_iou_bev(a[i], b[j])
    return iou


def pairwise_iou_bev(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of pairs of footprints, row by row.

    Args:
        a: (P, 7) boxes.
        b: (P, 7) boxes.

    Returns:
        (P,) float32 in [0, 1].
    """
    inner = intersection_bev(a, b)
    area_a, area_b = a[:, 3].double() * a[:, 4].double(), b[:, 3].double() * b[:, 4].double()
    return (inner / (area_a + area_b - inner).clamp(min=1e-9)).float()


def iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of volumes; arguments and result as for `iou_bev`."""
    iou = torch.zeros((a.shape[0], b.shape[0]), device=a.device)
    i, j = near_pairs(a, b)
    p, q = a[i].double(), b[j].double()
    top = torch.minimum(p[:, 2] + p[:, 5] / 2, q[:, 2] + q[:, 5] / 2)
    bottom = torch.maximum(p[:, 2] - p[:, 5] / 2, q[:, 2] - q[:, 5] / 2)
    inner = intersection_bev(p, q) * (top - bottom).clamp(min=0)
    union = p[:, 3:6].prod(1) + q[:, 3:6].prod(1) - inner
    iou[i, j] = (inner / union.clamp(min=1e-9)).float()
    return iou


def nms_bev(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, across: bool) -> Tensor:
    """Suppress overlapping footprints greedily.

    Args:
        boxes: (N, 7).
        scores: (N,).
        labels: (N,).
        iou_threshold: if two boxes have a higher IoU, the one with the lower score is removed.
        across: boxes of different labels suppress each other too.

    Returns:
        (K,) int64 rows that are kept, best score first.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order]
    i, j = near_pairs(ranked, ranked)
    rivals = i < j
    if not across:
        rivals = rivals & (labels[order][i] == labels[order][j])
    i, j = i[rivals], j[rivals]
    over = pairwise_iou_bev(ranked[i], ranked[j]) > iou_threshold
    i, j = i[over].cpu(), j[over].cpu()  # the greedy pass is a chain of small steps: no work for a GPU
    count = order.shape[0]
    clash = torch.zeros((count, count), dtype=torch.bool)
    clash[i, j] = True
    kept = torch.ones(count, dtype=torch.bool)
    stronger: list[int] = clash.any(1).nonzero().squeeze(1).tolist()
    for row in stronger:
        if bool(kept[row]):
            kept = kept & ~clash[row]
    return order[kept.to(order.device)]
