"""How the shipped camera detector is trained, scored and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.bundle import save
from perception_rt.model.manifest import ImageSpec, Manifest
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.blocks import fused
from perception_rt.train.camera.data import FRAMES_PER_DRIVE, Frames, draw_batch, render
from perception_rt.train.camera.loss import detection_loss
from perception_rt.train.camera.network import INPUT_SIZE, CameraGridDetector, CameraNetwork
from perception_rt.train.camera.score import evaluate
from perception_rt.train.loop import Recipe, quick_bfloat16
from perception_rt.train.task import Task

SCORE_THRESHOLD = 0.4
NMS_THRESHOLD = 0.55


def make_network() -> CameraNetwork:
    """The network with first weights from torch's random numbers."""
    return CameraNetwork(len(SIM_CLASSES))


def learn(
    network: CameraNetwork,
    frames: Frames,
    index: Sequence[int],
    rng: np.random.Generator,
    device: torch.device,
) -> Tensor:
    """The loss on windows of some frames."""
    batch = draw_batch(frames, index, rng).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=quick_bfloat16(device)):
        raw = network(batch.images)
    return detection_loss(raw.float(), batch)


def save_bundle(path: Path, network: CameraNetwork, provenance: dict) -> Manifest:
    """Write the trained network as the bundle `sim_camera`."""
    return save(
        path,
        CameraGridDetector(fused(network), SCORE_THRESHOLD, NMS_THRESHOLD),
        name="sim_camera",
        classes=SIM_CLASSES,
        input_spec=ImageSpec(size=INPUT_SIZE[::-1], resize="letterbox", filter="bilinear", order="rgb"),
        licence="Apache-2.0",
        provenance=provenance,
    )


CAMERA = Task(
    bundle="sim_camera",
    recipe=Recipe(
        seed=0, frames=3000, steps=7000, batch=8, learning_rate=3e-3, weight_decay=0.02, average=0.998
    ),
    per_drive=FRAMES_PER_DRIVE,
    make_frames=render,
    make_network=make_network,
    learn=learn,
    save=save_bundle,
    evaluate=evaluate,
    evaluation_frames=500,
)
