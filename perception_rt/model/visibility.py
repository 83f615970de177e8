"""Occupied and free directions of a lidar, as evidence for and against boxes; can be scripted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception_rt.model.boxes3d import corners_bev


def returns_by_direction(xy: Tensor, reach_m: float, sectors: int, step_m: float) -> Tensor:
    """Return how many points lie nearer than each distance, in each direction.

    Args:
        xy: (N, 2) m, the sensor at 0.
        reach_m: the greatest distance, m.
        sectors: directions of a full turn.
        step_m: between distances, m.

    Returns:
        (sectors, rings + 1) int64; column k counts the points nearer than k steps.
    """
    rings = int(reach_m / step_m) + 1
    ring = (torch.hypot(xy[:, 0], xy[:, 1]) / step_m).long().clamp(0, rings - 1)
    count = torch.bincount(
        _sector(torch.atan2(xy[:, 1], xy[:, 0]), sectors) * rings + ring, minlength=sectors * rings
    )
    nearer = count.view(sectors, rings).cumsum(1)
    return torch.cat((torch.zeros_like(nearer[:, :1]), nearer), 1)


def _sector(azimuth: Tensor, sectors: int) -> Tensor:
    return torch.remainder((azimuth * (sectors / (2 * math.pi))).floor().long(), sectors)


def ray_spacing(points: Tensor, elevations: int) -> tuple[Tensor, float]:
    """Return the spacing of a lidar's rays by elevation, estimated from the points.

    A sector of one degree of azimuth crosses each ring once: the share of the bins of 0.2 degrees of
    elevation that hold points there tells how far apart the rings are, and the number of points how far apart
    those in a ring.

    Args:
        points: (N, 3) m, the sensor at 0.
        elevations: rows from -pi / 2 to pi / 2; 90 for those of 2 degrees that the widths above belong to.

    Returns:
        (elevations, 2) angles between rings, and between the points of a ring, rad, in windows of three rows;
        the elevation of the highest ray, rad.
    """
    sector = _sector(torch.atan2(points[:, 1], points[:, 0]), 360)
    elevation = torch.atan2(points[:, 2], torch.hypot(points[:, 0], points[:, 1]))
    fine = ((elevation / math.pi + 0.5) * (10 * elevations)).long().clamp(0, 10 * elevations - 1)
    count = torch.bincount(fine * 360 + sector, minlength=10 * elevations * 360).view(elevations, 10, 360)
    both = torch.stack((count.sum(1), (count > 0).sum(1))).float()
    window = both.clone()
    window[:, 1:].add_(both[:, :-1])
    window[:, :-1].add_(both[:, 1:])
    sectors = (window[0] > 0).sum(1).float()
    mean = (window.sum(2) / sectors.clamp(min=1)).clamp(min=1)
    rings = (3 * math.pi / elevations / mean[1]).clamp(max=0.1)
    in_ring = 3 * math.pi / elevations * (math.pi / 180) / (mean[0] * rings)
    # A few stray points are not a ring.
    shown = ((count > 0).sum(2).view(-1) >= 4).nonzero()[:, 0]
    highest = (int(shown[-1]) + 1) / (10 * elevations) * math.pi - math.pi / 2 if len(shown) else 0.0
    return torch.stack((rings, in_ring), 1), highest


def crossed(boxes: Tensor, azimuth: Tensor) -> tuple[Tensor, Tensor]:
    """Return where rays from the sensor at 0 enter and leave footprints, by the slab method.

    Args:
        boxes: (B, 7) xyzlwh_yaw.
        azimuth: (B, K) rad.

    Returns:
        (B, K) distances in m: of entry, and of exit; the latter is less where a ray misses.
    """
    cos, sin = boxes[:, 6:7].cos(), boxes[:, 6:7].sin()
    along, across = azimuth.cos() * cos + azimuth.sin() * sin, azimuth.sin() * cos - azimuth.cos() * sin
    x = boxes[:, 0:1] * cos + boxes[:, 1:2] * sin
    y = boxes[:, 1:2] * cos - boxes[:, 0:1] * sin
    along = torch.where(along.abs() < 1e-6, torch.full_like(along, 1e-6), along)
    across = torch.where(across.abs() < 1e-6, torch.full_like(across, 1e-6), across)
    length, width = boxes[:, 3:4] / 2, boxes[:, 4:5] / 2
    a, b = (x - length) / along, (x + length) / along
    c, d = (y - width) / across, (y + width) / across
    enter = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    leave = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return enter.clamp(min=0), leave


def directions_over(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return twelve directions over each footprint, 0.2 m inside of its corners, as those of a car are round.

    Returns:
        (B, 12) azimuth, rad; (B, 12) and (B, 12) entry and exit, m, as of `crossed`.
    """
    middle = torch.atan2(boxes[:, 1], boxes[:, 0])
    inner = boxes.clone()
    inner[:, 3:5] = (boxes[:, 3:5] - 0.4).clamp(min=0.2)
    corners = corners_bev(inner)
    off = torch.atan2(corners[..., 1], corners[..., 0]) - middle[:, None]
    off = torch.remainder(off + math.pi, 2 * math.pi) - math.pi
    low, high = off.amin(1), off.amax(1)
    part = (torch.arange(12, device=boxes.device) + 0.5) / 12
    azimuth = (middle + low)[:, None] + (high - low)[:, None] * part
    enter, leave = crossed(boxes, azimuth)
    return azimuth, enter, leave


def seen_and_seen_through(
    boxes: Tensor, body: Tensor, ground: Tensor, step_m: float
) -> tuple[Tensor, Tensor]:
    """Return the share of twelve directions over a box in which the lidar hit it, and in which it is seen
    through.

    Through it: a return from the ground inside the footprint or behind it, up to half as far again as its
    near side: nearer than that even a low car seen from a high roof hides the ground.

    Args:
        boxes: (B, 7) xyzlwh_yaw.
        body: of the points above the ground, as `returns_by_direction` gives it.
        ground: of the points on the ground.
        step_m: of both.

    Returns:
        (B,) and (B,) in [0, 1]; the rest of the directions saw neither (something nearer hides the box).
    """
    azimuth, enter, leave = directions_over(boxes)
    sector = _sector(azimuth, body.shape[0])
    hit = _between(body, sector, enter - 0.3, leave + 0.3, step_m) > 0
    through = _between(ground, sector, enter + 0.3, torch.maximum(leave, 1.5 * enter), step_m) > 0
    return hit.float().mean(1), (through & ~hit).float().mean(1)


def ground_before(
    boxes: Tensor, body: Tensor, ground: Tensor, step_m: float, reach_m: Tensor, clear_m: Tensor
) -> Tensor:
    """Return how much of the visible part of a box has ground directly in front of it.

    What stands on a road does; what shows through or over a hedge, a fence or a wall does not.

    Args:
        boxes: (B, 7) xyzlwh_yaw.
        body: as of `seen_and_seen_through`.
        ground: likewise.
        step_m: likewise.
        reach_m: (B,) the ground may lie so far before the box, m.
        clear_m: (B,) nothing else may stand so near before it, m.

    Returns:
        (B,) in [0, 1], a share of the directions in which the box was seen; 1 where nothing was seen before
        it, as close to the lidar.
    """
    azimuth, enter, leave = directions_over(boxes)
    sector = _sector(azimuth, body.shape[0])
    front, foot = enter - 0.4, enter + 0.5
    hit = _between(body, sector, enter - 0.3, leave + 0.3, step_m) > 0
    shown = _between(ground, sector, enter - reach_m[:, None], torch.minimum(leave, foot), step_m) > 0
    hidden = _between(body, sector, enter - clear_m[:, None], front, step_m) > 0
    start = torch.zeros_like(enter)
    before = _between(body, sector, start, front, step_m) + _between(ground, sector, start, foot, step_m)
    told = (hit & (before > 0)).float().sum(1)
    share = (hit & shown & ~hidden).float().sum(1) / told.clamp(min=1)
    return torch.where(told > 0, share, torch.ones_like(share))


def _between(nearer: Tensor, sector: Tensor, start: Tensor, end: Tensor, step_m: float) -> Tensor:
    last = nearer.shape[1] - 1
    first, behind = (start / step_m).long().clamp(0, last), (end / step_m).long().clamp(0, last)
    return nearer[sector, behind] - nearer[sector, first]
