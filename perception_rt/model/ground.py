"""A local ground model with one height for each cell, robust to objects on it; can be scripted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def lowest(cells: Tensor, z: Tensor, count: int) -> Tensor:
    """Return (count,) the smallest of `z` in each cell, inf for an empty cell."""
    empty = torch.full([count], float("inf"), device=z.device, dtype=z.dtype)
    return empty.scatter_reduce(0, cells, z, "amin")


def plane(height: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Fit the plane of the lowest points near the sensor.

    Iteratively reweighted least squares with Cauchy's weights (Holland and Welsch, 1977); objects on the
    ground get less weight than points below it.

    Args:
        height: (N,) of the lowest points, m.
        x: (N,) m.
        y: (N,) m.

    Returns:
        (3,) float64: height at the sensor, m, and slopes along x and y; zeros without points.
    """
    if len(height) == 0:
        return torch.zeros(3, dtype=torch.float64, device=height.device)
    design = torch.stack((torch.ones_like(x), x, y), 1).double()
    near = torch.hypot(x, y).double() / 15
    weight = 1 / (1 + near * near)  # the ground bends
    height = height.double()
    ridge = torch.diag(torch.tensor([1e-6, 10.0, 10.0], dtype=torch.float64)).to(height.device)
    found = torch.zeros(3, dtype=torch.float64, device=height.device)
    found[0] = height[near <= torch.clamp(near.min() * 2, min=1.3)].quantile(0.3)
    for scale in (2.0, 1.0, 0.5, 0.3, 0.3):
        off = (height - design @ found) / scale
        robust = weight / (1 + torch.where(off > 0, 2 * off, off).square())
        weighted = design * robust[:, None]
        found = torch.linalg.solve(weighted.t() @ design + ridge, weighted.t() @ height)
    return found


def without_echoes(height: Tensor, expected: Tensor, distance: Tensor, slope: float, depth: float) -> Tensor:
    """Empty the cells without ground: echoes from a reflecting surface, and overhanging objects.

    Echoes appear below the road. A cell is an echo if it is deeper than ground of slope `slope`, or more than
    `depth` below the third lowest cell of the ring of 5 x 5 cells around it. A cell above half that slope
    belongs to a house front or a tree crown without visible ground.

    Args:
        height: (1, 1, H, W) m, inf where empty.
        expected: (1, 1, H, W) of the plane of the ground, m.
        distance: (1, 1, H, W) of the cells from the sensor, m.
        slope: m per m.
        depth: m.
    """
    off = height - expected
    outside = (off < -depth - slope * distance) | (off > depth + slope / 2 * distance)
    height = height.masked_fill(outside, float("inf"))
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
    """Return the highest surface below `height` that rises by at most `rise` from cell to cell.

    Objects rise faster than any road and are cut off, up to a width of twice `reach`.

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
    """Smooth a height map, and fill the cells that are not `valid` from the nearest valid ones.

    Normalised convolution (Knutsson and Westin, 1993) at doubling widths; a wider one has a thousandth of the
    weight, so it matters only where the narrower ones have no data. Without any valid cell the height is 0.

    Args:
        height: (1, 1, H, W) m.
        valid: (1, 1, H, W) bool.
    """
    weight = valid.to(height.dtype)
    both = torch.cat((torch.where(valid, height, torch.zeros_like(height)), weight), 1)
    sums, share, radius = torch.zeros_like(both), 1.0, 1
    while radius < 2 * max(height.shape[2], height.shape[3]):
        both = _box(both, radius)
        sums = sums + share * both
        share, radius = share * 1e-3, 2 * radius
    return sums[:, :1] / sums[:, 1:].clamp(min=1e-30)


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over a square of 3 x 3 samples that lie `radius` apart; zeros outside."""
    rows, columns = x.shape[2], x.shape[3]
    if radius < rows:
        y = x.clone()
        y[:, :, radius:].add_(x[:, :, :-radius])
        y[:, :, :-radius].add_(x[:, :, radius:])
        x = y / 3
    else:
        x = x / 3
    if radius < columns:
        y = x.clone()
        y[..., radius:].add_(x[..., :-radius])
        y[..., :-radius].add_(x[..., radius:])
        return y / 3
    return x / 3


def height_above_ground(points: Tensor, reach_m: float, cell_m: float, slope: float) -> Tensor:
    """Return the height of points above the ground near them.

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
    x, y = axis[:, None].expand(side, side), axis[None].expand(side, side)
    measured = torch.isfinite(height[0, 0])
    found = plane(height[0, 0][measured], x[measured], y[measured]).to(height.dtype)
    expected = (found[0] + found[1] * x + found[2] * y)[None, None]
    height = without_echoes(height, expected, torch.hypot(x, y)[None, None], slope, 0.5)
    # A lorry, 12 m long, shows the ground at its ends.
    above = height - expected
    envelope = lower_envelope(above, slope * cell_m, int(6.0 / cell_m))
    surface = expected + filled(envelope, above - envelope < 0.1)
    # grid_sample takes (column, row), the outer edges of the grid at -1 and 1.
    at = ((points[:, :2] + reach_m) * (2 / (cell_m * side)) - 1).flip(1)
    ground = functional.grid_sample(
        surface, at[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return points[:, 2] - ground[0, 0, 0]
