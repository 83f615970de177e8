"""Resize images by matrix products, which are fast on a GPU.

Resizing is separable: each output pixel is a weighted sum of a few input rows, then columns. ``area`` weights
are the exact overlaps of the pixels (as `cv2.INTER_AREA` when it shrinks; adaptive pooling is something
else), ``bilinear`` ones are `cv2.INTER_LINEAR`'s. Results are rounded to whole grey levels, as the tools that
networks are trained with resize uint8 images to uint8.
"""

import torch
from torch import Tensor


def axis_taps(n_in: int, n_out: int, area: bool) -> tuple[Tensor, Tensor]:
    """Return the inputs of each output along one axis, and their weights.

    Args:
        n_in: input length.
        n_out: output length.
        area: overlap weights if the axis shrinks; bilinear weights otherwise.

    Returns:
        index (n_out, K) int64 in [0, n_in), weight (n_out, K) float32; each row sums to 1.
    """
    out = torch.arange(n_out)
    if area and n_in > n_out:
        # In units of 1/n_out input pixels every edge is an integer, so the overlaps are exact.
        begin, end = out * n_in, (out + 1) * n_in
        taps = (n_in + n_out - 1) // n_out + 1
        index = (begin // n_out).unsqueeze(1) + torch.arange(taps)
        overlap = torch.minimum(end.unsqueeze(1), (index + 1) * n_out) - torch.maximum(
            begin.unsqueeze(1), index * n_out
        )
        return index.clamp(max=n_in - 1), overlap.clamp(min=0).to(torch.float64).div(n_in).float()
    source = ((out.double() + 0.5) * n_in / n_out - 0.5).clamp(0, n_in - 1)
    first = source.floor()
    fraction = (source - first).float()
    index = first.long().unsqueeze(1) + torch.arange(2)
    return index.clamp(max=n_in - 1), torch.stack([1 - fraction, fraction], 1)


def dense_tables(h: int, w: int, new_h: int, new_w: int, area: bool, swap: bool) -> list[Tensor]:
    """Return the tables with which `resize_dense` resizes images of h x w px to new_h x new_w."""
    rows, row_weights = axis_taps(h, new_h, area)
    columns, column_weights = axis_taps(w, new_w, area)
    vertical = torch.zeros(new_h, h).scatter_add_(1, rows, row_weights)
    horizontal = torch.zeros(new_w, w).scatter_add_(1, columns, column_weights)
    channels = torch.tensor([2, 1, 0] if swap else [0, 1, 2])
    return [vertical, horizontal.t().contiguous(), channels]


def resize_dense(images: Tensor, tables: list[Tensor]) -> Tensor:
    """Resize on a GPU, where two dense products take less time than many small calls.

    Returns:
        (N, new_h, new_w, 3) float32 grey levels.
    """
    planar = images.permute(0, 3, 1, 2).index_select(1, tables[2]).float()
    grey = torch.matmul(torch.matmul(tables[0], planar), tables[1]).float()
    return grey.permute(0, 2, 3, 1).contiguous()
