"""The 2D tracker on a moving camera, with and without `CameraMotion`.

Simulated drives, whose roads turn, and the same seen by a camera that pans: a window that moves over the
image. Detections are the true boxes with noise, misses and false ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from bench.image_sequences import ImageFrame, pooled, score_image_tracks
from bench.rows import Row, against, rounded, row
from perception_rt.replay.score.hota import TrackFrame
from perception_rt.replay.score.tracking import LEAST_IOU_2D, paired
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.drive import Drive, DriveSample
from perception_rt.stage.tracking.camera_motion import CameraMotion
from perception_rt.stage.tracking.presets import config_2d
from perception_rt.stage.tracking.tracker import Tracker2D
from perception_rt.types import Detections2D

STEM = "trust/camera_motion"
SEEDS, SECONDS, HZ = (505, 506, 507), 15, 10  # 501 and 503 served to choose its constants
SIZE, WINDOW = (960, 540), (640, 400)
# Amplitude, px, and period, s, of the panning window across and down.
Pan = tuple[tuple[float, float], tuple[float, float]]
PAN: dict[str, Pan] = {"turns": ((0, 1), (0, 1)), "pans": ((150, 4.0), (60, 2.7))}
RECALL, NOISE, FALSE_BOXES = 0.85, 0.04, 0.3  # noise in heights; false boxes a frame


class Seen(NamedTuple):
    """One frame: the picture, and what is detected and true in it."""

    pixels: np.ndarray
    frame: ImageFrame


class Followed(NamedTuple):
    """What came of a drive: the scored frames, how many ids were given, and ms per frame for the motion."""

    frames: list[TrackFrame]
    ids: int
    motion_ms: float


def camera_motion_rows() -> list[Row]:
    """Scores with compensation beside those without, and what it costs.

    A camera that pans must gain. On a drive without, constant velocity already tells where boxes will be:
    there it must lose no more than a point.
    """
    rows, costs = [], []
    drives = [seen(seed) for seed in SEEDS]
    for name in PAN:
        ours, plain = ([follow(drive[name], moves) for drive in drives] for moves in (True, False))
        costs += [drive.motion_ms for drive in ours]
        score, base = (score_image_tracks(pooled([drive.frames for drive in part])) for part in (ours, plain))
        for figure in ("idf1", "hota", "mota"):
            label, value, other = (f"{STEM}/{name}/{figure}", getattr(score, figure), getattr(base, figure))
            if name == "pans":
                rows.append(against(label, value, "%", other, tuned_on="other seeds"))
            else:
                loses = row(label, value, "%", f">= {other - 1:.2f}, that without less 1")
                rows.append(replace(loses, baseline=rounded(other), tuned_on="other seeds"))
        for part, end, switches in ((ours, "", score.switches), (plain, "_without", base.switches)):
            rows += [
                row(f"{STEM}/{name}/switches{end}", switches, "switches"),
                row(f"{STEM}/{name}/ids{end}", sum(drive.ids for drive in part), "ids"),
                row(
                    f"{STEM}/{name}/fragments{end}",
                    sum(fragments(drive.frames) for drive in part),
                    "fragments",
                ),
            ]
    return [*rows, row(f"{STEM}/ms_per_frame", float(np.mean(costs)), "ms at 640x400")]


def seen(seed: int) -> dict[str, list[Seen]]:
    """The frames of a drive, as each camera of `PAN` sees them."""
    drive, found = Drive(seed, SIZE), {name: [] for name in PAN}
    generators = {name: np.random.default_rng(seed) for name in PAN}
    for number in range(SECONDS * HZ):
        sample = drive.sample(number / HZ)
        for name, rng in generators.items():
            found[name].append(_window(sample, PAN[name], number / HZ, rng))
    return found


def _window(sample: DriveSample, pan: Pan, t_s: float, rng: np.random.Generator) -> Seen:
    left, top = (
        round((whole - part) / 2 + size * np.sin(2 * np.pi * t_s / period))
        for whole, part, (size, period) in zip(SIZE, WINDOW, pan, strict=True)
    )
    full = sample.truth.xyxy - np.array([left, top] * 2, np.float32)
    true = full.clip(0, [*WINDOW] * 2)
    shares = (true[:, 2:] - true[:, :2]).prod(1) / (full[:, 2:] - full[:, :2]).prod(1)
    inside = shares > 0.2
    detections = detect(true[inside], sample.truth.labels[inside], rng)
    hidden = shares[inside] < 0.5  # need not be found
    frame = ImageFrame(detections, sample.truth_ids[inside], true[inside], hidden)
    return Seen(sample.image[top : top + WINDOW[1], left : left + WINDOW[0]], frame)


def detect(true: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Detections2D:
    """What a detector makes of true boxes."""
    found = rng.random(len(true)) < RECALL
    sizes = true[:, 3:] - true[:, 1:2]
    boxes = true + rng.normal(0, NOISE / 2, true.shape) * sizes
    corner = rng.uniform((0, 100), (WINDOW[0] - 80, WINDOW[1] - 120), (rng.poisson(FALSE_BOXES), 2))
    wrong = np.hstack((corner, corner + rng.uniform((15, 30), (80, 120), corner.shape)))
    boxes = np.vstack((boxes[found], wrong)).astype(np.float32)
    scores = np.append(rng.uniform(0.45, 0.95, found.sum()), rng.uniform(0.2, 0.6, len(wrong)))
    classes = np.append(labels[found], rng.integers(0, len(SIM_CLASSES), len(wrong)))
    solid = (boxes[:, 2:] - boxes[:, :2] > 2).all(1)
    return Detections2D(boxes, scores.astype(np.float32), classes)[solid]


def follow(drive: Sequence[Seen], moves: bool) -> Followed:
    """Track a drive with the node's settings; `moves`: with the camera's motion."""
    tracker, camera, frames, ids, took = Tracker2D(config_2d(SIM_CLASSES)), CameraMotion(), [], set(), 0
    for number, (pixels, frame) in enumerate(drive):
        began = time.thread_time_ns()
        motion = camera.update(pixels, frame.detections.xyxy) if moves else None
        took += time.thread_time_ns() - began
        tracks = tracker.update(number * 10**9 // HZ, frame.detections, motion)
        ids |= set(tracks.ids.tolist())
        frames.append(frame.followed(tracks.ids, tracks.xyxy))
    return Followed(frames, len(ids), took / len(drive) / 1e6)


def fragments(frames: Sequence[TrackFrame]) -> int:
    """How often an object that was followed is lost and followed again."""
    states: dict[int, list[bool]] = {}
    for frame in frames:
        rows, _ = paired(frame.similarity, LEAST_IOU_2D)
        for row_, key in enumerate(frame.truth_ids.tolist()):
            states.setdefault(key, []).append(row_ in set(rows.tolist()))
    return sum(max(sum(1 for state, _ in groupby(history) if state) - 1, 0) for history in states.values())
