"""Connected components of occupied cells in the bird's-eye view; can be scripted."""

from __future__ import annotations

import torch
from torch import Tensor


def occupied_cells(xy: Tensor, reach_m: float, cell_m: float) -> tuple[Tensor, Tensor]:
    """Return the cells of a square grid that contain points.

    Args:
        xy: (N, 2) m, within `reach_m` in x and in y.
        reach_m: half of the grid's side, m.
        cell_m: side of a cell, m.

    Returns:
        (M, 2) int64 row and column of the occupied cells, and (N,) int64 the cell of each point.
    """
    side = int(2 * reach_m / cell_m) + 1
    grid = ((xy + reach_m) / cell_m).long().clamp(0, side - 1)
    key = grid[:, 0] * side + grid[:, 1]
    taken = torch.zeros(side * side, dtype=torch.bool, device=xy.device)
    taken[key] = True
    keys = taken.nonzero()[:, 0]
    number = torch.zeros(side * side, dtype=torch.long, device=xy.device)
    number[keys] = torch.arange(len(keys), device=xy.device)
    return torch.stack((keys // side, keys % side), 1), number[key]


def neighbours(cells: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Return pairs of occupied cells whose centres are at most `radius` cells apart, each pair once.

    Args:
        cells: (M, 2) row and column, ordered by row, then column.
        radius: cells.

    Returns:
        (E,) and (E,) int64 rows of `cells`.
    """
    width = int(cells[:, 1].max()) + 2 * radius + 1 if len(cells) else 1
    height = int(cells[:, 0].max()) + radius + 1 if len(cells) else 1
    key = cells[:, 0] * width + cells[:, 1] + radius
    taken = torch.zeros([width * height], dtype=torch.bool, device=cells.device)
    taken[key] = True
    number = torch.zeros([width * height], dtype=torch.long, device=cells.device)
    number[key] = torch.arange(len(cells), device=cells.device)
    rows = torch.arange(radius + 1, device=cells.device)[:, None]
    columns = torch.arange(-radius, radius + 1, device=cells.device)[None]
    near = (rows * rows + columns * columns <= radius * radius) & ((rows > 0) | (columns > 0))
    offset = (rows * width + columns)[near]
    other = (key[:, None] + offset[None]).flatten()
    hit = taken.index_select(0, other).nonzero()[:, 0]
    return hit.div(len(offset), rounding_mode="floor"), number.index_select(0, other.index_select(0, hit))


def components(first: Tensor, second: Tensor, label: Tensor) -> Tensor:
    """Label the connected components of a graph by their smallest node.

    Every node takes the least label around it and hands it to its label's node, then labels are followed to
    their ends (as FastSV by Zhang, Azad and Hu, 2020); links inside of a component are dropped on the way.
    The number of rounds grows with the logarithm of the longest path.

    Args:
        first: (E,) int64 one end of each link.
        second: (E,) int64 the other.
        label: (nodes,) int64 components known before, so labelled; `arange` for none.

    Returns:
        (nodes,) int64.
    """
    while True:
        first, second = label.index_select(0, first), label.index_select(0, second)
        apart = (first != second).nonzero()[:, 0]
        if len(apart) == 0:
            break
        first, second = first.index_select(0, apart), second.index_select(0, apart)
        least = torch.minimum(first, second)
        label = label.scatter_reduce(0, first, least, "amin")
        label = label.scatter_reduce(0, second, least, "amin")
        after = label.index_select(0, label)
        while not bool((label == after).all()):
            label = after
            after = label.index_select(0, label)
    return label
