"""NanoDet (RangiLyu) and PicoDet (Yu et al., 2021): four distances to a box's sides, each a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Match,
    Preset,
    Signature,
    above,
    are_scores,
    best_class,
    cell_count,
    cells,
    fits,
)


class _Distribution:
    """Class scores after their sigmoid and 4 * (reg_max + 1) logits a cell.

    A side's distance is the mean of its softmax, times the stride.

    Args:
        spec: of the bundle's input.
        strides: of the levels.
        offset: of a cell's middle, in cells.
        joined: one output (1, A, C + 4 * (reg_max + 1)); else scores (1, a, C) of every level, then logits
            (1, a, 4 * (reg_max + 1)) of every level.
        reg_max: largest distance, in cells.
    """

    needs_nms = True

    def __init__(
        self,
        spec: Any,
        strides: Sequence[int] = (8, 16, 32, 64),
        offset: float = 0.0,
        joined: bool = True,
        reg_max: int = 7,
    ) -> None:
        self._strides, self._offset = tuple(strides), offset
        self._joined, self._bins = joined, reg_max + 1
        self._cells: dict[tuple[tuple[int, int], torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        scores, logits = self._parts(outputs)
        expected = cell_count(input_size, self._strides)
        fits(
            len(scores) == len(logits) == expected and logits.shape[1] == 4 * self._bins,
            f"{len(scores)} cells of {logits.shape[1]} logits: not {expected} of {4 * self._bins}",
        )
        key = (input_size, logits.device)
        if key not in self._cells:
            self._cells[key] = cells(input_size, self._strides, logits.device)
        cell, stride = self._cells[key]
        steps = torch.arange(self._bins, device=logits.device, dtype=torch.float32)

        def boxes(i: Tensor) -> Tensor:
            reach = (logits[i].view(-1, 4, self._bins).softmax(2) @ steps) * stride[i]
            middle = (cell[i] + self._offset) * stride[i]
            return torch.cat([middle - reach[:, :2], middle + reach[:, 2:]], 1)

        return best_class(scores, score_threshold, boxes)

    def _parts(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        if self._joined:
            table = outputs[0][0].float()
            return table[:, : -4 * self._bins], table[:, -4 * self._bins :]
        half = len(self._strides)
        fits(len(outputs) == 2 * half, f"{len(outputs)} outputs: not {2 * half}")
        scores = torch.cat([output[0].float() for output in outputs[:half]])
        return scores, torch.cat([output[0].float() for output in outputs[half:]])

    def class_count(self, outputs: list[Tensor]) -> int:
        """How many classes this output holds."""
        return outputs[0].shape[-1] - (4 * self._bins if self._joined else 0)


class NanoDet(_Distribution):
    """NanoDet-Plus (strides to 64, cells at their corner) and NanoDet (to 32, at their middle)."""

    # config/nanodet-plus-m_416.yml and demo/demo.py
    preset: ClassVar[Preset] = Preset(
        "stretch", "bilinear", "bgr", 0.35, 0.6, 1.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
    )

    # config/legacy_v0.x_configs/nanodet-m.yml: keeps the aspect, on black
    legacy: ClassVar[Preset] = replace(preset, resize="letterbox", pad=0.0)

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise one output of all levels; or ``cls_pred_stride_8`` and so on, a pair for each level."""
        first = network.outputs[0]
        scored = sorted((n for n in network.names if n.startswith("cls_pred_stride_")), key=_stride)
        sided = sorted((n for n in network.names if n.startswith("dis_pred_stride_")), key=_stride)
        if scored and len(scored) == len(sided):
            strides = [_stride(name) for name in scored]
            bins = network.of(sided[0]).shape[-1] // 4
            parameters = {
                "strides": strides,
                "joined": False,
                "reg_max": bins - 1,
                "offset": _offset(strides),
            }
            preset = None if 64 in strides else NanoDet.legacy
            why = f"outputs {scored[0]} and so on"
            return Match("names", why, parameters, (*scored, *sided), preset)
        if len(network.outputs) != 1 or first.ndim != 3 or first.shape[2] <= 32:
            return None
        for strides in ([8, 16, 32, 64], [8, 16, 32]):
            rows = cell_count(network.input_size, strides)
            if first.shape[1] == rows and are_scores(first[..., :-32]) and not are_scores(first[..., -32:]):
                why = f"output {network.names[0]} {tuple(first.shape)} has 32 logits a cell"
                parameters = {"strides": strides, "offset": _offset(strides)}
                preset = None if 64 in strides else NanoDet.legacy
                return Match("shapes", why, parameters, network.names, preset)
        return None


class PicoDet(_Distribution):
    """PicoDet without its post-processing: scores of every level, then distances of every level."""

    # configs/picodet: RGB by ImageNet's mean; legacy deploy/third_engine/demo_onnxruntime: thresholds
    preset: ClassVar[Preset] = Preset(
        "stretch", "bilinear", "rgb", 0.4, 0.3, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )

    def __init__(
        self,
        spec: Any,
        strides: Sequence[int] = (8, 16, 32, 64),
        offset: float = 0.5,
        joined: bool = False,
        reg_max: int = 7,
    ) -> None:
        super().__init__(spec, strides, offset, joined, reg_max)

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise a pair of outputs (1, cells, C) and (1, cells, 32) for each of four levels."""
        shapes = network.shapes
        if len(shapes) not in (6, 8) or any(len(shape) != 3 for shape in shapes):
            return None
        if any(name.startswith("cls_pred_stride_") for name in network.names):
            return None
        half = len(shapes) // 2
        strides = [8, 16, 32, 64][:half]
        counts = [cell_count(network.input_size, [stride]) for stride in strides]
        if [shape[1] for shape in shapes] != counts * 2 or any(s[2] % 4 for s in shapes[half:]):
            return None
        if not all(are_scores(output) for output in network.outputs[:half]):
            return None
        parameters = {"strides": strides, "reg_max": shapes[-1][2] // 4 - 1}
        return Match("shapes", f"{half} outputs of scores, {half} of distances", parameters, network.names)


class PaddleRows:
    """PaddleDetection with NMS inside (PicoDet, PP-YOLOE, RT-DETR): rows label, score, x1 y1 x2 y2.

    The network divides its boxes by the input ``scale_factor``, which is given as 1: px of the input.
    """

    needs_nms = False
    # configs/picodet: mean and std of RGB in [0, 1]; deploy/python/infer.py: score above 0.5
    preset: ClassVar[Preset] = Preset(
        "stretch", "bilinear", "rgb", 0.5, 1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )

    def __init__(self, spec: Any) -> None:
        pass

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image; see `perception_rt.model.decoder.Decoder`."""
        table = outputs[0].float()
        fits(table.ndim == 2 and table.shape[1] == 6, "paddle takes (R, 6)")
        rows, scores, labels = above(table[:, 1], table[:, 0].long(), score_threshold)
        kept = labels >= 0  # -1: none found
        return Candidates(table[rows[kept], 2:], scores[kept], labels[kept], {})

    def class_count(self, outputs: list[Tensor]) -> int | None:
        """Unknown: the output does not tell."""
        return None

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise the input ``scale_factor`` and rows of six."""
        first = network.outputs[0]
        if "scale_factor" not in network.inputs or first.ndim != 2 or first.shape[1] != 6:
            return None
        why = f"input scale_factor, output {network.names[0]} of rows"
        return Match("names", why, {}, network.names[:1])


def _stride(name: str) -> int:
    return int(name.rsplit("_", 1)[1]) if name.rsplit("_", 1)[1].isdigit() else 0


def _offset(strides: Sequence[int]) -> float:
    """NanoDet-Plus, with a level of stride 64, has a cell's corner as its middle; NanoDet its middle."""
    return 0.0 if 64 in strides else 0.5
