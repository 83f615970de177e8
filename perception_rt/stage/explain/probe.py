"""Measure how much of a detection remains if the input is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from perception_rt.types import ConfigError
from perception_rt.types.segmentation import Segmentation

GONE = 0.1  # of its score; a weaker detection counts as lost


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The target of an explanation: a detection, or a class of a segmentation.

    Attributes:
        number: its index in the output, best score first; for a segmentation, largest area first.
        label: index of its class.
        score: of the detection; for a segmentation, the share of the image.
        box: (4,) xyxy in px or (7,) xyzlwh_yaw in m and rad.
        region: (H, W) bool, the pixels of a class; None for a detection.
    """

    number: int
    label: int
    score: float
    box: np.ndarray
    region: np.ndarray | None = None


class Probe:
    """Runs a bundle on changed inputs and measures how much of a detection remains.

    Args:
        runtime: of a bundle of any task.
        data: input of the runtime: (1, H, W, 3) uint8 RGB or (N, 4) float32.

    Attributes:
        calls: number of runs of the bundle.
    """

    def __init__(self, runtime: Any, data: np.ndarray) -> None:
        self.runtime, self.data, self.calls = runtime, data, 0
        self._answer = self._run(data, None)

    def targets(self) -> list[Target]:
        """Return the detections at the bundle's own thresholds, or the classes of the pixels."""
        boxes, scores, labels = self._answer[:3]
        if len(self._answer) > 4 and not self.runtime.has_boxes:
            found = Segmentation(self._answer[4][0])
            return [
                Target(number, label, share, _extent(found.labels == label), found.labels == label)
                for number, (label, share) in enumerate(found.shares().items())
            ]
        return [
            Target(number, int(labels[number]), float(scores[number]), boxes[number])
            for number in range(len(scores))
        ]

    def target(self, number: int) -> Target:
        """Return one of `targets`.

        Raises:
            ConfigError: there are fewer targets.
        """
        found = self.targets()
        if number >= len(found):
            what = "class" if found and found[0].region is not None else "detection"
            raise ConfigError(
                f"--detection={number}: this frame has {len(found)} {what}{_plural(what, found)}"
            )
        return found[number]

    def left(self, target: Target, data: np.ndarray) -> float:
        """Return how much of the detection remains in a changed input.

        Returns:
            The greatest product of score and IoU among the detections of its class (D-RISE, Petsiuk et al.,
            2021); for a segmentation, the share of its region that keeps the label.

        Raises:
            ModelError: the network failed.
        """
        if target.region is not None:
            labels = self._run(data, None)[4][0]
            return float((labels[target.region] == target.label).mean())
        boxes, scores, labels = self._run(data, GONE * target.score)[:3]
        rows = np.flatnonzero(labels == target.label)
        if not len(rows):
            return 0.0
        return float((iou(target.box[None], boxes[rows])[0] * scores[rows]).max())

    def _run(self, data: np.ndarray, score: float | None) -> tuple[np.ndarray, ...]:
        self.calls += 1
        if score is None:
            return self.runtime(data)
        with _own_scores(self.runtime):
            return self.runtime(data, score_threshold=score)


@contextmanager
def _own_scores(runtime: Any) -> Iterator[None]:
    """Disable the thresholds of single classes."""
    saved = runtime.class_thresholds
    runtime.class_thresholds = np.full(len(runtime.manifest.classes), np.nan)
    try:
        yield
    finally:
        runtime.class_thresholds = saved


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (K, L) IoU of boxes in the image, or of footprints."""
    if first.shape[1] == 7:
        from perception_rt.model.boxes3d import iou_bev

        return iou_bev(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    overlap = sides.clip(0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - overlap
    return overlap / np.maximum(areas, 1e-12)


def _extent(region: np.ndarray) -> np.ndarray:
    """Return (4,) float32 xyxy around the pixels of a mask."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _plural(word: str, items: list) -> str:
    return "" if len(items) == 1 else "es" if word.endswith("s") else "s"
