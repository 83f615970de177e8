"""RF-DETR (Roboflow), and other DETRs that end in a sigmoid."""

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
    cxcywh_to_xyxy,
    every_class,
    fits,
    scaled,
)
from perception_rt.model.decoders.detr import BOXES, LOGITS, query_outputs


class RfDetr:
    """Boxes (1, Q, 4) cxcywh as fractions, logits (1, Q, S) for a sigmoid; a set prediction, no NMS.

    A network trained on C classes of its own has S = C + 1 slots, the last unused; the official COCO files
    use all of their 91. `classes` says how many slots count.

    Args:
        spec: of the bundle's input.
        classes: C; None for all slots.
    """

    needs_nms = False
    preset = Preset("stretch", "antialias", "rgb", 0.5, 1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def __init__(self, spec: Any, classes: int | None = None) -> None:
        self._classes = classes

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        boxes, logits = outputs[0][0].float(), outputs[1][0].float()
        fits(boxes.shape[-1] == 4 and len(boxes) == len(logits), "rfdetr takes (1, Q, 4) and (1, Q, S)")
        scores = logits[:, : self._classes].sigmoid()
        return every_class(scores, scaled(cxcywh_to_xyxy(boxes), input_size), score_threshold)

    def class_count(self, outputs: list[Tensor]) -> int:
        """Return the number of slots that count."""
        return outputs[1].shape[-1] if self._classes is None else self._classes

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise ``dets`` and ``labels``, or logits with as many slots as there are class names."""
        names = query_outputs(network, ("labels",), ("dets",))
        by = "names"
        if names is None:
            names = query_outputs(network, LOGITS, BOXES)
            if names is None or network.of(names[0]).shape[2] != network.classes:
                return None
            by = "shapes"
        slots = network.of(names[0]).shape[2]
        if network.classes is not None and slots not in (network.classes, network.classes + 1):
            return None
        classes = network.classes or (slots if slots == 91 else slots - 1)
        used = "all used" if classes == slots else "the last unused"
        why = f"outputs {names[1]}, {names[0]}: {slots} slots, {used}"
        return Match(by, why, {"classes": classes}, (names[1], names[0]))
