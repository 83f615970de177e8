"""A tiny real classifier for tests: what it answers can be computed by hand."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from perception_rt.model.bundle import ProgramSource, save_network
from perception_rt.model.manifest import DecoderSpec, Manifest
from perception_rt.model.specs import ImageSpec
from perception_rt.model.torchscript import module_bytes, trace_module

CLASSES = ("red", "green", "blue")
GAIN = 8.0


class Colours(nn.Module):
    """Logits of three classes: `GAIN` times the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.gain * images.mean((2, 3)),)


def save_colours(path: Path) -> Manifest:
    """A bundle of `Colours`, which sees the middle 32/36 of an image."""
    traced = trace_module(Colours(), torch.zeros(2, 3, 32, 32))
    program = ProgramSource("torchscript", module_bytes(traced), ("images",), ("logits",), any_batch=True)
    return save_network(
        path,
        [program],
        decoder=DecoderSpec("classifier"),
        name="colours",
        classes=CLASSES,
        input_spec=ImageSpec((32, 32), "crop_36", "antialias", "rgb"),
        licence="Apache-2.0",
        score_threshold=0.0,
        nms_threshold=1.0,
        task="classify",
    )
