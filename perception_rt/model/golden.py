"""The self-test of a bundle: a weight hash, an input from a seed, and the comparison of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch

from perception_rt.model.manifest import Golden

GOLDEN_ROWS = 32
GOLDEN_SHAPES = {"detect2d": (1, 240, 320, 3), "detect3d": (16384, 4)}
GOLDEN_HISTORIES = 16
# Of a box coordinate, px or m and rad, or of a residual, m; and of a score.
TOLERANCES = {"detect2d": (0.5, 0.01), "detect3d": (0.05, 0.01)}
MATCHED_SHARE = 0.9  # two near-equal scores may swap in NMS on another processor: a few rows may go
HALF_FACTOR = 4.0  # fp16 may differ this many times more than the tolerance of the manifest
_BLOCKS = ((4.2, 1.8, 1.5), (0.6, 0.6, 1.75), (1.7, 0.6, 1.7)) * 2 + ((4.6, 1.9, 1.7),) * 2  # l w h, m
_BLOCK = 8  # px: flat blocks look more like an image to a network than noise per pixel

Outputs = tuple[np.ndarray, ...]
"""Boxes, scores, labels and, of images, image_index."""


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
    """Make the golden input: (N, H, W, 3) uint8 of flat random blocks, or a (N, 4) float32 cloud.

    The bytes come from SHAKE-256, as no generator of NumPy or torch promises one stream for ever.
    """
    return _images(seed, shape) if len(shape) == 4 else _cloud(seed, shape[0])


def _random_bytes(seed: int, count: int) -> np.ndarray:
    raw = hashlib.shake_256(f"perception_rt golden {seed}".encode()).digest(count)
    return np.frombuffer(raw, np.uint8)


def _images(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    n, height, width, _ = shape
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    blocks = _random_bytes(seed, n * rows * columns * 3).reshape(n, rows, columns, 3)
    return np.ascontiguousarray(blocks.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)[:, :height, :width])


def _cloud(seed: int, count: int) -> np.ndarray:
    """Flat ground 1.8 m below the sensor, and the near sides of turned blocks as large as cars and people.

    Only sums, products and square roots, which round alike everywhere.
    """
    uniform = _random_bytes(seed, 4 * (count * 4 + len(_BLOCKS) * 4)).view("<u4") / np.float64(1 << 32)
    place, per_point = uniform[: len(_BLOCKS) * 4].reshape(-1, 4), uniform[len(_BLOCKS) * 4 :]
    u, v, w, intensity = per_point[: count * 4].reshape(4, count)
    points = np.empty((count, 4))
    # Two thirds are ground, denser near the sensor, as rings of a lidar are.
    away = 3 + 37 * u**2
    side = 2 * v - 1
    points[:, 0], points[:, 1], points[:, 2] = away, away * side, -1.8 + 0.04 * (w - 0.5)
    points[:, 3] = intensity
    owner = np.arange(count) % (3 * len(_BLOCKS))
    for row, (length, width, height) in enumerate(_BLOCKS):
        mine = owner == row
        middle = np.array([8 + 3 * row + place[row, 0], (12 + row) * (place[row, 1] - 0.5)])
        t = 2 * place[row, 2] - 1  # of the half angle: any turn within a quarter circle to either side
        forward = np.array([1 - t * t, 2 * t]) / (1 + t * t)
        left = np.array([-forward[1], forward[0]])
        near = [-np.sign(middle @ axis) for axis in (forward, left)]
        along = np.where(v[mine] < 0.5, near[0], 2 * u[mine] - 1) * length / 2
        across = np.where(v[mine] < 0.5, 2 * u[mine] - 1, near[1]) * width / 2
        points[mine, :2] = middle + along[:, None] * forward + across[:, None] * left
        points[mine, 2] = -1.8 + height * w[mine]
    return points.astype(np.float32)


def make_golden(outputs: Outputs, task: str, seed: int, shape: tuple[int, ...]) -> Golden:
    """Record the best rows of `outputs`, the answer to `golden_input(seed, shape)`."""
    boxes, scores, labels = outputs[:3]
    box_tolerance, score_tolerance = TOLERANCES[task]
    best = np.argsort(-scores, kind="stable")[:GOLDEN_ROWS]
    return Golden(
        seed=seed,
        shape=shape,
        boxes=tuple(tuple(round(float(v), 4) for v in row) for row in boxes[best]),
        scores=tuple(round(float(v), 6) for v in scores[best]),
        labels=tuple(int(v) for v in labels[best]),
        box_tolerance=box_tolerance,
        score_tolerance=score_tolerance,
    )


def golden_difference(golden: Golden, outputs: Outputs, half: bool = False) -> str | None:
    """Compare an answer with the recorded one.

    Returns:
        None where they agree, else one line that says what differs.
    """
    boxes, scores, labels = outputs[:3]
    factor = HALF_FACTOR if half else 1.0
    free = np.ones(len(scores), bool)
    found = 0
    for box, score, label in zip(golden.boxes, golden.scores, golden.labels, strict=True):
        apart = np.abs(boxes - np.asarray(box, np.float32))
        if boxes.shape[1] == 7:  # a yaw may come back a turn further
            apart[:, 6] = np.abs((apart[:, 6] + np.pi) % (2 * np.pi) - np.pi)
        near = apart.max(axis=1, initial=0) <= golden.box_tolerance * factor
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
