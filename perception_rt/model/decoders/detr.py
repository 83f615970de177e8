"""DETR (Carion et al., 2020): logits with a last slot for "no object", boxes as fractions."""

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
    best_class,
    cxcywh_to_xyxy,
    fits,
    scaled,
)

LOGITS = ("logits", "pred_logits")
BOXES = ("boxes", "pred_boxes")


class Detr:
    """Logits (1, Q, C + 1) for a softmax, boxes (1, Q, 4) cxcywh; a set prediction, no NMS."""

    needs_nms = False
    preset = Preset("stretch", "bilinear", "rgb", 0.7, 1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def __init__(self, spec: Any) -> None:
        pass

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        logits, boxes = outputs[0][0].float(), outputs[1][0].float()
        fits(boxes.shape[-1] == 4 and len(boxes) == len(logits), "detr takes (1, Q, C + 1) and (1, Q, 4)")
        scores = logits.softmax(-1)[:, :-1]
        return best_class(scores, score_threshold, lambda i: scaled(cxcywh_to_xyxy(boxes[i]), input_size))

    def class_count(self, outputs: list[Tensor]) -> int:
        """How many classes this output holds."""
        return outputs[0].shape[-1] - 1

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise the names, with 100 queries or one slot more than there are class names."""
        names = query_outputs(network, LOGITS, BOXES)
        if names is None:
            return None
        queries, slots = network.of(names[0]).shape[1:]
        if queries != 100 and slots not in (92, (network.classes or -2) + 1):
            return None
        why = f"outputs {names[0]}, {names[1]}: {slots} slots, the last for no object"
        return Match("names" if queries == 100 else "shapes", why, {}, names)


def query_outputs(
    network: Signature, logits: tuple[str, ...], boxes: tuple[str, ...]
) -> tuple[str, str] | None:
    """Return the names of the outputs with logits (1, Q, S) and boxes (1, Q, 4); None if there are none."""
    first = [name for name in network.names if name in logits]
    second = [name for name in network.names if name in boxes]
    if len(first) != 1 or len(second) != 1:
        return None
    one, other = network.of(first[0]), network.of(second[0])
    if one.ndim != 3 or other.ndim != 3 or other.shape[2] != 4 or one.shape[1] != other.shape[1]:
        return None
    return first[0], second[0]
