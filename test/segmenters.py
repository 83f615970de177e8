"""Tiny real segmenters for tests: what they answer can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from perception_rt.model.bundle import ProgramSource, save_network
from perception_rt.model.host_image import ImagePreparer
from perception_rt.model.manifest import DecoderSpec, Manifest
from perception_rt.model.specs import ImageSpec
from perception_rt.model.torchscript import module_bytes, trace_module
from perception_rt.types.segmentation import UNLABELLED

CLASSES = ("red", "green", "blue")
STRIDE = 4


class ColourMap(nn.Module):
    """Logits of three classes on a grid of `STRIDE` px: eight times the mean of each channel."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (8 * F.avg_pool2d(images, STRIDE),)


def save_colour_map(path: Path, resize: str = "letterbox", score_threshold: float = 0.0) -> Manifest:
    """A bundle of `ColourMap` at 64 x 96 px."""
    traced = trace_module(ColourMap(), torch.zeros(2, 3, 64, 96))
    program = ProgramSource("torchscript", module_bytes(traced), ("images",), ("logits",), any_batch=True)
    return save_network(
        path,
        [program],
        decoder=DecoderSpec("semantic"),
        name="colour_map",
        classes=CLASSES,
        input_spec=ImageSpec((64, 96), resize, "bilinear", "rgb"),
        licence="Apache-2.0",
        score_threshold=score_threshold,
        nms_threshold=1.0,
        task="segment",
    )


def bands(height: int = 120, width: int = 180) -> np.ndarray:
    """Red, green and blue from left to right."""
    image = np.zeros((height, width, 3), np.uint8)
    for channel in range(3):
        image[:, width * channel // 3 : width * (channel + 1) // 3, channel] = 255
    return image


# The layout of Ultralytics' exports: rows of boxes, class scores, coefficients; and the prototypes.
SIZE = (64, 96)  # px of the network's input
CELLS = (16, 24)  # of the prototypes
ROWS = np.float32(  # cx cy w h, scores of two classes, coefficients of the three channels and of 1
    [
        [24.0, 32.0, 40.0, 40.0, 0.90, 0.05, 1.0, -0.5, -0.5, 0.0],
        [25.0, 32.0, 40.0, 40.0, 0.80, 0.05, 1.0, -0.5, -0.5, 0.0],  # NMS takes this one
        [64.0, 30.0, 50.0, 31.0, 0.10, 0.70, -0.5, 1.0, -0.5, 0.0],
        [48.0, 32.0, 90.0, 20.0, 0.60, 0.10, 0.0, 0.0, 0.0, 0.5],  # a box without a shape, below the others
        [20.0, 20.0, 10.0, 10.0, 0.05, 0.05, 1.0, 1.0, 1.0, 1.0],  # too weak
    ]
)
ULTRALYTICS = {"task": "segment", "names": "{0: 'sign', 1: 'lawn'}", "imgsz": "[64, 96]", "stride": "8"}


def mask_rows(layout: str) -> np.ndarray:
    """(1, ...) `ROWS` as an export of a layout has them: ``grid``, ``rows`` or ``yolov5``."""
    boxes, scores, coefficients = ROWS[:, :4], ROWS[:, 4:6], ROWS[:, 6:]
    if layout == "rows":  # NMS was inside
        kept = [0, 2, 3]
        corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
        best = np.stack((scores.max(1), scores.argmax(1)), 1).astype(np.float32)
        return np.concatenate((corners, best, coefficients), 1)[None, kept]
    if layout == "yolov5":
        rows = np.concatenate((boxes, np.ones((5, 1), np.float32), scores, coefficients), 1)
        blank = np.zeros((3 * (8 * 12 + 4 * 6 + 2 * 3) - 5, rows.shape[1]), np.float32)
        return np.concatenate((rows, blank))[None]
    return np.ascontiguousarray(ROWS.T)[None]


def save_masks_onnx(path: Path, layout: str = "grid", metadata: dict[str, str] | None = None) -> Path:
    """A network of `ROWS`, whose prototypes are the three channels of the image and a plane of ones.

    The rows are its weights. A product with zero ties them to the image, as engines fold constants.
    """
    rows = mask_rows(layout)
    ones = np.ones((1, 1, *CELLS), np.float32)
    constants = {"rows": rows, "ones": ones, "zero": np.zeros((1, 1, 1), np.float32)}
    nodes = [
        helper.make_node("AveragePool", ["images"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Concat", ["small", "ones"], ["output1"], axis=1),
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["mean"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["level", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "masks",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])],
        [
            helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(rows.shape)),
            helper.make_tensor_value_info("output1", TensorProto.FLOAT, [1, 4, *CELLS]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path)
    return path


def native_masks(
    coefficients: np.ndarray, prototypes: np.ndarray, boxes: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(K, H, W) bool by the authors' formula for masks at the size of the picture.

    The sums of the prototypes, without the letterbox's cells, are interpolated to the picture, cut to the
    boxes (of the picture, px) and compared with zero.
    """
    channels, rows, columns = prototypes.shape
    sums = torch.from_numpy((coefficients @ prototypes.reshape(channels, -1)).reshape(-1, rows, columns))
    gain = min(rows / size[0], columns / size[1])
    top, left = (rows - size[0] * gain) / 2, (columns - size[1] * gain) / 2
    cut = sums[:, round(top - 0.1) : rows - round(top + 0.1), round(left - 0.1) : columns - round(left + 0.1)]
    whole = F.interpolate(cut[None], size, mode="bilinear", align_corners=False)[0].numpy()
    y, x = np.mgrid[: size[0], : size[1]]
    inside = [(x >= x1) & (x < x2) & (y >= y1) & (y < y2) for x1, y1, x2, y2 in boxes]
    return (whole > 0) & np.array(inside)


def formula_labels(image: np.ndarray, spec: ImageSpec) -> tuple[np.ndarray, np.ndarray, bool]:
    """What the network of `ROWS` answers for an image by its authors' formula.

    Returns:
        (K, 4) boxes in px of the image, (H, W) uint8 labels, and whether the letterbox ends at whole cells,
        to which the authors round it.
    """
    inputs, where = ImagePreparer(spec, ("images",), torch.device("cpu"))(
        torch.from_numpy(image)[None], False
    )
    small = F.avg_pool2d(inputs["images"], STRIDE)[0].numpy()
    prototypes = np.concatenate((small, np.ones((1, *CELLS), np.float32)))
    kept = [0, 2, 3]  # of ROWS, best first
    boxes, labels = ROWS[kept, :4], ROWS[kept, 4:6].argmax(1)
    boxes = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    size = image.shape[:2]
    scale = where.width / size[1], where.height / size[0]
    boxes = (boxes - [where.left, where.top] * 2) / [*scale, *scale]
    boxes = boxes.clip(0, [size[1], size[0]] * 2).astype(np.float32)
    expected = np.full(size, UNLABELLED, np.uint8)
    for row, mask in reversed(list(enumerate(native_masks(ROWS[kept, 6:], prototypes, boxes, size)))):
        expected[mask] = labels[row]
    whole = all(side % STRIDE == 0 for side in (where.top, where.left, where.width, where.height))
    return boxes, expected, whole
