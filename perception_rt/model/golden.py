"""The self-test of a bundle: a weight hash, an input from a seed, and the comparison of outputs."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from perception_rt.model.manifest import MAX_CELLS, Golden
from perception_rt.model.task import Task
from perception_rt.types.errors import BundleError
from perception_rt.types.segmentation import UNLABELLED

GOLDEN_ROWS = 32
# Similar scores may swap in NMS on another processor, and 8-bit weights move weak boxes, so a few may differ.
MATCHED_SHARE = {"fp32": 0.9, "fp16": 0.9, "int8": 0.7}
SAME_CELLS = {"fp32": 0.99, "fp16": 0.97, "int8": 0.9}  # share of a label map's cells that must be the same
LOOSER = {"fp32": 1.0, "fp16": 4.0, "int8": 6.0}  # by precision, factor of the tolerances
_BLOCKS = ((4.2, 1.8, 1.5), (0.6, 0.6, 1.75), (1.7, 0.6, 1.7)) * 2 + ((4.6, 1.9, 1.7),) * 2  # l w h, m
_BLOCK = 8  # px: flat blocks look more like an image to a network than noise per pixel

Outputs = tuple[np.ndarray, ...]
"""Boxes, scores, labels and, of images, image_index; of task segment also the labels of pixels (N, H, W)."""


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
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def golden_input(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Make the golden input: (N, H, W, 3) uint8 of flat random blocks, or a (N, 4) float32 cloud.

    The bytes come from SHAKE-256 because NumPy and torch do not guarantee their random streams across
    versions.
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
    """Return flat ground 1.8 m below the sensor, and the near sides of rotated blocks of the size of cars and
    people.

    It uses only sums, products and square roots, which round the same on every machine.
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


def make_golden(
    outputs: Outputs,
    task: Task,
    data: np.ndarray,
    *,
    origin: str,
    file: str | None,
    score_threshold: float,
    seed: int = 0,
) -> Golden:
    """Record the best rows of `outputs`, the output for `data`."""
    boxes, scores, labels = outputs[:3]
    box_tolerance, score_tolerance = task.tolerances
    best = np.argsort(-scores, kind="stable")[:GOLDEN_ROWS]
    return Golden(
        seed=seed,
        shape=data.shape,
        boxes=tuple(tuple(round(float(v), 4) for v in row) for row in boxes[best]),
        scores=tuple(round(float(v), 6) for v in scores[best]),
        labels=tuple(int(v) for v in labels[best]),
        box_tolerance=box_tolerance,
        score_tolerance=score_tolerance,
        file=file,
        origin=origin,
        score_threshold=score_threshold,
        cells=cells_of(outputs[4]) if len(outputs) > 4 else (),
    )


def cells_of(labels: np.ndarray) -> tuple[str, ...]:
    """Return a grid of at most 64 x 64 labels over (N, H, W) uint8, stacked images, as rows of hex."""
    whole = labels.reshape(-1, labels.shape[2])
    places = [
        (2 * np.arange(min(side, MAX_CELLS)) + 1) * side // (2 * min(side, MAX_CELLS)) for side in whole.shape
    ]
    return tuple(row.tobytes().hex() for row in whole[np.ix_(*places)])


def finds_something(outputs: Outputs) -> bool:
    """Return whether an output contains a box or a labelled pixel."""
    return bool(len(outputs[1])) or (len(outputs) > 4 and bool((outputs[4] != UNLABELLED).any()))


def is_uniform(outputs: Outputs) -> bool:
    """Return whether an output consists of label maps with a single value."""
    return not len(outputs[1]) and len(outputs) > 4 and bool((outputs[4] == outputs[4].flat[0]).all())


def encode_golden(data: np.ndarray) -> tuple[str, bytes]:
    """Return the name and the bytes of the member that stores a golden input: PNG for one image, else NPY."""
    if data.ndim == 4 and len(data) == 1:
        import cv2

        done, png = cv2.imencode(".png", np.ascontiguousarray(data[0, :, :, ::-1]))
        if not done:
            raise BundleError(f"golden input {data.shape}: cannot be encoded as PNG")
        return "golden.png", png.tobytes()
    buffer = io.BytesIO()
    np.save(buffer, data, allow_pickle=False)
    return "golden.npy", buffer.getvalue()


def read_golden(golden: Golden, members: Mapping[str, bytes]) -> np.ndarray:
    """Return the golden input: from its member, or made from its seed if there is none.

    Raises:
        BundleError: the member is damaged or has another shape than the manifest says.
    """
    if golden.file is None:
        return golden_input(golden.seed, golden.shape)
    raw = members[golden.file]
    if golden.file.endswith(".png"):
        # A PNG has its size at a fixed offset, so a wrong one is rejected before decoding.
        size = struct.unpack(">II", raw[16:24]) if len(raw) >= 24 else (0, 0)
        if (1, size[1], size[0], 3) != golden.shape:
            raise BundleError(f"golden picture has {size[0]}x{size[1]} px, manifest {golden.shape}")
        import cv2

        image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise BundleError("golden picture: damaged PNG")
        return np.ascontiguousarray(image[None, :, :, ::-1])
    kind = np.dtype(np.uint8 if len(golden.shape) == 4 else np.float32)
    expected = math.prod(golden.shape) * kind.itemsize
    if not expected <= len(raw) <= expected + 4096:
        raise BundleError(f"golden input has {len(raw)} bytes, its shape {golden.shape} needs {expected}")
    try:
        data = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise BundleError(f"golden input: damaged NPY: {error}") from error
    if data.shape != golden.shape or data.dtype != kind:
        raise BundleError(f"golden input is {data.shape} {data.dtype}, manifest {golden.shape}")
    return data


def golden_difference(golden: Golden, outputs: Outputs, precision: str = "fp32") -> str | None:
    """Compare an output with the recorded one.

    Args:
        golden: the recorded answer.
        outputs: the answer to the golden input at `golden.score_threshold`.
        precision: precision of the output; `LOOSER` and `MATCHED_SHARE` define its tolerances.

    Returns:
        None if they agree, otherwise one line with the difference.
    """
    boxes, scores, labels = outputs[:3]
    factor, share = LOOSER[precision], MATCHED_SHARE[precision]
    box_limit, score_limit = golden.box_tolerance * factor, golden.score_tolerance * factor
    free = np.ones(len(scores), bool)
    found = 0
    for box, score, label in zip(golden.boxes, golden.scores, golden.labels, strict=True):
        apart = np.abs(boxes - np.asarray(box, np.float32))
        if boxes.shape[1] == 7:  # a yaw may come back a turn further
            apart[:, 6] = np.abs((apart[:, 6] + np.pi) % (2 * np.pi) - np.pi)
        near = apart.max(axis=1, initial=0) <= box_limit
        near &= np.abs(scores - score) <= score_limit
        hits = np.flatnonzero(near & (labels == label) & free)
        if len(hits):
            free[hits[0]] = False
            found += 1
    expected = len(golden.scores)
    top = f"best score {scores.max():.4f}" if len(scores) else "no detections"
    if found < share * expected:
        return (
            f"{found} of {expected} expected detections found ({top}, expected best {golden.scores[0]:.4f})"
        )
    if difference := _cells_difference(golden, outputs, SAME_CELLS[precision]):
        return difference
    # A record that is not truncated has every detection; those near the threshold may be missing or new.
    surplus = int((free & (scores > golden.score_threshold + 2 * score_limit)).sum())
    if expected < GOLDEN_ROWS and surplus > max(1, (1 - share) * expected):
        return f"{surplus} detections that are not expected ({top})"
    return None


def _cells_difference(golden: Golden, outputs: Outputs, share: float) -> str | None:
    """How the labels of pixels differ; None where they agree, or where none are recorded."""
    if not golden.cells:
        return None
    found = cells_of(outputs[4]) if len(outputs) > 4 else ()
    mine, theirs = (np.frombuffer(bytes.fromhex("".join(rows)), np.uint8) for rows in (found, golden.cells))
    if len(mine) != len(theirs):
        return f"the label map has {len(mine)} cells, expected are {len(theirs)}"
    same = float((mine == theirs).mean())
    return None if same >= share else f"{same:.1%} of the pixels have the expected label, not {share:.0%}"
