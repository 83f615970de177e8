"""The self-test of a bundle: a weight hash, an input from a seed, and the comparison of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch

from perception_rt.model.manifest import Golden

GOLDEN_ROWS = 32
GOLDEN_SHAPE = (1, 240, 320, 3)
MATCHED_SHARE = 0.9  # two near-equal scores may swap in NMS on another processor: a few rows may go
HALF_FACTOR = 4.0  # fp16 may differ this many times more than the tolerance of the manifest
_BLOCK = 8  # px: flat blocks look more like an image to a network than noise per pixel

Outputs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def weights_sha256(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash named tensors in the order of their names: name, dtype, shape, then the bytes.

    Args:
        tensors: (name, tensor) pairs, parameters and buffers alike; any device.

    Returns:
        64 hex digits; the same before saving and after loading.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b"")
    return digest.hexdigest()


def golden_input(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Make the golden image: (N, H, W, 3) uint8 of flat random blocks.

    The bytes come from SHAKE-256, as no generator of NumPy or torch promises one stream for ever.
    """
    n, height, width, _ = shape
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    raw = hashlib.shake_256(f"perception_rt golden {seed}".encode()).digest(n * rows * columns * 3)
    blocks = np.frombuffer(raw, np.uint8).reshape(n, rows, columns, 3)
    return np.ascontiguousarray(blocks.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)[:, :height, :width])


def make_golden(outputs: Outputs, seed: int) -> Golden:
    """Record the best rows of `outputs`, the answer to `golden_input(seed, GOLDEN_SHAPE)`."""
    boxes, scores, labels, _ = outputs
    best = np.argsort(-scores, kind="stable")[:GOLDEN_ROWS]
    return Golden(
        seed=seed,
        shape=GOLDEN_SHAPE,
        boxes=tuple(tuple(round(float(v), 4) for v in row) for row in boxes[best]),
        scores=tuple(round(float(v), 6) for v in scores[best]),
        labels=tuple(int(v) for v in labels[best]),
    )


def golden_difference(golden: Golden, outputs: Outputs, half: bool = False) -> str | None:
    """Compare an answer with the recorded one.

    Returns:
        None where they agree, else one line that says what differs.
    """
    boxes, scores, labels, _ = outputs
    factor = HALF_FACTOR if half else 1.0
    free = np.ones(len(scores), bool)
    found = 0
    for box, score, label in zip(golden.boxes, golden.scores, golden.labels, strict=True):
        near = (
            np.abs(boxes - np.asarray(box, np.float32)).max(axis=1, initial=0)
            <= golden.box_tolerance * factor
        )
        near &= np.abs(scores - score) <= golden.score_tolerance * factor
        hits = np.flatnonzero(near & (labels == label) & free)
        if len(hits):
            free[hits[0]] = False
            found += 1
    expected = len(golden.scores)
    if found >= MATCHED_SHARE * expected:
        return None
    top = f"best score {scores.max():.4f}" if len(scores) else "no detections"
    return f"{found} of {expected} expected detections found ({top}, expected best {golden.scores[0]:.4f})"
