"""How the shipped camera detector is trained, scored and saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.bundle import save_network
from perception_rt.model.export import int8_program, onnx_program, torchscript_program
from perception_rt.model.host_image import ImagePreparer
from perception_rt.model.manifest import ImageSpec, Manifest
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.blocks import fused
from perception_rt.train.camera.data import FRAMES_PER_DRIVE, ImageBatch, draw_batch, drive_samples, render
from perception_rt.train.camera.loss import detection_loss
from perception_rt.train.camera.network import INPUT_SIZE, CameraDecoder, CameraNetwork, PixelNetwork
from perception_rt.train.camera.score import evaluate
from perception_rt.train.camera.teacher import CameraTeacher
from perception_rt.train.drives import training_seeds
from perception_rt.train.recipe import Recipe
from perception_rt.train.task import TrainingTask

SCORE_THRESHOLD = 0.4
NMS_THRESHOLD = 0.55
CALIBRATION_FRAMES = 48  # of the training, for the ranges of the 8-bit activations
SPEC = ImageSpec(size=INPUT_SIZE[::-1], resize="fit", filter="antialias", order="rgb", dtype="uint8")
GOLDEN_DRIVE = 1


def make_network() -> CameraNetwork:
    """The network with first weights from torch's random numbers."""
    return CameraNetwork(len(SIM_CLASSES))


def loss(network: CameraNetwork, batch: ImageBatch, teacher: CameraTeacher | None = None) -> Tensor:
    """The loss on windows of some frames."""
    raw = network(batch.images).float()
    missed = detection_loss(raw, batch)
    return missed if teacher is None else missed + teacher.loss(raw, batch)


def save_bundle(
    path: Path,
    network: CameraNetwork,
    provenance: dict,
    *,
    name: str = "sim_camera",
    classes: Sequence[str] = SIM_CLASSES,
    licence: str = "Apache-2.0",
    score_threshold: float = SCORE_THRESHOLD,
    calibration: tuple[str, Iterable[np.ndarray]] | None = None,
    golden: np.ndarray | None = None,
) -> Manifest:
    """Write a trained network as a bundle: TorchScript, ONNX, and ONNX in 8 bits.

    Args:
        path: the file to write.
        network: trained.
        provenance: where it comes from.
        name, classes, licence, score_threshold: of the bundle.
        calibration: pictures (H, W, 3) uint8 RGB for the ranges of the 8-bit activations, and what they are;
            None for simulated ones that it was trained on.
        golden: picture (1, H, W, 3) uint8 RGB; None for a simulated one.
    """
    pixels, (width, height) = PixelNetwork(fused(network)), INPUT_SIZE
    example = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    names = ("images",), ("raw",)
    dynamic = {"images": {2: "height", 3: "width"}, "raw": {2: "cells"}}
    onnx = onnx_program(pixels, example, *names, dynamic)
    prepare = ImagePreparer(SPEC, ("images",), torch.device("cpu"))
    if calibration is None:
        seeds = training_seeds(CAMERA.recipe.seed, CALIBRATION_FRAMES)
        text = f"ranges of one frame each of drives {seeds[0]} to {seeds[-1]}"
        calibration = text, (drive_samples(seed, 1)[0].image for seed in seeds)
    feeds = []
    for image in calibration[1]:
        inputs, _ = prepare(torch.from_numpy(image)[None], False)
        feeds.append({name: tensor.numpy().copy() for name, tensor in inputs.items()})
    return save_network(
        path,
        [torchscript_program(pixels, example, *names), onnx, int8_program(onnx, feeds)],
        decoder=CameraDecoder(network.classes),
        name=name,
        classes=classes,
        input_spec=SPEC,
        licence=licence,
        score_threshold=score_threshold,
        nms_threshold=NMS_THRESHOLD,
        golden=drive_samples(GOLDEN_DRIVE, 1)[0].image[None] if golden is None else golden,
        provenance={**provenance, "int8": calibration[0]},
    )


CAMERA = TrainingTask(
    bundle="sim_camera",
    recipe=Recipe(
        seed=0, frames=3000, steps=7000, batch=8, learning_rate=3e-3, weight_decay=0.02, average=0.998
    ),
    per_drive=FRAMES_PER_DRIVE,
    make_frames=render,
    draw_batch=draw_batch,
    make_network=make_network,
    loss=loss,
    save=save_bundle,
    evaluate=evaluate,
    evaluation_frames=500,
    teacher=CameraTeacher,
)
