"""Oriented boxes: overlap and NMS."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilistic_iou(boxes: Tensor, theta: Tensor, others: Tensor, other_theta: Tensor) -> Tensor:
    """Overlap of oriented boxes as Gaussians: 1 less their Hellinger distance (Llerena et al., 2021).

    Args:
        boxes: (N, 4) xyxy before the turn about their centre.
        theta: (N,) rad, from x to y.
        others: (M, 4).
        other_theta: (M,).

    Returns:
        (N, M) in [0, 1].
    """
    centre, covariance = _gaussian(boxes, theta)
    other_centre, other_covariance = _gaussian(others, other_theta)
    apart = centre[:, None] - other_centre[None]
    joint = (covariance[:, None] + other_covariance[None]) / 2
    spread = _determinant(joint)
    adjugate = torch.stack([joint[..., 1, 1], joint[..., 0, 0], -joint[..., 0, 1]], -1)
    squares = torch.stack([apart[..., 0] ** 2, apart[..., 1] ** 2, 2 * apart.prod(-1)], -1)
    mahalanobis = (adjugate * squares).sum(-1) / spread
    both = _determinant(covariance)[:, None] * _determinant(other_covariance)[None]
    bhattacharyya = mahalanobis / 8 + (spread / both.sqrt()).log() / 2
    return 1 - (1 - (-bhattacharyya).exp()).clamp(min=0).sqrt()


def _gaussian(boxes: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N, 2) and covariance (N, 2, 2) of a uniform distribution over each box, float64."""
    boxes, theta = boxes.double(), theta.double()
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    turn = torch.stack([theta.cos(), -theta.sin(), theta.sin(), theta.cos()], 1).view(-1, 2, 2)
    covariance = turn @ torch.diag_embed(size**2 / 12) @ turn.transpose(1, 2)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, covariance


def _determinant(matrix: Tensor) -> Tensor:
    product = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    return product.clamp(min=1e-12)


def oriented_nms(boxes: Tensor, theta: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The rows, best first as given, that no better row of their class overlaps by more than `threshold`.

    A row that is itself dropped still counts, as in the tool that oriented networks come from ("fast NMS").
    """
    overlap = probabilistic_iou(boxes, theta, boxes, theta)
    rivals = ((overlap > threshold) & (labels[:, None] == labels[None])).triu(1)
    return torch.nonzero(~rivals.any(0)).squeeze(1)
