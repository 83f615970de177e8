"""Shared parts of decoders: what importers need to recognise a network, and box geometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perception_rt.model.decoder import Candidates

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preset:
    """Thresholds and preprocessing that the authors of a family of networks use."""

    resize: str
    filter: str
    order: str
    score_threshold: float
    nms_threshold: float
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: float = 114.0


@dataclass(frozen=True, slots=True)
class Signature:
    """What is known of a network: names, metadata, and its outputs for a noise image.

    Attributes:
        inputs: names of the inputs.
        names: names of the outputs.
        outputs: the answer to noise, each with a batch of 1.
        input_size: (height, width) of the image, px.
        metadata: of the file, as text.
        classes: how many class names are known; None where none are.
    """

    inputs: tuple[str, ...]
    names: tuple[str, ...]
    outputs: list[Tensor]
    input_size: tuple[int, int]
    metadata: Mapping[str, str] = field(default_factory=dict)
    classes: int | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs."""
        return [tuple(output.shape) for output in self.outputs]

    def of(self, name: str) -> Tensor:
        """Return the output of that name."""
        return self.outputs[self.names.index(name)]


class Match(NamedTuple):
    """A decoder that fits a network.

    Attributes:
        by: ``metadata``, ``names``, ``shapes`` or ``rest`` (where no other decoder fits), the strongest
            first; ``given``: only where the user names the decoder.
        why: the reason, for the user.
        parameters: of the decoder.
        outputs: names of the outputs that the decoder takes, in its order.
        preset: where it differs from the decoder's own.
        coco: COCO's numbering that labels follow where nothing names them and the outputs do not tell their
            number: 80 classes, 90 ids from 1 on, or 91 ids with the background.
    """

    by: str
    why: str
    parameters: Mapping[str, Any]
    outputs: tuple[str, ...]
    preset: Preset | None = None
    coco: int = 80


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) centre x, centre y, width, height to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat([centre - half, centre + half], -1)


def above(scores: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows whose score is at least `threshold`, their scores and labels."""
    rows = torch.nonzero(scores >= threshold).squeeze(1)
    return rows, scores[rows], labels[rows]


def best_class(
    classes: Tensor, threshold: float, boxes_of: Callable[[Tensor], Tensor], factor: Tensor | None = None
) -> Candidates:
    """Return a candidate for each row of class scores (A, C) whose best one reaches the threshold.

    Args:
        classes: (A, C) scores.
        threshold: lowest score kept.
        boxes_of: rows (R,) -> boxes (R, 4).
        factor: (A,) that scores are multiplied by.
    """
    scores, labels = classes.max(1)
    scores = scores if factor is None else scores * factor
    rows, scores, labels = above(scores, labels, threshold)
    return Candidates(boxes_of(rows), scores, labels, {})


def every_class(classes: Tensor, boxes: Tensor, threshold: float) -> Candidates:
    """Return a candidate for each class of a row (A, C) that reaches the threshold."""
    rows, labels = torch.nonzero(classes >= threshold).unbind(1)
    return Candidates(boxes[rows], classes[rows, labels], labels, {})


def cell_count(size: tuple[int, int], strides: Sequence[int]) -> int:
    """Return the number of cells of all levels."""
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)


def cells(size: tuple[int, int], strides: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return column and row (A, 2) of every cell, level by level, and its stride (A, 1), float32."""
    grids, steps = [], []
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        grids.append(torch.stack([x, y], -1).view(-1, 2))
        steps.append(torch.full((rows * columns, 1), stride))
    return torch.cat(grids).float().to(device), torch.cat(steps).float().to(device)


def scaled(boxes: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Convert xyxy from fractions of the input to px."""
    height, width = input_size
    return boxes * boxes.new_tensor([width, height, width, height])


def are_scores(values: Tensor) -> bool:
    """Return whether all values lie in [0, 1], as scores after a sigmoid or softmax do."""
    return bool(values.numel()) and bool(((values >= -1e-3) & (values <= 1 + 1e-3)).all())


def fits(condition: bool, what: str) -> None:
    """Raise ValueError if outputs do not have a decoder's layout."""
    if not condition:
        raise ValueError(what)
