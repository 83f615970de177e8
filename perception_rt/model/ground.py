"""A local model of the ground: one height a cell, robust to what stands on it; can be scripted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def lowest(cells: Tensor, z: Tensor, count: int) -> Tensor:
    """(count,) the smallest of `z` in each cell, inf where a cell is empty."""
    empty = torch.full([count], float("inf"), device=z.device, dtype=z.dtype)
    return empty.scatter_reduce(0, cells, z, "amin")


def without_echoes(height: Tensor, distance: Tensor, slope: float, depth: float) -> Tensor:
    """Empty the cells that hold echoes by way of a reflecting surface: they appear below the road.

    Those deeper than ground of slope `slope` can be, from the height of the ground near the sensor on, and
    those deeper than `depth` below the third lowest cell of the ring of 5 x 5 about them: echoes are few.

    Args:
        height: (1, 1, H, W) m, inf where empty.
        distance: (1, 1, H, W) of the cells from the sensor, m.
        slope: m per m.
        depth: m.
    """
    measured = torch.isfinite(height)
    near = measured & (distance < 20)
    at_sensor = height[near if bool(near.any()) else measured].median()
    height = height.masked_fill(height < at_sensor - depth - slope * distance, float("inf"))
    around = functional.pad(height, [2, 2, 2, 2], value=float("inf"))
    rows, columns = height.shape[2], height.shape[3]
    first = torch.full_like(height, float("inf"))
    second, third = first, first
    for i in range(5):
        for j in range(5):
            if i == 0 or i == 4 or j == 0 or j == 4:
                other = around[:, :, i : i + rows, j : j + columns]
                third = torch.minimum(third, torch.maximum(second, other))
                second = torch.minimum(second, torch.maximum(first, other))
                first = torch.minimum(first, other)
    return height.masked_fill((third - height > depth) & torch.isfinite(third), float("inf"))


def lower_envelope(height: Tensor, rise: float, reach: int) -> Tensor:
    """The highest surface below `height` that rises by at most `rise` from a cell to the next.

    What stands on the ground rises faster than any road and is cut off, up to a width of twice `reach`.

    Args:
        height: (1, 1, H, W) m, inf where empty.
        rise: m.
        reach: cells.
    """
    for _ in range(reach):
        lower = -functional.max_pool2d(-height, 3, 1, 1) + rise
        height = torch.minimum(height, lower)
    return height


def filled(height: Tensor, valid: Tensor) -> Tensor:
    """Smooth, and fill the cells that are not `valid` from the nearest that are.

    Normalised convolution (Knutsson and Westin, 1993) at doubling widths; a wider one counts a thousandth, so
    that it shows only where the narrower ones saw nothing. Where nothing is valid the height is 0.

    Args:
        height: (1, 1, H, W) m.
        valid: (1, 1, H, W) bool.
    """
    weight = valid.to(height.dtype)
    value = torch.where(valid, height, torch.zeros_like(height))
    total, mass, share, radius = torch.zeros_like(value), torch.zeros_like(value), 1.0, 1
    while radius < 2 * max(height.shape[2], height.shape[3]):
        value, weight = _box(value, radius), _box(weight, radius)
        total, mass = total + share * value, mass + share * weight
        share, radius = share * 1e-3, 2 * radius
    return total / mass.clamp(min=1e-30)


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over a square of 3 x 3 samples that lie `radius` apart; zeros outside."""
    rows = functional.pad(x, [0, 0, radius, radius])
    height, width = x.shape[2], x.shape[3]
    x = (
        rows[:, :, :height]
        + rows[:, :, radius : radius + height]
        + rows[:, :, 2 * radius : 2 * radius + height]
    ) / 3
    columns = functional.pad(x, [radius, radius])
    return (
        columns[..., :width]
        + columns[..., radius : radius + width]
        + columns[..., 2 * radius : 2 * radius + width]
    ) / 3


def height_above_ground(points: Tensor, reach_m: float, cell_m: float, slope: float) -> Tensor:
    """Height of points above the ground near them.

    Args:
        points: (N, 3 or more) x y z in m, |x| and |y| below `reach_m`.
        reach_m: half of the side of the modelled square, m.
        cell_m: of the grid of heights, m.
        slope: the steepest ground, m per m.

    Returns:
        (N,) m.
    """
    side = int(2 * reach_m / cell_m) + 1
    grid = ((points[:, :2] + reach_m) / cell_m).long().clamp(0, side - 1)
    height = lowest(grid[:, 0] * side + grid[:, 1], points[:, 2], side * side).view(1, 1, side, side)
    axis = torch.arange(side, device=points.device) * cell_m + (cell_m / 2 - reach_m)
    distance = torch.hypot(axis[:, None], axis[None])[None, None]
    height = without_echoes(height, distance, slope, 0.5)
    # A lorry, 12 m long, shows the ground at its ends.
    envelope = lower_envelope(height, slope * cell_m, int(6.0 / cell_m))
    surface = filled(envelope, height - envelope < 0.1)
    # grid_sample takes (column, row), the outer edges of the grid at -1 and 1.
    at = ((points[:, :2] + reach_m) * (2 / (cell_m * side)) - 1).flip(1)
    ground = functional.grid_sample(
        surface, at[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return points[:, 2] - ground[0, 0, 0]
