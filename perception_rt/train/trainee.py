"""The interface of networks that can be trained on a user's data set, and a function that finds one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from perception_rt.model.manifest import Manifest
from perception_rt.train.dataset.labels import LabelledFrame
from perception_rt.train.recipe import Recipe
from perception_rt.types import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class TrainingItem:
    """The unit that a network processes: a frame, and the labels of its objects."""

    frame: LabelledFrame
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Finished:
    """The content of a trained bundle.

    Attributes:
        network: trained, in evaluation mode.
        classes: names, by label.
        items: to calibrate 8-bit programs. examples: for the golden input.
        name, licence, provenance: of the bundle.
        threshold: lowest score of the bundle; None for the network's own.
    """

    network: nn.Module
    classes: tuple[str, ...]
    items: Sequence[TrainingItem]
    examples: Sequence[TrainingItem]
    name: str
    licence: str
    provenance: dict[str, Any]
    threshold: float | None


class Trainee(Protocol):
    """A network that can be trained on a user's data set.

    Attributes:
        clouds: whether it takes clouds instead of pictures.
        boxes: whether it needs labels with boxes, not of whole pictures.
        recipe: the hyperparameters for 1 frame; `perception_rt.train.folder` sets steps and rounds.
        metric: the metric that selects the weights to keep.
        augmentations: the default augmentations.
        sigmoid: whether each class has a score of its own in every cell, so that known ones can be held.
    """

    clouds: bool
    boxes: bool
    recipe: Recipe
    metric: str
    augmentations: tuple[str, ...]
    sigmoid: bool

    def items(self, frames: Sequence[LabelledFrame], labels: Sequence[np.ndarray]) -> list[TrainingItem]:
        """Return the training items: the frames, or parts of them."""
        ...

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the class names of its bundle, including a background class if the network has one."""
        ...

    def make(self, classes: int) -> nn.Module:
        """Return an untrained network for these `names`."""
        ...

    def use(self, augmentations: Sequence[str]) -> None:
        """Set the augmentations.

        Raises:
            ConfigError: a name is unknown.
        """
        ...

    def draw(self, items: Sequence[TrainingItem], rng: np.random.Generator) -> Any:
        """Return a batch of augmented items: an object with `to`."""
        ...

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss of the network on a batch."""
        ...

    def predict(self, network: nn.Module, item: TrainingItem) -> Any:
        """Return the output of the network in training."""
        ...

    def answer(self, runtime: Any, item: TrainingItem) -> Any:
        """Return the output of a bundle, by the labels of its classes."""
        ...

    def score(
        self, items: Sequence[TrainingItem], answers: Sequence[Any], classes: Sequence[str]
    ) -> dict[str, Any]:
        """Return the scores of outputs for items."""
        ...

    def save(self, path: Path, done: Finished) -> Manifest:
        """Write a bundle.

        Raises:
            BundleError: it cannot be written.
        """
        ...


def find_trainee(name: str) -> Trainee:
    """Return the network with a name: a shipped one, or a detector or classifier of torchvision.

    Raises:
        ConfigError: there is no such network.
    """
    if name == "camera":
        from perception_rt.train.camera.trainee import CameraTrainee

        return CameraTrainee()
    if name == "pillars":
        from perception_rt.train.pillars.trainee import PillarsTrainee

        return PillarsTrainee()
    from perception_rt.train.torchvision import ClassifierTrainee, DetectorTrainee, classifiers, detectors

    if name in classifiers():
        return ClassifierTrainee(name)
    if name in detectors():
        return DetectorTrainee(name)
    raise ConfigError(
        f"network={name}: must be camera, pillars, one of {', '.join(detectors())}, or a "
        "classifier of torchvision, as resnet18"
    )
