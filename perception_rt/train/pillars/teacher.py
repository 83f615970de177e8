"""A lidar bundle that another network learns from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception_rt.model.network import CloudNetwork
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.pillars.data import CloudBatch
from perception_rt.train.pillars.network import BOX_CHANNELS, CELL_COLUMNS, CELL_ROWS
from perception_rt.train.teacher import BundleTeacher


class PillarsTeacher(BundleTeacher):
    """It is asked for clouds of drives alone: it may know less of other sensors than the truth.

    See `BundleTeacher`; `raw` is (frames, A, classes + BOX_CHANNELS), for each of `network.cells`.
    """

    recipe = "pillars"
    # As of `network.decode`: x y z, three of the size, two of the axis, two of the front.
    box_weights = (1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 0.3, 0.3)

    def _fits(self, runtime: Any) -> bool:
        shape = (1, CELL_ROWS * CELL_COLUMNS, len(SIM_CLASSES) + BOX_CHANNELS)
        found = self._network.outputs(torch.zeros(0, 4)) if isinstance(self._network, CloudNetwork) else []
        return [tuple(one.shape) for one in found] == [shape]

    def loss(self, raw: Tensor, batch: CloudBatch) -> Tensor:
        """The sum over the clouds of drives, whose unvaried intensities the teacher sees."""
        total = raw.new_zeros(())
        for number in batch.of_drive.nonzero().flatten().tolist():
            of = batch.frame == number
            cloud = torch.cat((batch.points[of, :3], batch.intensity[of, None]), 1)
            with torch.autocast(raw.device.type, enabled=False):  # which compiled networks do not know
                wanted = self._network.outputs(cloud)[0][0].to(raw)
            total = total + self._distance(raw[number], wanted)
        return total
