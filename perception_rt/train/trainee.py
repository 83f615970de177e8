"""What a network must have to learn from a user's frames, and which networks there are."""

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
    """What a network answers at once: a frame, and the labels of its objects."""

    frame: LabelledFrame
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Finished:
    """What goes into a bundle.

    Attributes:
        network: trained, in evaluation mode.
        classes: names, by label.
        items: to calibrate 8-bit programs on. examples: to take a golden input from.
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
    """A network that learns from a user's frames.

    Attributes:
        clouds: whether it takes clouds, not pictures.
        recipe: by which it is fine-tuned, for 1 frame; `perception_rt.train.folder` sets steps and rounds.
        metric: that decides which weights are kept.
        augmentations: those that are used where none are named.
    """

    clouds: bool
    recipe: Recipe
    metric: str
    augmentations: tuple[str, ...]

    def items(self, frames: Sequence[LabelledFrame], labels: Sequence[np.ndarray]) -> list[TrainingItem]:
        """What it learns from at once: the frames, or parts of them."""
        ...

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The class names of its bundle: with a background, where the network has one."""
        ...

    def make(self, classes: int) -> nn.Module:
        """An untrained network of so many `names`."""
        ...

    def use(self, augmentations: Sequence[str]) -> None:
        """Vary pictures so.

        Raises:
            ConfigError: one is unknown.
        """
        ...

    def draw(self, items: Sequence[TrainingItem], rng: np.random.Generator) -> Any:
        """A batch of varied items: an object with `to`."""
        ...

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Of the network on a batch."""
        ...

    def predict(self, network: nn.Module, item: TrainingItem) -> Any:
        """The answer of the network in training."""
        ...

    def answer(self, runtime: Any, item: TrainingItem) -> Any:
        """The answer of a bundle, by the labels of its classes."""
        ...

    def score(
        self, items: Sequence[TrainingItem], answers: Sequence[Any], classes: Sequence[str]
    ) -> dict[str, Any]:
        """Of answers to items."""
        ...

    def save(self, path: Path, done: Finished) -> Manifest:
        """Write a bundle.

        Raises:
            BundleError: it cannot be written.
        """
        ...


def find_trainee(name: str) -> Trainee:
    """The network of that name: a shipped one, or one of torchvision's detectors or classifiers.

    Raises:
        ConfigError: there is none.
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
