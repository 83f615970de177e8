"""RT-DETR, D-FINE, DEIM and DEIMv2: labels, boxes and scores without further decoding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    Match,
    Preset,
    Signature,
    above,
    cxcywh_to_xyxy,
    every_class,
    fits,
    scaled,
)

# `yolo predict` of an RT-DETR: scale_fill, so no bars
ULTRALYTICS = Preset("stretch", "bilinear", "rgb", 0.25, 1.0)


class RtDetr:
    """A set prediction, no NMS.

    ``ready``: labels (1, Q), boxes (1, Q, 4) xyxy in px of the sizes given as ``orig_target_sizes``, scores
    (1, Q). ``rows``: (1, Q, 6) cxcywh as fractions, score, label. ``scores``: (1, Q, 4 + C) cxcywh as
    fractions, class scores. The last two are Ultralytics'.

    Args:
        spec: of the bundle's input.
        layout: one of these.

    Raises:
        ValueError: an unknown layout.
    """

    needs_nms = False
    # tools/inference/torch_inf.py of D-FINE and DEIM: a plain resize; scores above 0.4
    preset = Preset("stretch", "antialias", "rgb", 0.4, 1.0)

    def __init__(self, spec: Any, layout: str = "ready") -> None:
        fits(layout in ("ready", "rows", "scores"), f"layout={layout!r}: must be ready, rows or scores")
        self._layout = layout

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        if self._layout == "ready":
            fits(len(outputs) >= 3 and outputs[1].shape[-1] == 4, "rtdetr takes labels, boxes and scores")
            rows, scores, labels = above(outputs[2][0].float(), outputs[0][0].long(), score_threshold)
            return Candidates(outputs[1][0].float()[rows], scores, labels, {})
        table = outputs[0][0].float()
        fits(table.ndim == 2 and table.shape[1] > 4, "rtdetr takes (1, Q, 6) or (1, Q, 4 + C)")
        boxes = scaled(cxcywh_to_xyxy(table), input_size)
        if self._layout == "scores":
            return every_class(table[:, 4:], boxes, score_threshold)
        rows, scores, labels = above(table[:, 4], table[:, 5].long(), score_threshold)
        return Candidates(boxes[rows], scores, labels, {})

    def class_count(self, outputs: list[Tensor]) -> int | None:
        """How many classes this output holds; None where the output does not tell."""
        return outputs[0].shape[-1] - 4 if self._layout == "scores" else None

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise the three names, or Ultralytics' metadata."""
        if {"labels", "boxes", "scores"} <= set(network.names) and "orig_target_sizes" in network.inputs:
            why = "outputs labels, boxes, scores and input orig_target_sizes"
            return Match("names", why, {}, ("labels", "boxes", "scores"))
        first = network.outputs[0]
        if "rtdetr" not in network.metadata.get("description", "").lower() or first.ndim != 3:
            return None
        rows = first.shape[2] == 6 and network.classes != 2
        layout = "rows" if rows else "scores"
        return Match("metadata", "Ultralytics RT-DETR", {"layout": layout}, network.names[:1], ULTRALYTICS)
