"""YOLOX (Ge et al., 2021): (1, A, 5 + C), one box a cell; the grid is added here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    Match,
    Preset,
    Signature,
    are_scores,
    best_class,
    cell_count,
    cells,
    cxcywh_to_xyxy,
    fits,
)


class YoloX:
    """Centre (x + cell) * stride, size exp(w) * stride; objectness and class scores after their sigmoid.

    Args:
        spec: of the bundle's input.
        strides: of the levels.
        decoded: whether the network adds the grid by itself (``--decode_in_inference``).
    """

    needs_nms = True
    # demo/ONNXRuntime/onnx_inference.py: BGR 0..255, padded at the right and the bottom
    preset = Preset("letterbox_top_left", "bilinear", "bgr", 0.3, 0.45, scale=1.0)

    def __init__(self, spec: Any, strides: Sequence[int] = (8, 16, 32), decoded: bool = False) -> None:
        self._strides, self._decoded = tuple(strides), decoded
        self._cells: dict[tuple[tuple[int, int], torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        rows = outputs[0][0].float()
        expected = cell_count(input_size, self._strides)
        fits(
            rows.ndim == 2 and rows.shape[0] == expected and rows.shape[1] > 5,
            f"yolox takes (1, {expected}, 5 + C) for an input of {input_size}",
        )
        key = (input_size, rows.device)
        if key not in self._cells:
            self._cells[key] = cells(input_size, self._strides, rows.device)
        cell, stride = self._cells[key]

        def boxes(i: Tensor) -> Tensor:
            if self._decoded:
                return cxcywh_to_xyxy(rows[i])
            centre, size = (rows[i, :2] + cell[i]) * stride[i], rows[i, 2:4].exp() * stride[i]
            return cxcywh_to_xyxy(torch.cat([centre, size], 1))

        return best_class(rows[:, 5:], score_threshold, boxes, rows[:, 4])

    def class_count(self, outputs: list[Tensor]) -> int:
        """How many classes this output holds."""
        return outputs[0].shape[-1] - 5

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise one row a cell; whether the grid is added shows in the centres."""
        first, name = network.outputs[0], network.names[:1]
        size, strides = network.input_size, (8, 16, 32)
        if len(network.outputs) != 1 or first.ndim != 3 or first.shape[2] <= 5 or "task" in network.metadata:
            return None
        if first.shape[1] != cell_count(size, strides) or not are_scores(first[..., 4:]):
            return None
        if bool((first[..., 4] == 1).all()):
            return None  # YOLOv6: no objectness
        # Raw centres are a cell or two off; decoded ones lie all over the input.
        decoded = bool(first[0, :, :2].float().abs().median() >= strides[0])
        way = "decoded in the network" if decoded else "raw"
        why = f"output {name[0]} {tuple(first.shape)} has one row a cell, {way}"
        by = "names" if name == ("output",) and not decoded else "shapes"
        return Match(by, why, {"decoded": True} if decoded else {}, name)
