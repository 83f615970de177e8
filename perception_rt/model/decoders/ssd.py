"""SSD and networks with the same outputs: boxes, scores and labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Match,
    Preset,
    Signature,
    above,
    every_class,
    fits,
    scaled,
)

UNIT = Preset("stretch", "bilinear", "rgb", 0.5, 0.45)
BYTES = Preset("stretch", "bilinear", "rgb", 0.5, 0.45, scale=1.0)
CENTRED = Preset("stretch", "bilinear", "rgb", 0.5, 0.45, scale=1 / 128, mean=(127 / 128,) * 3)


class Ssd:
    """Boxes (1, A, 4), scores (1, A) and labels (1, A); or scores (1, A, C), background first, and NMS.

    Args:
        spec: of the bundle's input.
        labelled: whether labels are an output; else scores are of every class.
        fractions: whether boxes are fractions of the input; else px.
        yx: whether boxes are y1 x1 y2 x2, as TensorFlow has them.
        first_label: the label of class 0; 1 where 0 is the background.
    """

    # SSD of the ONNX model zoo, from MLPerf: ImageNet's mean and deviation
    preset = Preset("stretch", "bilinear", "rgb", 0.5, 0.45, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def __init__(
        self,
        spec: Any,
        labelled: bool = True,
        fractions: bool = True,
        yx: bool = False,
        first_label: int = 1,
    ) -> None:
        self.needs_nms = not labelled
        self._labelled, self._fractions, self._yx, self._first = labelled, fractions, yx, first_label

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        fits(len(outputs) >= 2 + self._labelled, "ssd takes boxes, scores and, with NMS inside, labels")
        boxes, scores = outputs[0].float().reshape(-1, 4), outputs[1].float()
        boxes = boxes[:, [1, 0, 3, 2]] if self._yx else boxes
        boxes = scaled(boxes, input_size) if self._fractions else boxes
        if not self._labelled:
            return every_class(scores[0, :, self._first :], boxes, score_threshold)
        labels = outputs[2].reshape(-1).long() - self._first
        rows, scores, labels = above(scores.reshape(-1), labels, score_threshold)
        kept = labels >= 0
        return Candidates(boxes[rows[kept]], scores[kept], labels[kept], {})

    def class_count(self, outputs: list[Tensor]) -> int | None:
        """How many classes this output holds; None where the output does not tell."""
        return None if self._labelled else outputs[1].shape[-1] - self._first

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise the names of the common exporters."""
        names, found = set(network.names), None
        if {"detection_boxes", "detection_scores", "detection_classes"} <= names:
            found = ("detection_boxes", "detection_scores", "detection_classes")
            why = "TensorFlow's detection_boxes and so on"
            return Match("names", why, {"yx": True}, found, BYTES, coco=90)
        if {"bboxes", "labels", "scores"} <= names:
            return Match("names", "outputs bboxes, labels, scores", {}, ("bboxes", "scores", "labels"))
        if not {"boxes", "scores"} <= names or "orig_target_sizes" in network.inputs:
            return None
        boxes, scores = network.of("boxes"), network.of("scores")
        if boxes.ndim == 3 and scores.ndim == 3 and scores.shape[:2] == boxes.shape[:2]:
            why = "outputs boxes, scores of every class, the first the background"
            return Match("names", why, {"labelled": False}, ("boxes", "scores"), CENTRED)
        if "labels" in names and boxes.ndim == 2:
            why = "outputs boxes, scores, labels in px, as torchvision writes them"
            parameters = {"fractions": False, "first_label": 0}
            return Match("names", why, parameters, ("boxes", "scores", "labels"), UNIT, coco=91)
        return None
