"""Classifiers of whole images: ResNet and similar networks, Ultralytics cls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Match,
    Preset,
    Signature,
    are_scores,
    every_class,
    fits,
)
from perception_rt.model.specs import CROP
from perception_rt.model.task import CLASSIFY

USUAL_CROP = 224 / 256  # of torchvision's and timm's evaluation: side of the crop by the shorter side


class Classifier:
    """Class scores (1, C): one row for each class, whose box is the part of the image that the network sees.

    Args:
        spec: not used.
        softmax: whether the outputs are logits.
    """

    needs_nms = False
    task = CLASSIFY.name
    preset = Preset(f"{CROP}_256", "antialias", "rgb", 0.0, 1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def __init__(self, spec: Any, softmax: bool = True) -> None:
        fits(isinstance(softmax, bool), f"softmax={softmax!r}: must be true or false")
        self._softmax = softmax

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        values = outputs[0].float().flatten(1)
        fits(values.shape[1] > 1 and outputs[0].numel() == outputs[0].shape[1], "a classifier answers (1, C)")
        scores = values[0].softmax(0) if self._softmax else values[0]
        fits(bool(torch.isfinite(scores).all()), "the scores hold NaN or infinity")
        box = scores.new_tensor([[0.0, 0.0, input_size[1], input_size[0]]])
        return every_class(scores[None], box, score_threshold)

    def class_count(self, outputs: list[Tensor]) -> int:
        """Return the number of classes of this output."""
        return outputs[0].flatten(1).shape[1]

    @classmethod
    def match(cls, network: Signature) -> Match | None:
        """Recognise one output (1, C) or (1, C, 1, 1), and Ultralytics' metadata."""
        first = network.outputs[0]
        rows = first.flatten(1)
        if len(network.outputs) != 1 or first.ndim < 2 or first.numel() != first.shape[1] or len(rows) != 1:
            return None
        if rows.shape[1] < 2:
            return None
        softmax = not (are_scores(rows) and abs(float(rows.sum()) - 1) < 1e-3)
        what = "logits" if softmax else "scores"
        why = f"output {network.names[0]} {tuple(first.shape)} holds {what} of {rows.shape[1]} classes"
        parameters, names = {"softmax": softmax}, network.names
        if network.metadata.get("task") == CLASSIFY.name:  # classify_transforms: no mean, the crop is all
            preset = Preset(f"{CROP}_{max(network.input_size)}", "antialias", "rgb", 0.0, 1.0)
            return Match("metadata", f"task={CLASSIFY.name}; {why}", parameters, names, preset)
        return Match("shapes", why, parameters, names, cls.preset_of(network.input_size))

    @classmethod
    def preset_of(cls, input_size: tuple[int, int]) -> Preset:
        """As networks of ImageNet are evaluated: the middle 7/8 of the shorter side."""
        return replace(cls.preset, resize=f"{CROP}_{round(max(input_size) / USUAL_CROP)}")
