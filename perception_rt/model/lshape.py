"""Oriented rectangles about clusters of points, all clusters at once; can be scripted.

Zhang, Xu, Dong and Dolan, "Efficient L-shape fitting for vehicle detection using laser scanners", IV 2017:
search over the angle, scored by how close the points lie to the rectangle's nearest edges.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Shapes(NamedTuple):
    """C clusters: their rectangles in axes turned by `angle`, and what tells objects apart.

    Attributes:
        angle: (C,) rad.
        along: (C, 2) from, to, m, on the axis of `angle`, the sensor at 0.
        across: (C, 2) from, to, m, on the axis to its left, the sensor at 0.
        ground: (C,) z of the ground, m.
        bottom: (C,) height of the lowest point above the ground, m.
        top: (C,) of the highest.
        points: (C,) int64, how many.
        hollow: (C,) mean distance of the points from the nearest edge as a share of the rectangle's shorter
            side: about 0.1 for an L, 0.17 to 0.25 for a filled rectangle.
        overhead: (C,) share of the cells that have something above them.
        tall: (C,) share of the cells in which it reaches without a gap from what a vehicle may be as high as.
        piece: (C,) bool, whether it is a part of a cluster at the next wider gap, and small for a vehicle.
        upper: (C,) longer side of the part of it that shows torsos and riders, m.
    """

    angle: Tensor
    along: Tensor
    across: Tensor
    ground: Tensor
    bottom: Tensor
    top: Tensor
    points: Tensor
    hollow: Tensor
    overhead: Tensor
    tall: Tensor
    piece: Tensor
    upper: Tensor


def chosen(s: Shapes, rows: Tensor) -> Shapes:
    """The clusters that `rows`, int64 or bool, select."""
    return Shapes(
        s.angle[rows],
        s.along[rows],
        s.across[rows],
        s.ground[rows],
        s.bottom[rows],
        s.top[rows],
        s.points[rows],
        s.hollow[rows],
        s.overhead[rows],
        s.tall[rows],
        s.piece[rows],
        s.upper[rows],
    )


def extremes(value: Tensor, cluster: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Least and greatest of (M, ...) values in each of `count` clusters: (count, ...) each."""
    shape = list(value.shape)
    shape[0] = count
    index = cluster.view([-1] + [1] * (value.dim() - 1)).expand_as(value)
    low = torch.full(shape, float("inf"), device=value.device, dtype=value.dtype)
    high = torch.full(shape, -float("inf"), device=value.device, dtype=value.dtype)
    return low.scatter_reduce(0, index, value, "amin"), high.scatter_reduce(0, index, value, "amax")


def total(value: Tensor, cluster: Tensor, count: int) -> Tensor:
    """Sum of (M, ...) values in each of `count` clusters: (count, ...)."""
    shape = list(value.shape)
    shape[0] = count
    return torch.zeros(shape, device=value.device, dtype=value.dtype).index_add(0, cluster, value)


def best_angle(xy: Tensor, cluster: Tensor, count: int, steps: int) -> Tensor:
    """The direction along whose axes each cluster's points lie closest to the edges of their rectangle.

    Args:
        xy: (M, 2) m.
        cluster: (M,) int64.
        count: of clusters.
        steps: angles tried in a quarter turn.

    Returns:
        (count,) rad in [0, pi / 2).
    """
    angle = torch.arange(steps, device=xy.device, dtype=xy.dtype) * (math.pi / 2 / steps)
    along = xy[:, :1] * angle.cos() + xy[:, 1:] * angle.sin()
    across = xy[:, 1:] * angle.cos() - xy[:, :1] * angle.sin()
    away = torch.minimum(_to_edge(along, cluster, count), _to_edge(across, cluster, count))
    # Zhang's closeness: 1 / distance, bounded for points on the edge.
    closeness = total(1 / away.clamp(min=0.1), cluster, count)
    return angle[closeness.argmax(1)]


def _to_edge(value: Tensor, cluster: Tensor, count: int) -> Tensor:
    """Distance of each value from the nearer end of its cluster's interval."""
    low, high = extremes(value, cluster, count)
    return torch.minimum(value - low[cluster], high[cluster] - value)


def shapes_of(
    points: Tensor,
    height: Tensor,
    cluster: Tensor,
    angle: Tensor,
    overhead: Tensor,
    tall: Tensor,
    piece: Tensor,
    upper_m: float,
) -> Shapes:
    """Measure clusters whose rectangles have these angles.

    Args:
        points: (N, 3) m.
        height: (N,) above the ground, m.
        cluster: (N,) int64.
        angle: (C,) rad; every cluster has at least one point.
        overhead: (C,) as `Shapes` has it.
        tall: (C,) likewise.
        piece: (C,) likewise.
        upper_m: height above the ground of what counts for `upper`, m.
    """
    count = len(angle)
    cos, sin = angle.cos()[cluster], angle.sin()[cluster]
    along, across = points[:, 0] * cos + points[:, 1] * sin, points[:, 1] * cos - points[:, 0] * sin
    low, high = extremes(torch.stack((along, across, height), 1), cluster, count)
    number = torch.bincount(cluster, minlength=count)
    edge = torch.minimum(
        torch.minimum(along - low[:, 0][cluster], high[:, 0][cluster] - along),
        torch.minimum(across - low[:, 1][cluster], high[:, 1][cluster] - across),
    )
    above = (height > upper_m).nonzero()[:, 0]
    places = torch.stack((along, across), 1).index_select(0, above)
    left, right = extremes(places, cluster.index_select(0, above), count)
    mean = total(torch.stack((points[:, 2] - height, edge), 1), cluster, count) / number[:, None]
    shorter = torch.minimum(high[:, 0] - low[:, 0], high[:, 1] - low[:, 1])
    return Shapes(
        angle=angle,
        along=torch.stack((low[:, 0], high[:, 0]), 1),
        across=torch.stack((low[:, 1], high[:, 1]), 1),
        ground=mean[:, 0],
        bottom=low[:, 2],
        top=high[:, 2],
        points=number,
        hollow=mean[:, 1] / shorter.clamp(min=0.5),
        overhead=overhead,
        tall=tall,
        piece=piece,
        upper=(right - left).amax(1).clamp(min=0),
    )
