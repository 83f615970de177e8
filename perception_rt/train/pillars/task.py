"""How the shipped lidar detector is trained, scored and saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception_rt.model.bundle import save_network
from perception_rt.model.export import int8_program, onnx_program, torchscript_program
from perception_rt.model.manifest import CloudSpec, Manifest
from perception_rt.model.task import DETECT3D
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.lidar import LIDAR_POSITION
from perception_rt.train.blocks import fused
from perception_rt.train.drives import training_seeds
from perception_rt.train.pillars.data import (
    FRAMES_PER_DRIVE,
    CloudBatch,
    cast,
    draw_batch,
    drive_samples,
    street_samples,
)
from perception_rt.train.pillars.loss import detection_loss
from perception_rt.train.pillars.network import (
    COLUMNS,
    ROWS,
    X_RANGE,
    Y_RANGE,
    Z_RANGE,
    PillarsDecoder,
    PillarsDense,
    PillarsEncoder,
    PillarsNetwork,
    cells,
)
from perception_rt.train.pillars.score import evaluate
from perception_rt.train.pillars.teacher import PillarsTeacher
from perception_rt.train.recipe import Recipe
from perception_rt.train.task import TrainingTask

SCORE_THRESHOLD = 0.5  # on real clouds; on simulated ones 0.4 finds more
NMS_THRESHOLD = 0.2
CALIBRATION_DRIVES = 24  # of the training, for the ranges of the 8-bit activations
GOLDEN_DRIVE = 1


def make_network() -> PillarsNetwork:
    """The network with first weights from torch's random numbers."""
    return PillarsNetwork(len(SIM_CLASSES))


def loss(network: PillarsNetwork, batch: CloudBatch, teacher: PillarsTeacher | None = None) -> Tensor:
    """The loss on some clouds."""
    raw = network(batch.points, batch.frame, batch.frames).float()
    missed = detection_loss(raw, batch, cells(raw))
    return missed if teacher is None else missed + teacher.loss(raw, batch)


def save_bundle(
    path: Path,
    network: PillarsNetwork,
    provenance: dict,
    *,
    name: str = "pillars",
    classes: Sequence[str] = SIM_CLASSES,
    licence: str = "Apache-2.0",
    score_threshold: float = SCORE_THRESHOLD,
    sensor_height: float = LIDAR_POSITION[2],
    calibration: tuple[str, Iterable[np.ndarray]] | None = None,
    golden: np.ndarray | None = None,
) -> Manifest:
    """Write a trained network as a bundle: TorchScript, ONNX, and ONNX in 8 bits.

    Args:
        path: the file to write.
        network: trained.
        provenance: where it comes from.
        name, classes, licence, score_threshold: of the bundle.
        sensor_height: above the ground, m.
        calibration: clouds (N, 4) float32 for the ranges of the 8-bit activations, and what they are; None
            for simulated ones that it was trained on.
        golden: cloud (N, 4) float32; None for a simulated one.
    """
    network = fused(network)
    low, high = zip(X_RANGE, Y_RANGE, Z_RANGE, strict=True)
    encoder, dense, names = PillarsEncoder(network.pillars), PillarsDense(network), (("grid",), ("raw",))
    example = torch.zeros(1, network.pillars.channels, ROWS, COLUMNS)
    onnx = onnx_program(dense, example, *names, {})
    if calibration is None:
        seeds = training_seeds(PILLARS.recipe.seed, CALIBRATION_DRIVES)
        text = f"ranges of one cloud and one street each of drives {seeds[0]} to {seeds[-1]}"
        samples = (one for seed in seeds for one in (*drive_samples(seed, 1), *street_samples(seed, 1)))
        calibration = text, (sample.points for sample in samples)
    feeds = [{"grid": encoder(torch.from_numpy(points))[0].numpy()} for points in calibration[1]]
    return save_network(
        path,
        [torchscript_program(dense, example, *names), onnx, int8_program(onnx, feeds)],
        decoder=PillarsDecoder(network.classes),
        encoder=encoder,
        name=name,
        classes=classes,
        task=DETECT3D.name,
        input_spec=CloudSpec(range=(*low, *high), intensity="unit", sensor_height=sensor_height),
        licence=licence,
        score_threshold=score_threshold,
        nms_threshold=NMS_THRESHOLD,
        golden=drive_samples(GOLDEN_DRIVE, 1)[0].points if golden is None else golden,
        provenance={
            "what": "pillars and an anchor-free head",
            **provenance,
            "int8": calibration[0],
        },
    )


PILLARS = TrainingTask(
    bundle="pillars",
    recipe=Recipe(
        seed=0, frames=3840, steps=24_800, batch=2, learning_rate=1.5e-3, weight_decay=0.02, average=0.9995
    ),
    per_drive=FRAMES_PER_DRIVE,
    make_frames=cast,
    draw_batch=draw_batch,
    make_network=make_network,
    loss=loss,
    save=save_bundle,
    evaluate=evaluate,
    evaluation_frames=500,
    teacher=PillarsTeacher,
)
