"""Semantic segmentation networks: FCN, DeepLab, SegFormer, BiSeNet, drivable area."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Match,
    Preset,
    Signature,
    are_scores,
    fits,
)
from perception_rt.model.host_image import Placement, labels_to_native
from perception_rt.model.task import SEGMENT
from perception_rt.types.segmentation import UNLABELLED

FORMS = ("logits", "scores", "labels")
ULTRALYTICS = "semantic"  # its name of this task
AUXILIARY = "aux"  # of torchvision's networks: an output for training
MIN_CELLS = 16  # of an output that may be an image of classes, each side
LARGEST_STRIDE = 8  # of a grid that is finer than a detector's


class Semantic:
    """(1, C, h, w) class scores, or (1, h, w) labels, of a grid over the network's input.

    Scores are interpolated to the size of the input before the best class is taken. With a single channel, a
    pixel has the class if its score is at least 0.5.

    Args:
        spec: not used.
        form: ``logits`` (softmax over the channels, sigmoid of a single one), ``scores`` (after that), or
            ``labels``, whose values are indices of classes; 255 and negative ones stand for none.
        channels_last: scores are (1, h, w, C).

    Raises:
        ValueError: another form.
    """

    needs_nms = False
    has_boxes = False
    task = SEGMENT.name
    preset = Preset("stretch", "bilinear", "rgb", 0.0, 1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def __init__(self, spec: Any, form: str = "logits", channels_last: bool = False) -> None:
        fits(form in FORMS, f"form={form!r}: must be one of {', '.join(FORMS)}")
        fits(isinstance(channels_last, bool), f"channels_last={channels_last!r}: must be true or false")
        self._form, self._last = form, channels_last

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Check the outputs; there are no boxes."""
        values = self._values(outputs)
        return Candidates(
            torch.zeros((0, 4), device=values.device),
            torch.zeros(0, device=values.device),
            torch.zeros(0, dtype=torch.int64, device=values.device),
            {},
        )

    def label_map(
        self, outputs: list[Tensor], found: Candidates, place: Placement, least: np.ndarray
    ) -> Tensor:
        """Return the best class of every pixel; see `perception_rt.model.segmenter.SegmentDecoder`."""
        values = self._values(outputs)
        if self._form == "labels":
            return labels_to_native(self._given_labels(values, place, least), place)
        fits(len(values) == len(least), f"{len(values)} channels, but {len(least)} classes")
        scored = bool((least > 0).any())
        if values.device.type == "cpu" and len(values) > 1 and not scored:
            return labels_to_native(_best_channels(values, place.size), place)
        labels, scores = self._best(_enlarged(values, place.size), scored)
        if scores is not None:
            lowest = torch.from_numpy(least).to(labels.device)
            known = labels.long().clamp(max=len(least) - 1)
            labels[~(scores >= lowest[known])] = UNLABELLED
        return labels_to_native(labels, place)

    def _best(self, values: Tensor, scored: bool) -> tuple[Tensor, Tensor | None]:
        """Return label and score of each pixel of (C, h, w); the scores only if `scored`."""
        if len(values) == 1:
            score = values[0] if self._form == "scores" else values[0].sigmoid()
            fits(bool(torch.isfinite(score).all()), "the scores hold NaN or infinity")
            return torch.where(score >= 0.5, 0, UNLABELLED).to(torch.uint8), score if scored else None
        best, labels = values.max(0)
        fits(bool(torch.isfinite(best).all()), "the scores hold NaN or infinity")
        if not scored:
            return labels.to(torch.uint8), None
        scores = best if self._form == "scores" else (values - best).exp_().sum(0).reciprocal_()
        return labels.to(torch.uint8), scores

    def _values(self, outputs: list[Tensor]) -> Tensor:
        """Return (C, h, w) float32 scores, or (h, w) labels."""
        fits(len(outputs) == 1, "semantic takes one output: give --output")
        values = outputs[0]
        if self._form == "labels":
            sides = values.shape[-2:]
            fits(len(sides) == 2 and values.numel() == sides[0] * sides[1], "labels are (1, h, w)")
            return values.reshape(sides)
        fits(values.ndim in (3, 4) and len(values) == 1, "scores of pixels are (1, C, h, w)")
        fits(values.is_floating_point(), "scores of pixels are floats")
        if values.ndim == 3:  # of a single class
            return values.float()
        return (values[0].permute(2, 0, 1) if self._last else values[0]).float()

    def _given_labels(self, values: Tensor, place: Placement, least: np.ndarray) -> Tensor:
        """Return the network's labels at the size of its input, uint8."""
        values = values.to(torch.int64)
        values = torch.where((values < 0) | (values >= UNLABELLED), UNLABELLED, values)
        known = values[values != UNLABELLED]
        last = int(known.max()) if known.numel() else 0
        fits(last < len(least), f"the labels hold {last}, but there are {len(least)} classes")
        unwanted = torch.from_numpy(np.append(np.isinf(least), False)).to(values.device)
        values[unwanted[values.clamp(max=len(least))]] = UNLABELLED
        height, width = values.shape
        whole = Placement((height, width), place.size, 0, 0, height, width)
        labels = values.to(torch.uint8)
        return labels if values.shape == place.size else labels_to_native(labels, whole)

    def class_count(self, outputs: list[Tensor]) -> int | None:
        """How many classes this output holds; None where the output does not tell."""
        if self._form == "labels":
            return None
        return outputs[0].shape[-1 if self._last else 1] if outputs[0].ndim == 4 else 1

    @classmethod
    def match(cls, network: Signature) -> Match | None:
        """Recognise an image of scores or labels, and Ultralytics' metadata."""
        told = network.metadata.get("task") == ULTRALYTICS
        if "task" in network.metadata and not told:
            return None
        fitting = {}
        for name in network.names:
            layout = _layout(network.of(name), network.input_size, network.classes)
            if layout is not None and name != AUXILIARY:
                fitting[name] = layout
        if len(fitting) != 1:
            return None
        ((name, (what, parameters)),) = fitting.items()
        why = f"output {name} {tuple(network.of(name).shape)} holds {what}"
        if told:
            preset = Preset("letterbox", "bilinear", "rgb", 0.0, 1.0)
            return Match("metadata", f"task={ULTRALYTICS}; {why}", parameters, (name,), preset)
        alone = not set(network.names) - {name, AUXILIARY}
        return Match("rest" if alone else "given", why, parameters, (name,))


def _enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, h, w) to a size."""
    if values.shape[1:] == size:
        return values
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]


def _best_channels(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the best channel of each pixel, uint8; one channel at a time takes half the time on a CPU."""
    best = _enlarged(values[:1], size)[0].clone()
    labels = torch.zeros(size, dtype=torch.uint8)
    for channel in range(1, len(values)):
        scores = _enlarged(values[channel : channel + 1], size)[0]
        labels.masked_fill_(scores > best, channel)
        torch.maximum(best, scores, out=best)
    fits(bool(torch.isfinite(best).all()), "the scores hold NaN or infinity")
    return labels


def _layout(
    output: Tensor, input_size: tuple[int, int], classes: int | None
) -> tuple[str, dict[str, Any]] | None:
    """Return what an output says of each pixel and the decoder's parameters; None if it is no image."""
    if output.ndim not in (3, 4) or len(output) != 1 or not output.numel():
        return None
    sides = tuple(side for side in output.shape[1:] if side != 1)
    flat = _is_grid(sides, input_size) and output.shape[-2:] == sides
    if flat and _are_labels(output, classes):
        return "labels", {"form": "labels"}
    if not output.is_floating_point():
        return None
    if output.ndim == 3:
        return (f"{_form(output)} of 1 class", {"form": _form(output)}) if flat else None
    for values, last in ((output[0], False), (output[0].movedim(-1, 0), True)):
        count = len(values)
        if _is_grid(values.shape[1:], input_size) and count <= UNLABELLED and classes in (None, count):
            form = _form(values)
            what = f"{form} of {count} class{'es' if count > 1 else ''}"
            return what, {"form": form, "channels_last": last}
    return None


def _form(values: Tensor) -> str:
    """Return the form of (C, h, w) values."""
    whole = len(values) == 1 or bool(((values.sum(0) - 1).abs() < 1e-2).all())
    return "scores" if are_scores(values) and whole else "logits"


def _are_labels(plane: Tensor, classes: int | None) -> bool:
    """Return whether a plane contains labels; floats of 0 and 1 are scores if there is one class."""
    if not plane.is_floating_point():
        return True
    return bool((plane == plane.round()).all()) and not (are_scores(plane) and classes in (None, 1))


def _is_grid(sides: tuple[int, ...], input_size: tuple[int, int]) -> bool:
    """Return whether an output of (h, w) covers the network's input."""
    if len(sides) != 2 or min(sides) < MIN_CELLS:
        return False
    strides = input_size[0] / sides[0], input_size[1] / sides[1]
    return abs(strides[0] - strides[1]) <= 0.1 * max(strides) and 0.9 <= max(strides) <= LARGEST_STRIDE
