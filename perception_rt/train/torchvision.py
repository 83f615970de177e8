"""Fine-tune torchvision's detectors and classifiers on a user's pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms import v2

from perception_rt.model.host_image import ImagePreparer
from perception_rt.model.importers.common import Imported
from perception_rt.model.importers.export import save_checked
from perception_rt.model.importers.torchvision import (
    build_model,
    classifier_spec,
    imported_classifier,
    imported_detector,
)
from perception_rt.model.manifest import Manifest
from perception_rt.stage.classify import crops
from perception_rt.train.augment import augmented, transform_of
from perception_rt.train.dataset.labels import LabelledFrame, read_picture
from perception_rt.train.pictures import PictureDetector, golden_picture, training_picture
from perception_rt.train.recipe import Recipe
from perception_rt.train.score import LOWEST_SCORE, Answer, classification_score
from perception_rt.train.trainee import Finished, TrainingItem
from perception_rt.types import CameraFrame

BACKGROUND = "__background__"
MORE_THAN_BOXES = ("maskrcnn", "keypointrcnn")
AUXILIARY_WEIGHT = 0.3  # weight of the auxiliary heads in training (inception_v3, googlenet)
LEAST_CROP = 8  # px: smaller boxes are too small to be classified


def detectors() -> list[str]:
    """Return the names of torchvision's detectors that can be trained on boxes."""
    names = torchvision.models.list_models(module=torchvision.models.detection)
    return [name for name in names if not name.startswith(MORE_THAN_BOXES)]


def classifiers() -> list[str]:
    """Return the names of torchvision's classifiers."""
    return torchvision.models.list_models(module=torchvision.models)


@dataclass(frozen=True, slots=True)
class DetectionBatch:
    """Pictures of any sizes with boxes, in the format of torchvision's detectors.

    Attributes:
        images: (3, h, w) float32 in [0, 1] each.
        targets: of each ``boxes`` (n, 4) float32 xyxy in px, and ``labels`` (n,) int64 from 1.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]

    def to(self, device: torch.device) -> DetectionBatch:
        """Return the batch on a device."""
        targets = [{key: value.to(device) for key, value in target.items()} for target in self.targets]
        return DetectionBatch([image.to(device) for image in self.images], targets)


class DetectorTrainee(PictureDetector):
    """A detector of torchvision with its own losses.

    Args:
        name: as torchvision's.
    """

    recipe = Recipe(seed=0, frames=1, steps=1, batch=4, learning_rate=2e-4, weight_decay=1e-4, average=0.99)

    def __init__(self, name: str) -> None:
        self._name = name
        self.sigmoid = name.startswith(("retinanet", "fcos"))
        if name.startswith("ssd"):
            self.augmentations = ("flip", "zoom", "crop", "colour")
        super().__init__()

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the class names after the background."""
        return (BACKGROUND, *classes)

    def make(self, classes: int) -> nn.Module:
        """Return a network with random weights."""
        return build_model(self._name, classes)

    def draw(self, items: Sequence[TrainingItem], rng: np.random.Generator) -> DetectionBatch:
        """Return whole pictures, reduced to the largest size that the network uses."""
        images, targets = [], []
        for item in items:
            image, scale = _shrunk(training_picture(item), self._longest())
            boxes, labels = torch.from_numpy(item.frame.xyxy * scale), torch.from_numpy(item.labels)
            varied, boxes, labels = augmented(self._transform, image, boxes, labels, rng)
            images.append(varied.float() / 255.0)
            targets.append({"boxes": boxes, "labels": labels + 1})
        return DetectionBatch(images, targets)

    @cache  # noqa: B019 - one object a process
    def _longest(self) -> int:
        """Return the maximum useful size, px: for fixed-size networks twice the input, for crops."""
        with torch.device("meta"):
            resize: Any = build_model(self._name, 2).transform
        return 2 * max(resize.fixed_size) if resize.fixed_size else int(resize.max_size)

    def loss(self, network: nn.Module, batch: DetectionBatch) -> Tensor:
        """Return the sum of the network's losses.

        The statistics of batch normalisation are frozen, as a few large pictures give poor ones.
        """
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        losses: dict[str, Tensor] = network(batch.images, batch.targets)
        return torch.stack([value.float() for value in losses.values()]).sum()

    def predict(self, network: nn.Module, item: TrainingItem) -> Answer:
        """Return the output of its bundle."""
        device = next(network.parameters()).device
        image = torch.from_numpy(read_picture(item.frame.path)).permute(2, 0, 1).to(device)
        (found,) = network([image.float() / 255.0])
        boxes, scores, labels = (found[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
        kept = scores >= LOWEST_SCORE
        return boxes[kept], scores[kept], labels[kept] - 1

    def save(self, path: Path, done: Finished) -> Manifest:
        """Write a TorchScript bundle, which resizes and decodes by itself."""
        provenance = {"model": self._name, "torchvision": torchvision.__version__, **done.provenance}
        imported = imported_detector(done.network, done.classes, provenance, done.threshold)
        return _save(path, imported, done)


@dataclass(frozen=True, slots=True)
class ClassBatch:
    """(N, 3, h, w) float32 images and (N,) int64 labels."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> ClassBatch:
        """Return the batch on a device."""
        return ClassBatch(self.images.to(device), self.labels.to(device))


class ClassifierTrainee:
    """A classifier of torchvision, for the boxes of pictures or for whole pictures.

    Args:
        name: as torchvision's.
    """

    clouds = False
    boxes = False
    metric = "accuracy"
    augmentations: tuple[str, ...] = ("crop", "flip", "colour")
    sigmoid = False
    recipe = Recipe(seed=0, frames=1, steps=1, batch=32, learning_rate=5e-4, weight_decay=0.02, average=0.99)

    def __init__(self, name: str) -> None:
        self._name = name
        self._published = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        self._spec = classifier_spec(self._published)
        self._prepare = ImagePreparer(self._spec, ("images",), torch.device("cpu"))
        self.use(self.augmentations)

    def use(self, augmentations: Sequence[str]) -> None:
        """See `Trainee`; `crop` cuts out a part of any proportions."""
        assert self._spec.size is not None
        self._transform = transform_of([name for name in augmentations if name != "crop"])
        part = v2.RandomResizedCrop(self._spec.size, (0.4, 1.0), antialias=True)
        self._resize = part if "crop" in augmentations else v2.Resize(self._spec.size, antialias=True)

    def items(self, frames: Sequence[LabelledFrame], labels: Sequence[np.ndarray]) -> list[TrainingItem]:
        """Return an item for each object that is large enough."""
        found = []
        for frame, of_frame in zip(frames, labels, strict=True):
            sides = frame.xyxy[:, 2:] - frame.xyxy[:, :2]
            for row in np.flatnonzero((sides >= LEAST_CROP).all(1) & ~frame.ignored):
                found.append(TrainingItem(frame.only(np.arange(len(frame)) == row), of_frame[row : row + 1]))
        return found

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the class names unchanged."""
        return tuple(classes)

    def make(self, classes: int) -> nn.Module:
        """Return a network with random weights."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how weights are drawn
            return build_model(self._name, classes)

    def draw(self, items: Sequence[TrainingItem], rng: np.random.Generator) -> ClassBatch:
        """Return random parts of the boxes, normalised."""
        nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        images = []
        for item in items:
            image, _, _ = augmented(self._transform, _cut(item), *nothing, rng)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(1 << 62)))
                images.append(self._resize(image))
        spec = self._spec
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
        batch = (torch.stack(images).float() * spec.scale - mean) / std
        return ClassBatch(batch, torch.from_numpy(np.concatenate([item.labels for item in items])))

    def loss(self, network: nn.Module, batch: ClassBatch) -> Tensor:
        """Return the cross entropy, with a share for auxiliary heads."""
        answer = network(batch.images)
        heads = [answer] if isinstance(answer, Tensor) else [head for head in answer if head is not None]
        losses = [F.cross_entropy(head.float(), batch.labels) for head in heads]
        return losses[0] + AUXILIARY_WEIGHT * sum(losses[1:], torch.zeros_like(losses[0]))

    def predict(self, network: nn.Module, item: TrainingItem) -> int:
        """Return the class of the network, with the preprocessing of its bundle."""
        inputs, _ = self._prepare(torch.from_numpy(_cut(item))[None], False)
        answer: Tensor = network(inputs["images"].to(next(network.parameters()).device))
        return int(answer.argmax())

    def answer(self, runtime: Any, item: TrainingItem) -> int:
        """Return the class of a bundle."""
        return int(runtime(_cut(item)[None], score_threshold=0.0)[2][0])

    def score(
        self, items: Sequence[TrainingItem], answers: Sequence[int], classes: Sequence[str]
    ) -> dict[str, Any]:
        """Return the share of correct classes."""
        truths = np.concatenate([item.labels for item in items])
        return classification_score(truths, np.array(answers, np.int64), classes)

    def save(self, path: Path, done: Finished) -> Manifest:
        """Write a TorchScript bundle with the preprocessing that torchvision states."""
        provenance = {"model": self._name, "torchvision": torchvision.__version__, **done.provenance}
        imported = imported_classifier(done.network, self._published, done.classes, provenance)
        return _save(path, imported, done)


def _cut(item: TrainingItem) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB of the object of an item."""
    frame = CameraFrame(read_picture(item.frame.path), False, 0, "")
    left, top, right, bottom = item.frame.xyxy[0].astype(np.float64)
    box = [(left + right) / 2, (top + bottom) / 2, 0.0, right - left, bottom - top]
    (part,) = crops(frame, np.array([box]))
    assert part is not None  # at least one pixel
    return np.ascontiguousarray(part.pixels)


def _shrunk(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """Return a picture whose longer side is at most `longest` px, and the scale of its boxes."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image, 1.0
    size = [max(1, round(side * scale)) for side in (image.shape[1], image.shape[0])]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def _save(path: Path, imported: Imported, done: Finished) -> Manifest:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of tracing and scripting are for their authors
        picture = golden_picture(done.examples)[0]
        report = save_checked(path, imported, picture, name=done.name, licence=done.licence)
    return report.manifest
