"""YOLOv5 (Jocher et al.), YOLOv7 and YOLOv6: (1, A, 5 + C), decoded in the network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    Match,
    Preset,
    Signature,
    are_scores,
    best_class,
    cell_count,
    cxcywh_to_xyxy,
    fits,
)


class YoloV5:
    """Rows of cx cy w h in px, objectness, class scores, all after their sigmoid; score is their product."""

    needs_nms = True
    preset = Preset("letterbox", "bilinear", "rgb", 0.25, 0.45)  # yolov5 detect.py

    def __init__(self, spec: Any) -> None:
        pass

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        rows = outputs[0][0].float()
        fits(rows.ndim == 2 and rows.shape[1] > 5, "yolov5 takes (1, A, 5 + C)")
        return best_class(rows[:, 5:], score_threshold, lambda i: cxcywh_to_xyxy(rows[i]), rows[:, 4])

    def class_count(self, outputs: list[Tensor]) -> int:
        """How many classes this output holds."""
        return outputs[0].shape[-1] - 5

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise three anchors a cell; or one, where objectness is constant, as YOLOv6 writes it."""
        first = network.outputs[0]
        if first.ndim != 3 or first.shape[2] <= 5 or not are_scores(first[..., 4:]):
            return None
        rows, name = first.shape[1], network.names[:1]
        for strides in ((8, 16, 32), (8, 16, 32, 64)):
            if rows == 3 * cell_count(network.input_size, strides):
                told = "names" in network.metadata and "task" not in network.metadata
                why = f"output {name[0]} {tuple(first.shape)} has three anchors a cell"
                return Match("metadata" if told else "shapes", why, {}, name)
        if rows == cell_count(network.input_size, (8, 16, 32)) and bool((first[..., 4] == 1).all()):
            return Match("shapes", f"output {name[0]} has a constant objectness, as of YOLOv6", {}, name)
        return None
