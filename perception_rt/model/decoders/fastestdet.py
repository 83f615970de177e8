"""FastestDet (xuehao.ma, github.com/dog-qiuqiu/FastestDet)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    Match,
    Preset,
    Signature,
    above,
    are_scores,
    cxcywh_to_xyxy,
    fits,
    scaled,
)


class FastestDet:
    """(1, 5 + C, h, w) cells: objectness, box, class scores.

    Score is obj^0.6 * class^0.4; the centre is the cell plus a tanh, the size a sigmoid of the image.
    """

    needs_nms = True
    preset = Preset("stretch", "area", "bgr", 0.65, 0.45)  # test.py --thresh, utils/tool.py

    def __init__(self, spec: Any) -> None:
        pass

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        out = outputs[0][0].float()
        fits(out.ndim == 3 and out.shape[0] > 5, "fastestdet takes (1, 5 + C, h, w)")
        rows, columns = out.shape[1:]
        best, labels = out[5:].max(0)
        scores = (out[0].pow(0.6) * best.pow(0.4)).flatten()
        index, scores, labels = above(scores, labels.flatten(), score_threshold)
        x, y, w, h = out[1:5].flatten(1)[:, index]
        x = (index % columns + x.tanh()) / columns
        y = (torch.div(index, columns, rounding_mode="floor") + y.tanh()) / rows
        boxes = cxcywh_to_xyxy(torch.stack([x, y, w.sigmoid(), h.sigmoid()], 1))
        return Candidates(scaled(boxes, input_size), scores, labels, {})

    def class_count(self, outputs: list[Tensor]) -> int:
        """How many classes this output holds."""
        return outputs[0].shape[1] - 5

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise one output of cells, a sixteenth of the input."""
        first = network.outputs[0]
        if len(network.outputs) != 1 or first.ndim != 4 or first.shape[1] <= 5:
            return None
        height, width = network.input_size
        if tuple(first.shape[2:]) != (height // 16, width // 16) or not are_scores(first[:, 5:]):
            return None
        why = f"output {network.names[0]} {tuple(first.shape)} has cells of 16 px"
        return Match("shapes", why, {}, network.names)
