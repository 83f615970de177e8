"""Instance segmentation networks: YOLOv8-seg and later, YOLOv5-seg.

A mask is a sum of prototypes, which one output holds, weighted by the coefficients behind each box (YOLACT,
Bolya et al., 2019). It is positive inside of the object, and is cut to the box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import Match, Signature, above, cxcywh_to_xyxy, fits
from perception_rt.model.decoders.yolov5 import YoloV5
from perception_rt.model.decoders.yolov8 import YoloV8
from perception_rt.model.host_image import Placement
from perception_rt.model.task import SEGMENT
from perception_rt.types.segmentation import UNLABELLED

COEFFICIENTS = "coefficients"


class PrototypeMasks:
    """Common code of the two families, whose outputs are boxes and (1, M, h, w) prototypes."""

    has_boxes = True
    task = SEGMENT.name

    def label_map(
        self, outputs: list[Tensor], found: Candidates, place: Placement, least: np.ndarray
    ) -> Tensor:
        """Paint the masks, the best score on top; see `perception_rt.model.segmenter.SegmentDecoder`."""
        fits(len(outputs) == 2 and outputs[1].ndim == 4, "masks take boxes and (1, M, h, w) prototypes")
        prototypes, coefficients = outputs[1][0].float(), found.extras[COEFFICIENTS].float()
        fits(
            coefficients.shape[1] == len(prototypes),
            f"{coefficients.shape[1]} coefficients for {len(prototypes)} prototypes",
        )
        labels = prototypes.new_full(place.native, UNLABELLED, dtype=torch.uint8)
        masks = (coefficients @ prototypes.flatten(1)).view(-1, *prototypes.shape[1:])
        fits(bool(torch.isfinite(masks).all()), "the masks hold NaN or infinity")
        for row in range(len(masks) - 1, -1, -1):
            left, top, right, bottom = found.boxes[row].ceil().to(torch.int64).tolist()
            if right <= left or bottom <= top:
                continue
            inside = _sampled(masks[row], place, (top, bottom), (left, right)) > 0
            patch = labels[top:bottom, left:right]
            patch[inside] = found.labels[row].to(torch.uint8)
        return labels


class YoloV8Seg(PrototypeMasks, YoloV8):
    """YOLOv8-seg, YOLO11-seg, YOLO26-seg: the boxes of `YoloV8`, M coefficients behind each.

    Args:
        spec, classes, layout: as of `YoloV8`.
    """

    def __init__(self, spec: Any, classes: int, layout: str = "grid") -> None:
        super().__init__(spec, classes, layout, "masks")

    def _extras(self, rest: Tensor) -> dict[str, Tensor]:
        return {COEFFICIENTS: rest}

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise Ultralytics' metadata, or boxes with prototypes."""
        found = YoloV8.match(network)
        if found is None or found.parameters.get("extra") != "masks" or len(network.names) != 2:
            return None
        parameters = {key: value for key, value in found.parameters.items() if key != "extra"}
        by = "metadata" if "task" in network.metadata else "shapes"
        return Match(by, found.why, parameters, network.names)


class YoloV5Seg(PrototypeMasks, YoloV5):
    """YOLOv5-seg: rows of `YoloV5`, M coefficients behind the class scores.

    Args:
        spec: not used.
        classes: C.
    """

    def __init__(self, spec: Any, classes: int) -> None:
        self._classes = classes

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        rows = outputs[0][0].float()
        last = 5 + self._classes
        fits(rows.ndim == 2 and rows.shape[1] > last, f"yolov5seg takes (1, A, {last} + M)")
        scores, labels = rows[:, 5:last].max(1)
        kept, scores, labels = above(scores * rows[:, 4], labels, score_threshold)
        boxes = cxcywh_to_xyxy(rows[kept])
        return Candidates(boxes, scores, labels, {COEFFICIENTS: rows[kept, last:]})

    def class_count(self, outputs: list[Tensor]) -> int:
        """How many classes this output holds."""
        return self._classes

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise boxes of YOLOv5 with prototypes."""
        if [output.ndim for output in network.outputs] != [3, 4]:
            return None
        rows, prototypes = network.outputs
        classes = rows.shape[2] - 5 - prototypes.shape[1]
        if classes < 1:
            return None
        alone = Signature(
            network.inputs,
            network.names[:1],
            [rows[..., : 5 + classes]],
            network.input_size,
            network.metadata,
        )
        found = YoloV5.match(alone)
        if found is None:
            return None
        why = f"{found.why}, {prototypes.shape[1]} coefficients and prototypes"
        return Match(found.by, why, {"classes": classes}, network.names)


def _sampled(mask: Tensor, place: Placement, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Return values of (h, w) over the network's input at pixels of the image, by bilinear interpolation."""
    vertical = _weights(rows, place.native[0], place.height, place.top, place.size[0], mask.shape[0])
    horizontal = _weights(columns, place.native[1], place.width, place.left, place.size[1], mask.shape[1])
    return vertical.to(mask.device) @ mask @ horizontal.to(mask.device).T


def _weights(span: tuple[int, int], native: int, resized: int, start: int, size: int, cells: int) -> Tensor:
    """Return (P, cells) the weights of the two neighbouring cells along an axis for each pixel of `span`."""
    pixels = torch.arange(*span, dtype=torch.float64)
    at = ((pixels + 0.5) * resized / native + start) * cells / size - 0.5
    # Replicate the border of the picture; cells in the letterbox bars must not contribute.
    first, last = start * cells // size, -(-(start + resized) * cells // size) - 1
    at = at.clamp(max(first, 0), min(last, cells - 1))
    low = at.floor().clamp(max=cells - 1).long()
    high = (low + 1).clamp(max=cells - 1)
    part = (at - low)[:, None]
    weights = torch.zeros(len(at), cells, dtype=torch.float64)
    weights.scatter_add_(1, low[:, None], 1 - part)
    weights.scatter_add_(1, high[:, None], part)
    return weights.float()
