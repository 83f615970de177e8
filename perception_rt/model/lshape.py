"""Fit oriented rectangles to clusters of points, all clusters at once; can be scripted.

Zhang, Xu, Dong and Dolan, "Efficient L-shape fitting for vehicle detection using laser scanners", IV 2017:
search over the angle, scored by how close the points lie to the rectangle's nearest edges.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Shapes(NamedTuple):
    """The rectangles of C clusters in axes rotated by `angle`, and features to classify them.

    Attributes:
        angle: (C,) rad.
        along: (C, 2) from, to, m, on the axis of `angle`, the sensor at 0.
        across: (C, 2) from, to, m, on the axis to its left, the sensor at 0.
        ground: (C,) z of the ground, m.
        bottom: (C,) height of the lowest point above the ground, m.
        top: (C,) of the highest.
        points: (C,) int64, number of points.
        hollow: (C,) mean distance of the points from the nearest edge as a share of the rectangle's shorter
            side: about 0.1 for an L, 0.17 to 0.25 for a filled rectangle.
        overhead: (C,) share of the cells that have something above them.
        tall: (C,) share of the cells in which it reaches without a gap from what a vehicle may be as high as.
        piece: (C,) bool, whether it is a part of a cluster at the next wider gap, and small for a vehicle.
        upper: (C,) longer side of the part of it that shows torsos and riders, m.
        drop: (C,) by how much the lower of its two ends is lower than its middle, m, as a hood is; 0.2 where
            nothing shows its middle.
        usual: (C, 2) as of `usual_direction`, for fold 2.
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
    drop: Tensor
    usual: Tensor


def chosen(s: Shapes, rows: Tensor) -> Shapes:
    """Return the clusters that `rows`, int64 or bool, select."""
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
        s.drop[rows],
        s.usual[rows],
    )


def extremes(value: Tensor, cluster: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the least and greatest of (M, ...) values in each of `count` clusters: (count, ...) each."""
    shape = list(value.shape)
    shape[0] = count
    index = cluster.view([-1] + [1] * (value.dim() - 1)).expand_as(value)
    low = torch.full(shape, float("inf"), device=value.device, dtype=value.dtype)
    high = torch.full(shape, -float("inf"), device=value.device, dtype=value.dtype)
    return low.scatter_reduce(0, index, value, "amin"), high.scatter_reduce(0, index, value, "amax")


def total(value: Tensor, cluster: Tensor, count: int) -> Tensor:
    """Return the sum of (M, ...) values in each of `count` clusters: (count, ...)."""
    shape = list(value.shape)
    shape[0] = count
    return torch.zeros(shape, device=value.device, dtype=value.dtype).index_add(0, cluster, value)


def closeness(xy: Tensor, cluster: Tensor, count: int, steps: int) -> tuple[Tensor, Tensor]:
    """Return how close each cluster's points lie to the edges of its rectangle, for each direction of its
    axes.

    Args:
        xy: (M, 2) m.
        cluster: (M,) int64.
        count: of clusters.
        steps: angles tried in a quarter turn, `pi / 2 / steps` apart.

    Returns:
        (count, steps) the mean of Zhang's closeness, 1 / distance, bounded for points on the edge; (count,
        steps, 2) sides of the rectangle along the direction and across it, m.
    """
    angle = torch.arange(steps, device=xy.device, dtype=xy.dtype) * (math.pi / 2 / steps)
    along = xy[:, :1] * angle.cos() + xy[:, 1:] * angle.sin()
    across = xy[:, 1:] * angle.cos() - xy[:, :1] * angle.sin()
    low, high = extremes(along, cluster, count)
    left, right = extremes(across, cluster, count)
    away = torch.minimum(along - low[cluster], high[cluster] - along)
    away = torch.minimum(away, torch.minimum(across - left[cluster], right[cluster] - across))
    number = torch.bincount(cluster, minlength=count)[:, None]
    mean = total(1 / away.clamp(min=0.1), cluster, count) / number
    return mean, torch.stack((high - low, right - left), 2)


def usual_direction(xy: Tensor, yaw: Tensor, length: Tensor, fold: int) -> Tensor:
    """Return the usual direction of long objects near each place.

    Args:
        xy: (C, 2) places of things, m.
        yaw: (C,) direction of the longer side of each, rad.
        length: (C,) of that side, m; from 2.5 m on it tells the way.
        fold: 2 where opposite directions are the same, 4 where those across are the same too.

    Returns:
        (C, 2) cos and sin of `fold` times the direction, times how much the things agree, in [0, 1].
    """
    tell = (length > 2.5).nonzero()[:, 0]
    apart = (xy[:, None] - xy[tell][None]).square().sum(2)
    weight = (length[tell] / 4).square() / (1 + apart / 12.0**2).square()
    weight = weight * (apart > 2.0**2)  # an object does not count for itself
    way = torch.stack(((fold * yaw[tell]).cos(), (fold * yaw[tell]).sin()), 1)
    return weight @ way / (weight.sum(1) + 0.3)[:, None]


def shapes_of(
    points: Tensor,
    height: Tensor,
    cluster: Tensor,
    angle: Tensor,
    overhead: Tensor,
    tall: Tensor,
    piece: Tensor,
    usual: Tensor,
    upper_m: float,
) -> Shapes:
    """Measure clusters whose rectangles have the given angles.

    Args:
        points: (N, 3) m.
        height: (N,) above the ground, m.
        cluster: (N,) int64.
        angle: (C,) rad; every cluster has at least one point.
        overhead: (C,) as `Shapes` has it.
        tall: (C,) likewise.
        piece: (C,) likewise.
        usual: (C, 2) likewise.
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
    # A seventh of the longer side at each end, and what lies between.
    sides = high[:, :2] - low[:, :2]
    turned = (sides[:, 1] > sides[:, 0])[cluster]
    start, size = torch.where(turned, low[:, 1][cluster], low[:, 0][cluster]), sides.amax(1)[cluster]
    part = (torch.where(turned, across, along) - start) / size.clamp(min=0.1)
    section = (part * 7).long().clamp(0, 6)
    tops = extremes(height, cluster * 7 + section, count * 7)[1].view(count, 7)
    middle = tops[:, 2:5].amax(1)
    drop = middle - torch.minimum(tops[:, 0], tops[:, 6])
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
        drop=torch.where(torch.isfinite(middle), drop, torch.full_like(drop, 0.2)),
        usual=usual,
    )
