"""Convert uint8 images to a network's input on their device: a GPU, or a CPU in tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_rt.model.host_image import ANTIALIASED, Placement
from perception_rt.model.preprocess import dense_tables, resize_dense
from perception_rt.model.specs import ImageSpec

KEPT_SIZES = 16


class DevicePreparer:
    """Converts uint8 images to the network's input by matrix products, which are fast on a GPU.

    Args:
        spec: how.
        device: where the images are.
    """

    def __init__(self, spec: ImageSpec, device: torch.device) -> None:
        self._spec = spec
        deviation = torch.tensor(spec.std, dtype=torch.float64)
        self._gain = (spec.scale / deviation).float().to(device)
        self._offset = (-torch.tensor(spec.mean, dtype=torch.float64) / deviation).float().to(device)
        self._tables: dict[tuple[Placement, bool], list[Tensor]] = {}

    def __call__(self, images: Tensor, bgr: bool, where: Placement) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, height, width) float32, channels last."""
        grey = self._resized(images, bgr != (self._spec.order == "bgr"), where)
        if self._spec.dtype == "uint8":
            return self._padded(grey, torch.full_like(self._gain, self._spec.pad), where).to(torch.uint8)
        bars = self._spec.pad * self._gain + self._offset
        return self._padded(grey * self._gain + self._offset, bars, where)

    def _resized(self, images: Tensor, swap: bool, where: Placement) -> Tensor:
        """(N, height, width, 3) float32, whole grey levels."""
        size = (where.height, where.width)
        mode = ANTIALIASED.get(self._spec.filter)
        if mode or where.native == size:
            planar = images.permute(0, 3, 1, 2).float()
            if mode and where.native != size:
                planar = F.interpolate(planar, list(size), mode=mode, antialias=True).round().clamp(0, 255)
            return (planar.flip(1) if swap else planar).permute(0, 2, 3, 1)
        key = where, swap
        if key not in self._tables:
            if len(self._tables) >= KEPT_SIZES:
                self._tables.clear()
            tables = dense_tables(*where.native, *size, self._spec.filter == "area", swap)
            self._tables[key] = [table.to(images.device) for table in tables]
        return resize_dense(images, self._tables[key]).round()

    def _padded(self, values: Tensor, bars: Tensor, where: Placement) -> Tensor:
        if (where.height, where.width) == where.size:
            return values.permute(0, 3, 1, 2)
        (rows, columns), seen = where.window, where.seen
        canvas = bars.expand(len(values), *where.size, 3).clone()
        canvas[:, rows, columns] = values[:, seen[0], seen[1]]
        return canvas.permute(0, 3, 1, 2)
