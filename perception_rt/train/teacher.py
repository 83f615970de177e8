"""Learn from the answers of another bundle beside the truth (distillation, arXiv:1503.02531)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from perception_rt.model.runtime import Runtime
from perception_rt.sim import SIM_CLASSES
from perception_rt.types import ConfigError
from perception_rt.types.errors import ModelError

SURE = 0.3  # score from which on the teacher's box is learned
SCORE_WEIGHT = 2.0


class BundleTeacher:
    """A bundle of the same recipe: of each cell it answers a logit of each class, then a box.

    Args:
        bundle: a file or a name.
        device: to run it on.

    Attributes:
        recipe: name of the recipe.
        box_weights: of the absolute difference of each channel of a box.

    Raises:
        ConfigError: it answers in another form.
    """

    recipe: ClassVar[str]
    box_weights: ClassVar[tuple[float, ...]]

    def __init__(self, bundle: str, device: str) -> None:
        runtime = Runtime.open(bundle, device)
        self._network, manifest = runtime._detect, runtime.manifest
        self.record = {"bundle": manifest.name, "sha256": manifest.sha256}
        try:
            fits = manifest.classes == SIM_CLASSES and self._fits(runtime)
        except ModelError:  # it takes no input of the example's size
            fits = False
        if not fits:
            raise ConfigError(
                f"--teacher={bundle}: is no network of `train {self.recipe}` with {SIM_CLASSES}"
            )

    def _fits(self, runtime: Any) -> bool:
        """Return whether the network takes the inputs of the recipe, and answers in its form."""
        raise NotImplementedError

    def loss(self, raw: Tensor, batch: Any) -> Tensor:
        """The distance of predictions from the teacher's, per cell that it takes for an object.

        Args:
            raw: of the network that learns, float32.
            batch: what it predicted them for.
        """
        raise NotImplementedError

    def _distance(self, mine: Tensor, wanted: Tensor) -> Tensor:
        """As `loss`, of some cells (A, classes + box channels); the focus is that of a quality focal loss."""
        boxes = len(self.box_weights)
        targets, logits = wanted[:, :-boxes].sigmoid(), mine[:, :-boxes]
        focus = (targets - logits.detach().sigmoid()).square()
        scores = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * focus
        best = targets.amax(1)
        sure = best > SURE
        off = (mine[sure, -boxes:] - wanted[sure, -boxes:]).abs() * mine.new_tensor(self.box_weights)
        return (SCORE_WEIGHT * scores.sum() + (off.sum(1) * best[sure]).sum()) / sure.sum().clamp(min=1)
