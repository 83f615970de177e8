"""The shipped lidar detector on a user's clouds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.manifest import Manifest
from perception_rt.model.runtime import scale_intensity
from perception_rt.replay.kitti import read_calibration, read_velodyne
from perception_rt.sim.lidar import MIN_POINTS
from perception_rt.train.augment import NONE
from perception_rt.train.dataset.labels import LabelledFrame
from perception_rt.train.pillars.data import CloudBatch, Clouds, draw_batch
from perception_rt.train.pillars.network import PillarsDecoder, PillarsNetwork
from perception_rt.train.pillars.task import (
    CALIBRATION_DRIVES,
    NMS_THRESHOLD,
    SCORE_THRESHOLD,
    loss,
    save_bundle,
)
from perception_rt.train.recipe import Recipe
from perception_rt.train.score import LOWEST_SCORE, Answer, detection_score
from perception_rt.train.trainee import Finished, TrainingItem
from perception_rt.types import ConfigError

CACHED = 64  # clouds of 2 MB each


class PillarsTrainee:
    """`PillarsNetwork` on what a camera sees of a cloud, where labels are of a camera's view."""

    clouds = True
    boxes = True
    metric = "ap50"
    augmentations: tuple[str, ...] = ()
    sigmoid = True
    recipe = Recipe(seed=0, frames=1, steps=1, batch=4, learning_rate=5e-4, weight_decay=0.02, average=0.99)

    def use(self, augmentations: Sequence[str]) -> None:
        """Clouds are mirrored, turned, scaled, lifted and thinned, as by the shipped recipe."""
        if set(augmentations) - {NONE}:
            raise ConfigError(f"--augment={augmentations[0]}: is for pictures; clouds have their own")

    def items(self, frames: Sequence[LabelledFrame], labels: Sequence[np.ndarray]) -> list[TrainingItem]:
        """The frames."""
        return [TrainingItem(*pair) for pair in zip(frames, labels, strict=True)]

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """As they are."""
        return tuple(classes)

    def make(self, classes: int) -> nn.Module:
        """With random weights."""
        return PillarsNetwork(classes)

    def draw(self, items: Sequence[TrainingItem], rng: np.random.Generator) -> CloudBatch:
        """Varied clouds; objects without a point are left out."""
        points = [visible_points(item.frame) for item in items]
        counts = [points_in(cloud, _boxes(item)) for cloud, item in zip(points, items, strict=True)]
        seen = [count > 0 for count in counts]
        clouds = Clouds(
            points,
            [_boxes(item)[one] for item, one in zip(items, seen, strict=True)],
            [item.labels[one] for item, one in zip(items, seen, strict=True)],
            [count[one] >= MIN_POINTS for count, one in zip(counts, seen, strict=True)],
            [False] * len(items),
        )
        return draw_batch(clouds, range(len(items)), rng)

    def loss(self, network: nn.Module, batch: CloudBatch) -> Tensor:
        """As of the shipped recipe."""
        assert isinstance(network, PillarsNetwork)
        return loss(network, batch)

    def predict(self, network: nn.Module, item: TrainingItem) -> Answer:
        """The boxes of the network, decoded as its bundle does."""
        assert isinstance(network, PillarsNetwork)
        device = next(network.parameters()).device
        points = torch.from_numpy(visible_points(item.frame)).to(device)
        frame = torch.zeros(len(points), dtype=torch.int64, device=device)
        raw = network(points, frame, 1)
        decoder = PillarsDecoder(network.classes).to(device)
        boxes, scores, labels = decoder([raw], LOWEST_SCORE, NMS_THRESHOLD)
        return boxes.cpu().numpy(), scores.cpu().numpy(), labels.cpu().numpy()

    def answer(self, runtime: Any, item: TrainingItem) -> Answer:
        """The boxes of a bundle."""
        return runtime(visible_points(item.frame), score_threshold=LOWEST_SCORE)

    def score(
        self, items: Sequence[TrainingItem], answers: Sequence[Answer], classes: Sequence[str]
    ) -> dict[str, Any]:
        """Average precision of footprints."""
        return detection_score(
            [item.frame for item in items], [item.labels for item in items], answers, classes
        )

    def save(self, path: Path, done: Finished) -> Manifest:
        """As the shipped one; the height of the sensor is that of the boxes' bottoms below it."""
        assert isinstance(done.network, PillarsNetwork)
        boxes = np.concatenate([_boxes(item) for item in done.items])
        chosen = done.items[:: -(-len(done.items) // (2 * CALIBRATION_DRIVES))]
        clouds = (visible_points(item.frame) for item in chosen)
        best = max(done.examples, key=lambda item: len(item.labels))
        return save_bundle(
            path,
            done.network,
            done.provenance,
            name=done.name,
            classes=done.classes,
            licence=done.licence,
            score_threshold=SCORE_THRESHOLD if done.threshold is None else done.threshold,
            sensor_height=max(0.0, round(-float(np.median(boxes[:, 2] - boxes[:, 5] / 2)), 2)),
            calibration=(f"ranges of {len(chosen)} clouds that it was trained on", clouds),
            golden=visible_points(best.frame),
        )


def _boxes(item: TrainingItem) -> np.ndarray:
    assert item.frame.solid is not None  # it is a cloud
    return item.frame.solid


@lru_cache(maxsize=CACHED)
def visible_points(frame: LabelledFrame) -> np.ndarray:
    """(P, 4) float32: what lies in the view of the camera that a cloud is labelled in, or all of it.

    Intensities are of 0 to 1, as the bundle has them.
    """
    points = scale_intensity(torch.from_numpy(read_velodyne(frame.path)), "unit").numpy()
    if frame.calibration is None:
        return points
    pixels, depth = read_calibration(frame.calibration).project(points[:, :3])
    inside = (pixels >= 0).all(1) & (pixels < np.array(frame.view)).all(1) & (depth > 0)
    return np.ascontiguousarray(points[inside])


def points_in(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) int64: how many of (P, 3 or more) points lie in each of (N, 7) boxes."""
    counts = np.zeros(len(boxes), np.int64)
    for row, (x, y, z, *size, yaw) in enumerate(boxes.astype(np.float64)):
        dx, dy, dz = (points[:, :3] - (x, y, z)).T
        along, across = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
        half = np.array(size) / 2
        counts[row] = (
            (np.abs(along) <= half[0]) & (np.abs(across) <= half[1]) & (np.abs(dz) <= half[2])
        ).sum()
    return counts
