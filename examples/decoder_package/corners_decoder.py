"""A decoder of rows x1 y1 x2 y2 score label, as fractions of the picture; and an importer for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.bundle import ProgramSource
from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders.common import Match, Preset, Signature, above, fits, scaled
from perception_rt.model.importers.common import Imported
from perception_rt.model.importers.reference import reference_answer
from perception_rt.model.manifest import DecoderSpec
from perception_rt.model.specs import ImageSpec
from perception_rt.model.torchscript import module_bytes, script_module


class Corners:
    """Rows (1, R, 6); overlapping boxes are suppressed afterwards."""

    needs_nms = True
    preset = Preset("stretch", "bilinear", "rgb", score_threshold=0.5, nms_threshold=0.5)

    def __init__(self, spec: Any) -> None:
        pass

    def __call__(
        self, outputs: list[Tensor], input_size: tuple[int, int], score_threshold: float
    ) -> Candidates:
        """Decode one image."""
        rows = outputs[0][0].float()
        fits(rows.ndim == 2 and rows.shape[1] == 6, "corners takes (1, R, 6)")
        kept, scores, labels = above(rows[:, 4], rows[:, 5].long(), score_threshold)
        return Candidates(scaled(rows[kept, :4], input_size), scores, labels, {})

    def class_count(self, outputs: list[Tensor]) -> int | None:
        """Unknown: the output does not tell."""
        return None

    @staticmethod
    def match(network: Signature) -> Match | None:
        """Recognise the name of the output."""
        if network.names != ("corners",):
            return None
        return Match("names", "output corners", {}, network.names)


class Fixed(nn.Module):
    """A network that answers the same rows to any picture."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, x: Tensor) -> Tensor:
        """(1, 3, h, w) -> (1, R, 6)."""
        return self.rows + 0 * x.mean()


def import_npz(path: Path, options: dict[str, str]) -> Imported:
    """Import rows from a NumPy archive; ``--option size=64`` sets the side of the input in px."""
    side = int(options.get("size", "64"))
    rows = torch.from_numpy(np.load(path)["rows"].astype(np.float32))[None]
    network, preset = Fixed(rows), Corners.preset
    spec = ImageSpec((side, side), preset.resize, preset.filter, preset.order)
    data = module_bytes(script_module(network))

    def reference(image: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
        def run(x: np.ndarray) -> list[np.ndarray]:
            return [network(torch.from_numpy(x)).numpy()]

        return reference_answer(image, spec, run, Corners(spec), threshold, preset.nms_threshold)

    return Imported(
        classes=("thing", "other"),
        input_spec=spec,
        provenance={"npz": path.name},
        score_threshold=preset.score_threshold,
        nms_threshold=preset.nms_threshold,
        programs=[ProgramSource("torchscript", data, ("images",), ("corners",))],
        decoder=DecoderSpec("corners"),
        reference=reference,
    )
