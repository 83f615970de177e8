"""Classify clusters by shape, and complete the boxes of partly visible vehicles; can be scripted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception_rt.model.lshape import Shapes
from perception_rt.model.visibility import seen_and_seen_through


def ramp(value: Tensor, zero: float, one: float) -> Tensor:
    """Return 0 at `zero`, 1 at `one`, linear in between, constant outside; `zero` may exceed `one`."""
    return ((value - zero) / (one - zero)).clamp(0, 1)


def ramp_between(value: Tensor, zero: Tensor, one: Tensor) -> Tensor:
    """Return `ramp` with separate ends for each value."""
    return ((value - zero) / (one - zero)).clamp(0, 1)


def sides(s: Shapes) -> tuple[Tensor, Tensor]:
    """Return (C,) the longer and (C,) the shorter side of each rectangle, m."""
    along, across = s.along[:, 1] - s.along[:, 0], s.across[:, 1] - s.across[:, 0]
    return torch.maximum(along, across), torch.minimum(along, across)


def like_vehicle(s: Shapes, spacing: Tensor, highest: float) -> Tensor:
    """Return (C,) in [0, 1], how similar a shape is to the visible part of a car or van, before completion.

    Args:
        s: (C,) shapes.
        spacing: (C, 2) as of `spacing_at`: where rings lie far apart less of a car shows.
        highest: elevation of the highest ray, rad.
    """
    longer, shorter = sides(s)
    unseen = spacing[:, 0].clamp(max=0.65)  # of the height, between two rings
    cut = s.top + spacing[:, 0] > away(s) * math.tan(highest) - s.ground  # a low lidar sees no roofs
    higher = s.top + torch.where(cut, torch.full_like(unseen, 0.65), unseen)
    rows = (1.3 / spacing[:, 0] / 4).clamp(0.25, 1)  # of four, which show a hood and a roof
    enough = (s.points / (0.4 * returns(1.5, spacing)).clamp(12, 30)).clamp(max=1)
    enough = enough * ramp(longer + 2 * spacing[:, 1], 1.0, 1.6)
    # Cars stay below 2 m; what shows the length of a van may be as high as one.
    high = ramp(s.top - 0.6 * ramp(longer, 2.5, 4.5), 2.5, 2.0)
    stands = ramp(higher, 1.1, 1.4) * ramp(s.bottom - unseen, 0.8, 0.4) * high * (1 - s.overhead)
    # A side without any depth is a wall: a car's roof and hood lie behind its side.
    deep = ramp(longer, 2.0, 3.0)
    deep = ramp_between(shorter, rows * (0.15 + 0.1 * deep), rows * (0.5 + 0.2 * deep))
    # Where all of its length shows, its hood or its ends are lower than its roof; a wall's are not.
    whole = ramp(longer, 3.0, 3.6)
    car = whole * ramp(longer, 6.0, 5.5) * ramp(s.drop, 0.3, 0.5)
    wall = whole * (1 - torch.maximum(ramp(s.drop, 0.1, 0.3), ramp(spacing[:, 0], 0.15, 0.3))) * ~cut
    # What is small and close to other things is a piece of them.
    alone = torch.where(s.piece, ramp(longer, 3.0, 4.0) * ramp(shorter, 0.8, 1.3), torch.ones_like(longer))
    deep = torch.maximum(deep * alone, car) * (1 - 0.6 * wall)
    return enough * stands * deep * ramp(s.hollow, 0.24, 0.17)


def like_person(s: Shapes, spacing: Tensor) -> tuple[Tensor, Tensor]:
    """Return (C,) and (C,) in [0, 1], how similar a shape is to a pedestrian, and to a cyclist.

    Args:
        s: (C,) shapes.
        spacing: (C, 2) as of `spacing_at`.
    """
    longer, shorter = sides(s)
    unseen, unseen_aside = (0.5 * spacing[:, 0]).clamp(max=0.4), (2 * spacing[:, 1]).clamp(max=0.4)
    upright = ramp(s.top + unseen, 1.3, 1.55) * ramp(s.top, 2.2, 1.95) * ramp(s.bottom - unseen, 0.7, 0.4)
    points, expected = s.points.float(), returns(0.65, spacing)
    upright = upright * ramp_between(points, 0.1 * expected, 0.5 * expected) * ramp(points, 2.0, 5.0)
    upright = upright * torch.where(s.piece, 0.7, 1.0)
    upright = upright * (1 - s.tall) * ramp(away(s), 50.0, 25.0)  # farther away a post looks the same
    # As thick as a person, and not much longer than thick, but for a stride.
    compact = ramp(longer - 0.5 * shorter, 0.9, 0.65) * ramp(longer, 1.2, 0.9)
    compact = compact * ramp(s.upper + unseen_aside, 0.25, 0.4)  # a post is thinner
    pedestrian = (
        compact * ramp(longer + unseen_aside, 0.25, 0.4) * ramp(shorter + unseen_aside / 2, 0.15, 0.3)
    )
    # A rider is in the middle, not along two sides.
    cyclist = ramp(longer, 1.0, 1.4) * ramp(longer, 2.3, 1.9) * ramp(shorter, 1.1, 0.8)
    cyclist = cyclist * ramp(s.hollow, 0.08, 0.13) * ramp(s.upper / longer.clamp(min=1e-3), 0.85, 0.65)
    return 0.8 * upright * pedestrian, 0.8 * upright * cyclist


def away(s: Shapes) -> Tensor:
    """Return (C,) distance of the centres from the sensor, m."""
    return torch.hypot(s.along.mean(1), s.across.mean(1))


def returns(area: float, spacing: Tensor) -> Tensor:
    """Return (C,) the expected number of points on a surface of this area, m^2."""
    return area / (spacing[:, 0] * spacing[:, 1]).clamp(min=1e-6)


def spacing_at(s: Shapes, rays: Tensor) -> Tensor:
    """Return (C, 2) m between the rings near the top of each shape, and between the points of a ring.

    Args:
        s: (C,) shapes.
        rays: as of `ray_spacing`.
    """
    distance = away(s)
    elevation = torch.atan2(s.ground + s.top, distance)
    row = ((elevation / math.pi + 0.5) * len(rays)).long().clamp(0, len(rays) - 1)
    return rays[row] * distance[:, None]


def grown(interval: Tensor, size: float, growth: int) -> tuple[Tensor, Tensor]:
    """Enlarge intervals to at least `size`, and return how plausible that is.

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
    """Return (C, 7) xyzlwh_yaw of intervals in axes rotated by `yaw`, on the ground."""
    a, b = along.mean(1), across.mean(1)
    x, y = a * yaw.cos() - b * yaw.sin(), a * yaw.sin() + b * yaw.cos()
    length, width = along[:, 1] - along[:, 0], across[:, 1] - across[:, 0]
    return torch.stack((x, y, ground + height / 2, length, width, height, yaw), 1)


def whole_vehicles(
    s: Shapes, length: float, width: float, alike: float, body: Tensor, ground: Tensor, step_m: float
) -> tuple[Tensor, Tensor]:
    """Complete the visible parts of vehicles in the way that contradicts the lidar least.

    Either axis may be the length, and each may grow in one or both directions. A car seen from behind shows
    no length, so growing has no cost by itself, but there is no car where the lidar saw the ground. Most cars
    are parallel to long objects beside them.

    Args:
        s: (C,) shapes.
        length: of a usual car, m.
        width: of a usual car, m.
        alike: by how much it is less plausible to stand across all that is long near by, in [0, 1].
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
        size = ramp(along[:, 1] - along[:, 0], 8.0, 6.0) * ramp(across[:, 1] - across[:, 0], 2.9, 2.4)
        along_it = s.usual[:, 0] * (2 * yaw).cos() + s.usual[:, 1] * (2 * yaw).sin()
        size = size * (1 - alike / 2 * (torch.hypot(s.usual[:, 0], s.usual[:, 1]) - along_it))
        for i in range(3):
            whole_length, by_length = grown(along, length, i)
            for j in range(3):
                whole_width, by_width = grown(across, width, j)
                boxes.append(boxes_of(whole_length, whole_width, yaw, s.ground, height))
                plausible.append(size * by_length * by_width)
    ways, count = len(boxes), len(s.angle)
    seen, through = seen_and_seen_through(torch.cat(boxes), body, ground, step_m)
    clear = ramp(seen / (seen + through).clamp(min=1e-6), 0.6, 1.0)
    fits, way = (torch.stack(plausible) * clear.view(ways, count)).max(0)
    return torch.stack(boxes)[way, torch.arange(count, device=way.device)], fits


def like_inside(boxes: Tensor, tops: Tensor, reach_m: float, cell_m: float, spacing: Tensor) -> Tensor:
    """Return (B,) in [0, 1], how similar the contents and surroundings of each footprint are to a vehicle.

    A vehicle shows its whole width, from behind or by its roof, about as high everywhere, and has nothing
    half a metre beside it; what is made up of a post, a wall and a bush does not.

    Args:
        boxes: (B, 7) xyzlwh_yaw.
        tops: (side, side) heights above the ground of the highest point of each cell by x and y, m.
        reach_m: half of the grid's side, m.
        cell_m: side of a cell, m.
        spacing: (B,) between the rings there, m: where they lie far apart a roof may go unseen.
    """
    along = (torch.arange(24, device=boxes.device) + 0.5) / 24 - 0.5
    across = (torch.arange(8, device=boxes.device) + 0.5) / 8 - 0.5
    a = boxes[:, 3:4] * along.repeat_interleave(8)
    b = boxes[:, 4:5] * across.repeat(24)
    inside = _looked_up(boxes, a, b, tops, reach_m, cell_m).view(-1, 24, 4, 2)
    profile = inside.amax(3).amax(1)
    low, high = profile.amin(1), profile.amax(1)
    aside = (boxes[:, 6] - torch.atan2(boxes[:, 1], boxes[:, 0])).sin().abs()
    # Between rings far apart, or from its side, a roof and so the width may go unseen.
    unseen = torch.maximum(ramp(spacing, 0.15, 0.3), ramp(aside, 0.7, 0.95))
    whole = ramp(low, 0.4, 0.8) * ramp(high - low, 1.6, 1.1)
    step = torch.arange(-4, 4, device=boxes.device) / 4
    one = torch.ones_like(step)
    a = torch.cat((step, one, -step, -one)) * (boxes[:, 3:4] / 2 + 0.5)
    b = torch.cat((-one, step, one, -step)) * (boxes[:, 4:5] / 2 + 0.5)
    beside = (_looked_up(boxes, a, b, tops, reach_m, cell_m) > 0).float().mean(1)
    return torch.maximum(whole, unseen) * ramp(beside, 0.4, 0.08)


def _looked_up(
    boxes: Tensor, along: Tensor, across: Tensor, grid: Tensor, reach_m: float, cell_m: float
) -> Tensor:
    """Return values of a grid at positions in the axes of boxes: (B, K) for (B, K) along and across, m."""
    cos, sin = boxes[:, 6:7].cos(), boxes[:, 6:7].sin()
    x = boxes[:, 0:1] + along * cos - across * sin
    y = boxes[:, 1:2] + along * sin + across * cos
    side = len(grid)
    row = ((x + reach_m) / cell_m).long().clamp(0, side - 1)
    column = ((y + reach_m) / cell_m).long().clamp(0, side - 1)
    return grid.flatten().index_select(0, (row * side + column).flatten()).view(along.shape)


def upright_box(s: Shapes, length: float, width: float) -> Tensor:
    """Return (C, 7) boxes around small objects; sides of at least `length` and `width`, m."""
    quarter = s.across[:, 1] - s.across[:, 0] > s.along[:, 1] - s.along[:, 0]
    along = torch.where(quarter[:, None], s.across, s.along)
    across = torch.where(quarter[:, None], -s.along.flip(1), s.across)
    yaw = torch.where(quarter, s.angle + math.pi / 2, s.angle)
    return boxes_of(grown(along, length, 0)[0], grown(across, width, 0)[0], yaw, s.ground, s.top)


def middles(s: Shapes) -> Tensor:
    """Return (C, 2) x y of the centre of the visible part, m."""
    a, b = s.along.mean(1), s.across.mean(1)
    cos, sin = s.angle.cos(), s.angle.sin()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), 1)


def explained(seen: Tensor, scores: Tensor, cars: Tensor, car_scores: Tensor) -> Tensor:
    """Return whether an object lies in a car with a better score, and so is a part of it.

    Args:
        seen: (N, 2) x y of the middle of what was seen, m.
        scores: (N,).
        cars: (C, 7) boxes.
        car_scores: (C,).

    Returns:
        (N,) bool.
    """
    away = seen[:, None] - cars[None, :, :2]
    cos, sin = cars[:, 6].cos(), cars[:, 6].sin()
    along, across = away[..., 0] * cos + away[..., 1] * sin, away[..., 1] * cos - away[..., 0] * sin
    inside = (along.abs() < cars[:, 3] / 2) & (across.abs() < cars[:, 4] / 2)
    return (inside & (car_scores[None] > scores[:, None])).any(1)
