"""How the shipped camera detector is trained, scored and saved."""

from __future__ import annotations

from pathlib import Path

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
from perception_rt.train.camera.network import INPUT_SIZE, CameraDecoder, CameraNetwork
from perception_rt.train.camera.score import evaluate
from perception_rt.train.drives import training_seeds
from perception_rt.train.recipe import Recipe
from perception_rt.train.task import TrainingTask

SCORE_THRESHOLD = 0.4
NMS_THRESHOLD = 0.55
CALIBRATION_FRAMES = 48  # of drives of the training, for the ranges of the 8-bit activations
GOLDEN_DRIVE = 1


def make_network() -> CameraNetwork:
    """The network with first weights from torch's random numbers."""
    return CameraNetwork(len(SIM_CLASSES))


def loss(network: CameraNetwork, batch: ImageBatch) -> Tensor:
    """The loss on windows of some frames."""
    return detection_loss(network(batch.images).float(), batch)


def save_bundle(path: Path, network: CameraNetwork, provenance: dict) -> Manifest:
    """Write the trained network as the bundle `sim_camera`: TorchScript, ONNX, and ONNX in 8 bits."""
    network, (width, height) = fused(network), INPUT_SIZE
    spec = ImageSpec(size=(height, width), resize="fit", filter="antialias", order="rgb")
    example, names = torch.zeros(1, 3, height, width), (("images",), ("raw",))
    dynamic = {"images": {2: "height", 3: "width"}, "raw": {1: "cells"}}
    onnx = onnx_program(network, example, *names, dynamic)
    prepare = ImagePreparer(spec, ("images",), torch.device("cpu"))
    feeds = []
    seeds = training_seeds(CAMERA.recipe.seed, CALIBRATION_FRAMES)
    for seed in seeds:
        inputs, _ = prepare(torch.from_numpy(drive_samples(seed, 1)[0].image)[None], False)
        feeds.append({name: tensor.numpy().copy() for name, tensor in inputs.items()})
    return save_network(
        path,
        [torchscript_program(network, example, *names), onnx, int8_program(onnx, feeds)],
        decoder=CameraDecoder(network.classes),
        name="sim_camera",
        classes=SIM_CLASSES,
        input_spec=spec,
        licence="Apache-2.0",
        score_threshold=SCORE_THRESHOLD,
        nms_threshold=NMS_THRESHOLD,
        golden=drive_samples(GOLDEN_DRIVE, 1)[0].image[None],
        provenance={**provenance, "int8": f"ranges of one frame each of drives {seeds[0]} to {seeds[-1]}"},
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
)
