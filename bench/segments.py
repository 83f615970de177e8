"""Networks that label pixels: masks beside the formula of their authors, and the time of labelling."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import perception_rt
from bench.inputs import picture
from bench.rows import Row, row
from perception_rt.model.decoder import Candidates
from perception_rt.model.decoders import Semantic
from perception_rt.model.host_image import Placement
from perception_rt.model.importers import import_onnx, save_checked

CALLS = 15
CLASSES = 19  # as Cityscapes has


def segment_rows() -> list[Row]:
    """Every row."""
    took = {stride: _label_ms(stride) for stride in (1, 8)}
    return [
        row("networks/segment/pixels_as_by_formula", _as_by_formula(), "of the pixels", ">= 0.999"),
        *(row(f"networks/segment/stride_{stride}_labels_720p_ms", ms, "ms") for stride, ms in took.items()),
    ]


def _as_by_formula() -> float:
    """Of a tiny network in the layout of Ultralytics' exports, on a street."""
    from test.segmenters import ULTRALYTICS, formula_labels, save_masks_onnx  # beside this package

    image = picture((192, 128))
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "masks.pt"
        imported = import_onnx(save_masks_onnx(bundle.with_suffix(".onnx"), "grid", ULTRALYTICS))
        save_checked(bundle, imported, image, name="masks")
        runtime = perception_rt.open_bundle(bundle, "cpu")
    labels = perception_rt.segment(runtime, image).labels
    return float((labels == formula_labels(image, imported.input_spec)[1]).mean())


def _label_ms(stride: int) -> float:
    """From logits of 19 classes over an input of 512 x 1024 px to labels of 1280 x 720 px, one thread."""
    logits = torch.from_numpy(
        np.random.default_rng(0).standard_normal((1, CLASSES, 512 // stride, 1024 // stride))
    )
    logits, place = logits.float(), Placement((512, 1024), (720, 1280), 0, 57, 512, 910)
    none = Candidates(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), {})
    decode, least, times = Semantic(None), np.zeros(CLASSES, np.float32), []
    torch.set_num_threads(1)
    for _ in range(CALLS):
        began = time.perf_counter()
        decode.label_map([logits], none, place, least)
        times.append((time.perf_counter() - began) * 1e3)
    return float(np.median(times[1:]))
