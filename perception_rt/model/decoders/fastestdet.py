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
    fits,
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
        height, width = input_size
        flat = out.flatten(1)
        # No class score is above 1, so the objectness alone tells which cells can reach the threshold.
        index = torch.nonzero(flat[0] >= max(score_threshold, 0.0) ** (1 / 0.6) - 1e-3).squeeze(1)
        cells = flat[:, index]
        best, labels = cells[5:].max(0)
        kept, scores, labels = above(cells[0].pow(0.6) * best.pow(0.4), labels, score_threshold)
        index, cells = index[kept], cells[:, kept]
        at = torch.stack([index % columns, index.div(columns, rounding_mode="floor")])
        centre = (at + cells[1:3].tanh()) * flat.new_tensor([[width / columns], [height / rows]])
        half = cells[3:5].sigmoid() * flat.new_tensor([[width / 2], [height / 2]])
        return Candidates(torch.cat([centre - half, centre + half]).T, scores, labels, {})

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
