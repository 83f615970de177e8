"""Connected components of occupied cells in the bird's-eye view; can be scripted."""

from __future__ import annotations

import torch
from torch import Tensor


def occupied_cells(xy: Tensor, reach_m: float, cell_m: float) -> tuple[Tensor, Tensor]:
    """The cells of a square grid that hold points.

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
    """Pairs of occupied cells at most `radius` rows and columns apart, each pair once.

    Args:
        cells: (M, 2) row and column, ordered by row, then column.
        radius: cells.

    Returns:
        (E,) and (E,) int64 rows of `cells`.
    """
    width = int(cells[:, 1].max()) + 2 * radius + 1 if len(cells) else 1
    height = int(cells[:, 0].max()) + radius + 1 if len(cells) else 1
    table = torch.full([width * height], -1, device=cells.device)
    key = cells[:, 0] * width + cells[:, 1] + radius
    count = torch.arange(len(cells), device=cells.device)
    table[key] = count
    steps = torch.arange(-radius, radius + 1, device=cells.device)
    offset = (torch.arange(radius + 1, device=cells.device)[:, None] * width + steps[None]).flatten()
    offset = offset[offset > 0]
    other = table[key[:, None] + offset[None]]
    at, column = torch.where(other >= 0)
    return at, other[at, column]


def components(first: Tensor, second: Tensor, count: int) -> tuple[Tensor, int]:
    """Number the connected components of a graph.

    Every node takes the least label around it and hands it to its label's node, then labels are followed to
    their ends (as FastSV by Zhang, Azad and Hu, 2020): the number of rounds grows with the logarithm of the
    longest path.

    Args:
        first: (E,) int64 one end of each edge.
        second: (E,) int64 the other.
        count: of nodes.

    Returns:
        (count,) int64 component of each node, from 0 on in order of their first nodes; how many there are.
    """
    label = torch.arange(count, device=first.device)
    while True:
        least = torch.minimum(label[first], label[second])
        before = label
        label = label.scatter_reduce(0, before[first], least, "amin")
        label = label.scatter_reduce(0, before[second], least, "amin")
        label = torch.minimum(label, label[label])
        while not bool((label == label[label]).all()):
            label = label[label]
        if bool((label == before).all()):
            break
    is_root = label == torch.arange(count, device=first.device)
    number = is_root.long().cumsum(0) - 1
    return number[label], int(is_root.sum())
