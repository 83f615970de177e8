"""The shipped camera detector on a user's pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from perception_rt.model.decoder import Candidates
from perception_rt.model.host_image import ImagePreparer, place, resize
from perception_rt.model.manifest import Manifest
from perception_rt.model.network import best_candidates
from perception_rt.train.augment import augmented
from perception_rt.train.camera.data import CROP, ZOOM, Frames, ImageBatch, draw_batch
from perception_rt.train.camera.network import CameraDecoder, CameraNetwork, PixelNetwork
from perception_rt.train.camera.task import (
    CALIBRATION_FRAMES,
    NMS_THRESHOLD,
    SCORE_THRESHOLD,
    SPEC,
    loss,
    save_bundle,
)
from perception_rt.train.dataset.labels import read_picture
from perception_rt.train.pictures import CACHED, GREY, PictureDetector, golden_picture, training_picture
from perception_rt.train.recipe import Recipe
from perception_rt.train.score import LOWEST_SCORE, Answer
from perception_rt.train.trainee import Finished, TrainingItem

LEAST_SIDES = [math.ceil(side * math.exp(ZOOM)) + 1 for side in CROP]  # of a picture that holds any window
MOST_BOXES = 300


class CameraTrainee(PictureDetector):
    """`CameraNetwork` on windows of pictures at the size that its bundle resizes them to."""

    recipe = Recipe(
        seed=0, frames=1, steps=1, batch=8, learning_rate=2e-3, weight_decay=0.02, average=0.99, rounds=1
    )

    def __init__(self) -> None:
        super().__init__()
        self._prepare = ImagePreparer(SPEC, ("images",), torch.device("cpu"))

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """As they are."""
        return tuple(classes)

    def make(self, classes: int) -> nn.Module:
        """With random weights."""
        return CameraNetwork(classes)

    def draw(self, items: Sequence[TrainingItem], rng: np.random.Generator) -> ImageBatch:
        """Windows of the pictures."""
        fitted = [_fitted(item) for item in items]
        frames = Frames(
            [image for image, _ in fitted],
            [
                torch.from_numpy(item.frame.xyxy * scale)
                for item, (_, scale) in zip(items, fitted, strict=True)
            ],
            [torch.from_numpy(item.labels) for item in items],
        )

        def vary(image: np.ndarray, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return augmented(self._transform, image, boxes, labels, rng)

        return draw_batch(frames, range(len(items)), rng, vary)

    def loss(self, network: nn.Module, batch: ImageBatch) -> Tensor:
        """As of the shipped recipe."""
        assert isinstance(network, CameraNetwork)
        return loss(network, batch)

    def predict(self, network: nn.Module, item: TrainingItem) -> Answer:
        """The boxes of the network, prepared, decoded and suppressed as its bundle does."""
        image = torch.from_numpy(read_picture(item.frame.path))[None]
        inputs, where = self._prepare(image, False)
        device = next(network.parameters()).device
        assert isinstance(network, CameraNetwork)
        outputs = [PixelNetwork(network)(inputs["images"].to(device))]
        boxes, scores, labels = CameraDecoder(network.classes)(outputs, *where.size, LOWEST_SCORE)
        found = Candidates(boxes, scores, labels, {})
        kept = best_candidates(found, LOWEST_SCORE, NMS_THRESHOLD, True, MOST_BOXES)
        kept = where.to_native(kept)
        return kept.boxes.cpu().numpy(), kept.scores.cpu().numpy(), kept.labels.cpu().numpy()

    def save(self, path: Path, done: Finished) -> Manifest:
        """TorchScript, ONNX and ONNX in 8 bits."""
        assert isinstance(done.network, CameraNetwork)
        step = -(-len(done.items) // CALIBRATION_FRAMES)
        chosen = done.items[::step]
        pictures = (read_picture(item.frame.path) for item in chosen)
        return save_bundle(
            path,
            done.network,
            done.provenance,
            name=done.name,
            classes=done.classes,
            licence=done.licence,
            score_threshold=SCORE_THRESHOLD if done.threshold is None else done.threshold,
            calibration=(f"ranges of {len(chosen)} pictures that it was trained on", pictures),
            golden=golden_picture(done.examples),
        )


@lru_cache(maxsize=CACHED)
def _fitted(item: TrainingItem) -> tuple[np.ndarray, np.ndarray]:
    """A picture at the network's size, with room for any window, and (4,) the scale of its boxes."""
    image = training_picture(item)
    where = place(SPEC, image.shape[:2])
    small = resize(image, where.width, where.height, SPEC.filter)
    missing = [max(0, side - have) for side, have in zip(LEAST_SIDES, small.shape[:2], strict=True)]
    if any(missing):
        grey = (GREY,) * 3
        small = cv2.copyMakeBorder(small, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=grey)
    scale = np.array([where.width / image.shape[1], where.height / image.shape[0]] * 2, np.float32)
    return np.ascontiguousarray(small), scale
