"""A camera bundle that another network learns from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception_rt.model.network import ImageNetwork
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.camera.data import ImageBatch
from perception_rt.train.camera.network import all_cells
from perception_rt.train.teacher import BundleTeacher


class CameraTeacher(BundleTeacher):
    """See `BundleTeacher`; `raw` is (N, classes + 4, A), for each of `network.all_cells`."""

    recipe = "camera"
    box_weights = (1.0, 1.0, 1.0, 1.0)

    def _fits(self, runtime: Any) -> bool:
        if not isinstance(self._network, ImageNetwork) or runtime.manifest.input.dtype != "uint8":
            return False
        side, device = 64, runtime.device
        found = self._network.outputs(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device))
        cells = len(all_cells(side, side, device))
        return [tuple(one.shape) for one in found] == [(1, len(SIM_CLASSES) + 4, cells)]

    def loss(self, raw: Tensor, batch: ImageBatch) -> Tensor:
        """The distance over all windows."""
        pixels = batch.images.mul(255).round().to(torch.uint8)
        with torch.autocast(raw.device.type, enabled=False):  # which compiled networks do not know
            wanted = torch.cat([self._network.outputs(one)[0].to(raw, copy=True) for one in pixels.split(1)])
        return self._distance(raw.mT.flatten(0, 1), wanted.mT.flatten(0, 1))
