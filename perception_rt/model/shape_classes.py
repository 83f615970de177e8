"""What a cluster's shape can be, and the whole box of which the lidar saw a part; can be scripted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception_rt.model.lshape import Shapes
from perception_rt.model.visibility import seen_and_seen_through


def ramp(value: Tensor, zero: float, one: float) -> Tensor:
    """0 at `zero`, 1 at `one`, straight between, constant beyond; `zero` may be the greater."""
    return ((value - zero) / (one - zero)).clamp(0, 1)


def sides(s: Shapes) -> tuple[Tensor, Tensor]:
    """(C,) and (C,) the longer and the shorter side of each rectangle, m."""
    along, across = s.along[:, 1] - s.along[:, 0], s.across[:, 1] - s.across[:, 0]
    return torch.maximum(along, across), torch.minimum(along, across)


def like_vehicle(s: Shapes) -> Tensor:
    """(C,) in [0, 1], how much a shape is like the seen part of a car or van, completion apart."""
    longer, shorter = sides(s)
    enough = ramp(s.points.float(), 0.0, 30.0) * ramp(longer, 0.6, 1.3)
    # Cars stay below 2 m; what shows the length of a van may be as high as one.
    high = ramp(s.top - 0.6 * ramp(longer, 2.5, 4.5), 2.5, 2.0)
    stands = ramp(s.top, 0.7, 1.2) * ramp(s.bottom, 1.0, 0.5) * high * (1 - s.overhead)
    # A long side without any depth is a wall: a car's roof and hood lie behind its side.
    deep = torch.where(longer > 2.2, ramp(shorter, 0.05, 0.35), torch.ones_like(shorter))
    return enough * stands * deep * ramp(s.hollow, 0.24, 0.17)


def like_person(s: Shapes) -> tuple[Tensor, Tensor]:
    """(C,) and (C,) in [0, 1], how much a shape is like a pedestrian, and like a cyclist."""
    longer, shorter = sides(s)
    upright = ramp(s.top, 1.0, 1.4) * ramp(s.top, 2.2, 1.9) * ramp(s.bottom, 0.7, 0.45)
    upright = upright * ramp(s.points.float(), 0.0, 50.0) * (s.overhead == 0).float()
    pedestrian = ramp(longer, 1.3, 0.9) * ramp(longer, 0.15, 0.4)
    cyclist = ramp(longer, 0.9, 1.3) * ramp(longer, 2.3, 1.9) * ramp(shorter, 1.1, 0.8)
    return 0.7 * upright * pedestrian, 0.7 * upright * cyclist


def grown(interval: Tensor, size: float, growth: int) -> tuple[Tensor, Tensor]:
    """Intervals grown to at least `size`, and how plausible that is.

    Args:
        interval: (C, 2) from, to, m, the sensor at 0.
        size: m.
        growth: 0 away from the sensor (evenly where the sensor is in between: both ends were in sight),
            1 upwards, 2 downwards.

    Returns:
        (C, 2) intervals; (C,) in [0, 1], less where more was added, the more so towards the sensor.
    """
    low, high = interval[:, 0], interval[:, 1]
    missing = (size - (high - low)).clamp(min=0)
    away = ((low + high) / (high - low).clamp(min=1e-3)).clamp(-1, 1) / 2 + 0.5
    share, towards = away, torch.zeros_like(away)
    if growth == 1:
        share, towards = torch.ones_like(away), 1 - away
    elif growth == 2:
        share, towards = torch.zeros_like(away), away
    plausible = 1 - (0.1 + 0.4 * towards) * missing / size
    return torch.stack((low - missing * (1 - share), high + missing * share), 1), plausible


def boxes_of(along: Tensor, across: Tensor, yaw: Tensor, ground: Tensor, height: Tensor) -> Tensor:
    """(C, 7) xyzlwh_yaw of intervals in axes turned by `yaw`, standing on the ground."""
    a, b = along.mean(1), across.mean(1)
    x, y = a * yaw.cos() - b * yaw.sin(), a * yaw.sin() + b * yaw.cos()
    length, width = along[:, 1] - along[:, 0], across[:, 1] - across[:, 0]
    return torch.stack((x, y, ground + height / 2, length, width, height, yaw), 1)


def whole_vehicles(
    s: Shapes, length: float, width: float, body: Tensor, ground: Tensor, step_m: float
) -> tuple[Tensor, Tensor]:
    """Complete what was seen of vehicles: of all ways, the one that the lidar contradicts least.

    Either axis may be the length, and each may grow either way or both. Growing is no error by itself, since
    a car from behind shows no length; but where the lidar saw the ground, there is no car.

    Args:
        s: (C,) shapes.
        length: of a usual car, m.
        width: of a usual car, m.
        body: as of `seen_and_seen_through`.
        ground: likewise.
        step_m: likewise.

    Returns:
        (C, 7) boxes and (C,) in [0, 1], how well size and view agree with a vehicle.
    """
    boxes: list[Tensor] = []
    plausible: list[Tensor] = []
    height = s.top.clamp(1.4, 3.0)
    for quarter in range(2):
        along = s.along if quarter == 0 else s.across
        across = s.across if quarter == 0 else -s.along.flip(1)
        yaw = s.angle + quarter * (math.pi / 2)
        # Up to long vans, with mirrors.
        size = ramp(along[:, 1] - along[:, 0], 8.0, 6.0) * ramp(across[:, 1] - across[:, 0], 3.0, 2.4)
        for i in range(3):
            whole_length, by_length = grown(along, length, i)
            for j in range(3):
                whole_width, by_width = grown(across, width, j)
                boxes.append(boxes_of(whole_length, whole_width, yaw, s.ground, height))
                plausible.append(size * by_length * by_width)
    ways, count = len(boxes), len(s.angle)
    seen, through = seen_and_seen_through(torch.cat(boxes), body, ground, step_m)
    clear = ramp(seen / (seen + through).clamp(min=1e-6), 0.5, 1.0)
    fits, way = (torch.stack(plausible) * clear.view(ways, count)).max(0)
    return torch.stack(boxes)[way, torch.arange(count, device=way.device)], fits


def upright_box(s: Shapes, length: float, width: float) -> Tensor:
    """(C, 7) boxes about small things: the longer side is the length; both at least as given, m."""
    quarter = s.across[:, 1] - s.across[:, 0] > s.along[:, 1] - s.along[:, 0]
    along = torch.where(quarter[:, None], s.across, s.along)
    across = torch.where(quarter[:, None], -s.along.flip(1), s.across)
    yaw = torch.where(quarter, s.angle + math.pi / 2, s.angle)
    return boxes_of(grown(along, length, 0)[0], grown(across, width, 0)[0], yaw, s.ground, s.top)


def middles(s: Shapes) -> Tensor:
    """(C, 2) x y of the middle of what was seen, m."""
    a, b = s.along.mean(1), s.across.mean(1)
    cos, sin = s.angle.cos(), s.angle.sin()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), 1)


def explained(seen: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Whether what was seen of a box lies in a car (label 0) with a better score, and so is a part of it.

    Args:
        seen: (N, 2) x y of the middle of what was seen, m.
        boxes: (N, 7).
        scores: (N,).
        labels: (N,).

    Returns:
        (N,) bool.
    """
    away = seen[:, None] - boxes[None, :, :2]
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    along, across = away[..., 0] * cos + away[..., 1] * sin, away[..., 1] * cos - away[..., 0] * sin
    inside = (along.abs() < boxes[:, 3] / 2) & (across.abs() < boxes[:, 4] / 2)
    better = (labels == 0)[None] & (scores[None] > scores[:, None])
    return (inside & better).any(1)
