"""A simple reference implementation: preprocessing with OpenCV and NumPy, decoding, NMS in a loop.

Bundles are compared with it, so it shares no code with the runtime except the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch

from perception_rt.model.decoder import Candidates
from perception_rt.model.golden import Outputs
from perception_rt.model.host_image import Placement
from perception_rt.model.oriented import oriented_nms
from perception_rt.model.specs import ImageSpec

MOST = 300  # boxes kept
Run = Callable[[np.ndarray], list[np.ndarray]]
"""The network's input -> its outputs, in the decoder's order."""


def reference_answer(
    image: np.ndarray,
    spec: ImageSpec,
    run: Run,
    decode: Any,
    score_threshold: float,
    nms_threshold: float,
    classes: int = 0,
) -> Outputs:
    """Return the detections of the source's own runtime in a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: how images reach the network.
        run: the source's own runtime.
        decode: its decoder.
        score_threshold: lowest score kept.
        nms_threshold: IoU of NMS, where the decoder needs it.
        classes: how many classes the network has; used for segmentation.

    Returns:
        boxes (K, 4) float32 xyxy in px of the image, scores (K,) float32, labels (K,) int64; best first.
        For segmentation also image_index (K,) int64 and the labels (1, H, W) uint8.
    """
    x, ratio, shift = prepare(image, spec)
    outputs = [torch.from_numpy(np.ascontiguousarray(array)) for array in run(x)]
    height, width = x.shape[2:] if spec.layout == "NCHW" else x.shape[1:3]
    found = decode(outputs, (height, width), score_threshold)
    boxes, scores, labels = (tensor.numpy() for tensor in found[:3])
    theta = found.extras["theta"].numpy() if "theta" in found.extras else None
    keep = np.flatnonzero(scores >= score_threshold)
    keep = keep[np.argsort(-scores[keep], kind="stable")][:1000]
    if decode.needs_nms and theta is None:
        keep = np.array(_greedy(boxes, labels, keep, nms_threshold), np.int64)
    elif decode.needs_nms:
        rows = torch.from_numpy(keep)
        columns = (found.boxes[rows], found.extras["theta"][rows], found.labels[rows])
        keep = keep[oriented_nms(*columns, nms_threshold).numpy()]
    keep = keep[:MOST]
    native = (boxes[keep] - [*shift, *shift]) / [*ratio, *ratio]
    if theta is None:
        native = np.clip(native, 0, [image.shape[1], image.shape[0]] * 2)
    answer = native.astype(np.float32), scores[keep].astype(np.float32), labels[keep].astype(np.int64)
    if not hasattr(decode, "label_map"):
        return answer
    boxes_, scores_, labels_ = (torch.from_numpy(column) for column in answer)
    extras = {name: value[torch.from_numpy(keep)] for name, value in found.extras.items()}
    size = round(image.shape[0] * ratio[1]), round(image.shape[1] * ratio[0])
    place = Placement((height, width), image.shape[:2], int(shift[1]), int(shift[0]), *size)
    least = np.full(classes, score_threshold, np.float32)
    painted = decode.label_map(outputs, Candidates(boxes_, scores_, labels_, extras), place, least)
    return (*answer, np.zeros(len(keep), np.int64), painted.numpy()[None])


def prepare(
    image: np.ndarray, spec: ImageSpec
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Return the network's input for (H, W, 3) uint8 RGB, and scale (x, y) and origin (x, y) of the image."""
    height, width = image.shape[:2]
    rows, columns = spec.size or (height, width)
    top = left = 0
    h, w = rows, columns
    if spec.resize.startswith("letterbox"):
        scale = min(rows / height, columns / width)
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        if spec.step is not None:
            rows, columns = h + (rows - h) % spec.step, w + (columns - w) % spec.step
        if spec.resize != "letterbox_top_left":
            top, left = (rows - h) // 2, (columns - w) // 2
    if spec.shorter_side is not None:
        h = spec.shorter_side * height // min(height, width)
        w = spec.shorter_side * width // min(height, width)
        top, left = -round((h - rows) / 2), -round((w - columns) / 2)
    if spec.whole_shorter_side is not None:
        side, short, long = spec.whole_shorter_side, min(height, width), max(height, width)
        sides = min(side, 8 * side * short // long), min(side * long // short, 8 * side)
        rows, columns = h, w = sides if height <= width else sides[::-1]
    small = _resized(image, w, h, spec.filter)[max(-top, 0) :, max(-left, 0) :][:rows, :columns]
    canvas = np.full((rows, columns, 3), spec.pad, np.float64 if spec.dtype != "uint8" else np.uint8)
    canvas[max(top, 0) :, max(left, 0) :][: len(small), : small.shape[1]] = small
    if spec.order == "bgr":
        canvas = canvas[..., ::-1]
    if spec.dtype != "uint8":
        canvas = (canvas * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    if spec.layout == "NCHW":
        canvas = canvas.transpose(2, 0, 1)
    return np.ascontiguousarray(canvas[None].astype(spec.dtype)), (w / width, h / height), (left, top)


def _resized(image: np.ndarray, width: int, height: int, method: str) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    if method in ("antialias", "bicubic"):
        mode = "bilinear" if method == "antialias" else method
        planar = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        out = torch.nn.functional.interpolate(planar, (height, width), mode=mode, antialias=True)
        return out[0].permute(1, 2, 0).numpy()
    area = method == "area" and width <= image.shape[1] and height <= image.shape[0]
    flag = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=flag)


def _greedy(boxes: np.ndarray, labels: np.ndarray, order: np.ndarray, threshold: float) -> list[int]:
    """Greedy NMS of each class, one row at a time."""
    kept: list[int] = []
    for row in order:
        rivals = [other for other in kept if labels[other] == labels[row]]
        if not rivals or not (_iou(boxes[row], boxes[rivals]) > threshold).any():
            kept.append(int(row))
    return kept


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    box, others = box.astype(np.float64), others.astype(np.float64)
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    overlap = sides.clip(0).prod(1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return overlap / np.maximum(areas - overlap, 1e-12)
