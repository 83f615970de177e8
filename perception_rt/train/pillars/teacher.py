"""Learn from the answers of another bundle beside the truth (distillation, arXiv:1503.02531)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_rt.model.network import CloudNetwork
from perception_rt.model.runtime import Runtime
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.pillars.data import CloudBatch
from perception_rt.train.pillars.network import BOX_CHANNELS, CELL_COLUMNS, CELL_ROWS
from perception_rt.types import ConfigError

SURE = 0.3  # score from which on the teacher's box is learned
SCORE_WEIGHT = 2.0
# As of `network.decode`: x y z, three of the size, two of the axis, two of the front.
BOX_WEIGHTS = (1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 0.3, 0.3)


class BundleTeacher:
    """A bundle that this recipe wrote: one prediction for each of `network.cells`.

    It is asked for clouds of drives alone: it may know less of streets and of other sensors than the truth.

    Args:
        bundle: a file or a name.
        device: to run it on.

    Raises:
        ConfigError: it answers in another form.
    """

    def __init__(self, bundle: str, device: str) -> None:
        runtime = Runtime.open(bundle, device)
        self._network, manifest = runtime._detect, runtime.manifest
        self.record = {"bundle": manifest.name, "sha256": manifest.sha256}
        shape = (1, CELL_ROWS * CELL_COLUMNS, len(SIM_CLASSES) + BOX_CHANNELS)
        found = self._network.outputs(torch.zeros(0, 4)) if isinstance(self._network, CloudNetwork) else []
        if manifest.classes != SIM_CLASSES or [tuple(one.shape) for one in found] != [shape]:
            raise ConfigError(f"--teacher={bundle}: is no network of `train pillars` with {SIM_CLASSES}")

    def loss(self, raw: Tensor, batch: CloudBatch) -> Tensor:
        """The distance of predictions from the teacher's, per cell that it takes for an object.

        Args:
            raw: (frames, A, classes + BOX_CHANNELS) float32 from the network.
            batch: the clouds, whose unvaried intensities the teacher sees.
        """
        total, weights = raw.new_zeros(()), raw.new_tensor(BOX_WEIGHTS)
        for number in batch.of_drive.nonzero().flatten().tolist():
            of = batch.frame == number
            cloud = torch.cat((batch.points[of, :3], batch.intensity[of, None]), 1)
            with torch.autocast(raw.device.type, enabled=False):  # which compiled networks do not know
                wanted, mine = self._network.outputs(cloud)[0][0].to(raw), raw[number]
            targets, logits = wanted[:, :-BOX_CHANNELS].sigmoid(), mine[:, :-BOX_CHANNELS]
            focus = (targets - logits.detach().sigmoid()).square()
            scores = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * focus
            best = targets.amax(1)
            sure = best > SURE
            off = (mine[sure, -BOX_CHANNELS:] - wanted[sure, -BOX_CHANNELS:]).abs() * weights
            boxes = off.sum(1) * best[sure]
            total = total + (SCORE_WEIGHT * scores.sum() + boxes.sum()) / sure.sum().clamp(min=1)
        return total
