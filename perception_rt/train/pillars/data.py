"""Simulated clouds to learn from: cast once, then turned, mirrored, lifted and thinned for every batch.

Some are of drives (sim/drive.py), on which the detector is scored; more are of streets (sim/street.py), each
with walls, plants and a sensor of its own, from which it learns what is no car.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from perception_rt.sim.drive import Drive
from perception_rt.sim.lidar import MIN_POINTS, LidarSample
from perception_rt.sim.street import street_cloud
from perception_rt.train.drives import moments, over_drives
from perception_rt.train.pillars.network import X_RANGE, Y_RANGE

FRAMES_PER_DRIVE = 12  # those of the streets that belong to it are among them
STREETS = 4  # of FRAMES_PER_DRIVE; fewer frames have fewer
MOST_POINTS = 60_000  # of a cloud; a denser one is thinned
TURN = math.pi / 8  # rad, either way
TURNED = 0.3  # of the clouds are turned by any angle: sensors are mounted in all ways
SCALE = 0.05
LIFT = 0.2  # m, up or down: sensors are mounted higher and lower
MOST_DROPPED = 0.3  # of a cloud's points
GAMMA = 0.5  # of intensities, as the logarithm of the exponent, either way
BLIND = 0.12  # of the clouds have no intensities, and as many meaningless ones
REACH = math.hypot(max(map(abs, X_RANGE)), max(map(abs, Y_RANGE))) / (
    1 - SCALE
)  # m, of what turns into range


@dataclass(frozen=True)
class Clouds:
    """Clouds and their truth, one entry a frame.

    Attributes:
        points: (P, 4) float32 x y z in m, intensity in [0, 1].
        boxes: (n, 7) float32 xyzlwh_yaw of objects with a point at least.
        labels: (n,) int64.
        clear: (n,) bool, MIN_POINTS or more lie on it.
        of_drive: whether a drive's sensor took the cloud, which is what a teacher knows.
    """

    points: list[np.ndarray]
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    clear: list[np.ndarray]
    of_drive: list[bool]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class CloudBatch:
    """Clouds of one training step and their truth, flat over the batch.

    Attributes:
        points: (P, 4) float32. frame: (P,) int64, which cloud a point is of. frames: how many clouds.
        boxes: (G, 7) float32. labels: (G,) int64. clear: (G,) bool. box_frame: (G,) int64.
        intensity: (P,) float32, before it was varied. of_drive: (frames,) bool.
    """

    points: Tensor
    frame: Tensor
    frames: int
    boxes: Tensor
    labels: Tensor
    clear: Tensor
    box_frame: Tensor
    intensity: Tensor
    of_drive: Tensor

    def to(self, device: torch.device) -> CloudBatch:
        """The same batch on a device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "frames"}
        return replace(self, **moved)


def drive_samples(seed: int, count: int) -> list[LidarSample]:
    """`count` clouds of one drive, spread over its first minute at times that the seed decides."""
    drive = Drive(seed)
    return [drive.lidar(t) for t in moments(seed, count)]


def street_samples(seed: int, count: int) -> list[LidarSample]:
    """The clouds of `count` streets, others for every drive seed."""
    return [street_cloud(seed * FRAMES_PER_DRIVE + number) for number in range(count)]


def _cast_drive(seed: int, count: int) -> Clouds:
    clouds = Clouds([], [], [], [], [])
    streets = STREETS * count // FRAMES_PER_DRIVE
    samples = drive_samples(seed, count - streets) + street_samples(seed, streets)
    clouds.of_drive.extend([True] * (count - streets) + [False] * streets)
    for sample in samples:
        points = sample.points[np.hypot(sample.points[:, 0], sample.points[:, 1]) < REACH]
        if len(points) > MOST_POINTS:
            points = np.random.default_rng(seed).permutation(points)[:MOST_POINTS]
        seen = sample.truth_points > 0
        clouds.points.append(points)
        clouds.boxes.append(sample.truth.xyzlwh_yaw[seen])
        clouds.labels.append(sample.truth.labels[seen])
        clouds.clear.append(sample.truth_points[seen] >= MIN_POINTS)
    return clouds


def cast(
    seeds: Sequence[int],
    per_drive: int = FRAMES_PER_DRIVE,
    workers: int | None = None,
    on_drive: Callable[[], None] = lambda: None,
) -> Clouds:
    """Cast drives into memory, 1 MB a frame.

    Args:
        seeds: of the drives.
        per_drive: frames of each.
        workers: processes; None for one a core, 0 to cast in this one.
        on_drive: called after each drive.
    """
    clouds = Clouds([], [], [], [], [])
    for drive in over_drives(_cast_drive, seeds, [per_drive] * len(seeds), workers):
        for field in fields(Clouds):
            getattr(clouds, field.name).extend(getattr(drive, field.name))
        on_drive()
    return clouds


def draw_batch(clouds: Clouds, index: Sequence[int], rng: np.random.Generator) -> CloudBatch:
    """The clouds of `index`, each mirrored, turned, scaled, lifted, thinned and brightened at random."""
    drawn = (_varied(clouds.points[i], clouds.boxes[i], rng) for i in index)
    points, boxes, intensity = zip(*drawn, strict=True)
    labels, clear = ([torch.from_numpy(kind[i]) for i in index] for kind in (clouds.labels, clouds.clear))
    frames = torch.arange(len(index))
    return CloudBatch(
        torch.cat(points),
        frames.repeat_interleave(torch.tensor([len(p) for p in points])),
        len(index),
        torch.cat(boxes),
        torch.cat(labels),
        torch.cat(clear),
        frames.repeat_interleave(torch.tensor([len(b) for b in boxes])),
        torch.cat(intensity),
        torch.tensor([clouds.of_drive[i] for i in index]),
    )


def _varied(points: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    points = points[rng.random(len(points), np.float32) >= rng.uniform(0, MOST_DROPPED)]
    boxes = boxes.copy()
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    most = math.pi if rng.random() < TURNED else TURN
    angle, scale = rng.uniform(-most, most), rng.uniform(1 - SCALE, 1 + SCALE)
    cos, sin = math.cos(angle), math.sin(angle)
    # Mirrored at the x axis, then turned: rows of the matrix are the images of the axes.
    turn = np.array([[cos, sin], [-sin * mirror, cos * mirror]], np.float32) * np.float32(scale)
    for part in (points, boxes):
        part[:, :2] = part[:, :2] @ turn
    points[:, 2] *= scale
    boxes[:, 2:6] *= scale
    lift = rng.uniform(-LIFT, LIFT)
    points[:, 2] += lift
    boxes[:, 2] += lift
    boxes[:, 6] = boxes[:, 6] * mirror + angle
    intensity = points[:, 3].copy()
    kind = rng.random()
    if kind < BLIND:
        points[:, 3] = 0
    elif kind < 2 * BLIND:
        points[:, 3] = rng.permutation(points[:, 3])
    else:
        points[:, 3] = np.maximum(points[:, 3], 0) ** math.exp(rng.uniform(-GAMMA, GAMMA))
    return torch.from_numpy(points), torch.from_numpy(boxes), torch.from_numpy(intensity)
