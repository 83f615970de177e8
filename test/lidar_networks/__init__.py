"""Tiny lidar networks of other training tools, and what their own modules answered.

A JSON file holds a network's configuration, the shapes of its layers, and numbers that the tool's modules
gave on the CPU for `weights` and `cloud`; ``oracle`` says which modules, and what stood in for compiled
operators.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_rt.model.importers.common import Imported

FOLDER = Path(__file__).parent
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest differences of an imported network from the original.

    Attributes:
        raw: of what the head answers.
        boxes: of the final boxes: m and rad; infinity where their number differs.
        scores: of these.
        labels: how many of these differ.
    """

    raw: float
    boxes: float
    scores: float
    labels: int


def read(name: str) -> dict[str, Any]:
    """One of `NAMES`."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def weights(shapes: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights from a seed, by parameter name and shape: the original's modules got the same ones."""
    rng = np.random.default_rng(0)
    state = {}
    for name in sorted(shapes):
        value = rng.standard_normal(shapes[name])
        if name.endswith("running_var"):
            value = 0.5 + np.abs(value)
        elif value.ndim > 1:
            value = value * (1.5 / np.sqrt(np.prod(value.shape[1:])))
        if "_head.conv_" in name or (".dim." in name and value.ndim > 1):  # so that sizes are some metres
            value = 0.1 * value
        if (".hm." in name or ".heatmap." in name) and value.ndim > 1:  # so that scores are not all 1
            value = 0.4 * value
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


def cloud(columns: int = 4) -> np.ndarray:
    """(820, columns) float32: spread, and a corner whose pillars are full; the fifth column is an age."""
    rng = np.random.default_rng(1)
    spread = rng.uniform((-1, -9, -3.5, 0), (25, 9, 1.5, 1), (700, 4)).astype(np.float32)
    dense = rng.uniform((4, -2, -2, 0), (7, 1, 0, 1), (120, 4)).astype(np.float32)
    points = np.concatenate([spread, dense])
    ages = rng.integers(0, 10, (len(points), 1)).astype(np.float32) / 20
    return np.concatenate([points, ages], 1)[:, :columns]


def difference(case: Mapping[str, Any], imported: Imported) -> Difference:
    """How far an imported network is from the numbers of `read`."""
    module, points = imported.module, torch.from_numpy(cloud(case["columns"]))
    assert module is not None
    with torch.no_grad():
        maps = module.raw(points)
        boxes, scores, labels = (value.numpy() for value in module(points))
    raw = 0.0
    for found, expected in zip(maps, case["maps"], strict=True):
        if list(found.shape) != expected["shape"]:
            return Difference(np.inf, np.inf, np.inf, len(labels))
        values = found.flatten()[expected["places"]].numpy()
        raw = max(raw, float(np.abs(values - expected["values"]).max()))
    if len(boxes) != case["found"]:
        return Difference(raw, np.inf, np.inf, len(labels))
    rows = np.array(case["boxes"])
    apart = boxes[: len(rows)] - rows[:, :7]
    apart[:, 6] = (apart[:, 6] + np.pi) % (2 * np.pi) - np.pi
    return Difference(
        raw,
        float(np.abs(apart).max()),
        float(np.abs(scores[: len(rows)] - rows[:, 7]).max()),
        int((labels[: len(rows)] != rows[:, 8]).sum()),
    )
