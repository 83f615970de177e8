"""The part lidar: both shipped bundles on real clouds of two sizes through real topics, and their parts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch

from bench.inputs import CLOUDS, cloud
from bench.micro import median_ms
from bench.pipeline import MeasuredLidar, running
from bench.rows import Row, row
from bench.stream import Feed, Length, Step, measure
from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.codec.encode import encode_points
from perception_rt.codec.points import parse_points
from perception_rt.model.runtime import Runtime
from perception_rt.sim.drive import Drive
from perception_rt.types import Detections3D

LIDAR_HZ = 10.0
BUNDLES = ("bev_cluster", "pillars")
SIM_SEEDS = (1, 2, 3)
DECODE_TARGETS = {"120k": "<= 1 ms"}
TWO_THREADS_TARGETS = {("bev_cluster", "30k"): "<= 50 ms on two cores"}


def lidar_part(folder: Path, length: Length, quick: bool, step: Step) -> list[Row]:
    """Every row of the lidar."""
    rows = parts_rows(quick)
    environment = dict(os.environ)
    for bundle in BUNDLES:
        feeds = [feed(bundle, name, folder) for name in CLOUDS]
        with running(MeasuredLidar, bundle=bundle) as node:
            for one in feeds:
                rows += measure(node, one, environment, length, step)[0]
    return rows


def feed(bundle: str, name: str, folder: Path) -> Feed:
    """Write a cloud for the publisher."""
    file, points = folder / f"{name}.cdr", cloud(name)
    file.write_bytes(encode_points(points, 0, "lidar"))
    return Feed(f"lidar/{bundle}/{name}", "PointCloud2", file, points, LIDAR_HZ)


def parts_rows(quick: bool) -> list[Row]:
    """The parts of the lidar's way."""
    repeats, rows = (5, []) if quick else (50, [])
    for name in CLOUDS:
        message = encode_points(cloud(name), 0, "lidar")
        took = median_ms(lambda message=message: parse_points(message).decode(), 4 * repeats)
        rows.append(row(f"lidar/{name}/parse_decode_ms", took, "ms", DECODE_TARGETS.get(name, "")))
    threads = torch.get_num_threads()
    for bundle in BUNDLES:
        runtime = Runtime.open(bundle, device="cpu", threads=2)
        runtime.warmup()
        for name in CLOUDS:
            points = cloud(name)
            runtime(points)
            took = median_ms(lambda runtime=runtime, points=points: runtime(points), repeats)
            target = TWO_THREADS_TARGETS.get((bundle, name), "")
            rows.append(row(f"lidar/{bundle}/{name}/forward_two_threads_ms", took, "ms", target))
    torch.set_num_threads(threads)
    rows.append(row("lidar/encode_300_detections_ms", encode_ms(300, 4 * repeats), "ms"))
    rate, points = sim_rate(3 if quick else 20)
    rows.append(row("lidar/sim_frames_per_s", rate, "frames/s", ">= 10"))
    rows.append(row("lidar/sim_points_per_frame", points, "points"))
    return rows


def encode_ms(count: int, repeats: int) -> float:
    """Serializing an array of `count` detections of three classes."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-40, 40, (count, 7)).astype(np.float32)
    scores = rng.uniform(0, 1, count).astype(np.float32)
    found = Detections3D(boxes, scores, rng.integers(0, 3, count))
    encoder = Detection3DEncoder(("car", "pedestrian", "cyclist"))
    return median_ms(lambda: encoder.encode(found, 1, "lidar"), repeats)


def sim_rate(frames: int) -> tuple[float, float]:
    """Return the simulated clouds per second of processor time, and their mean number of points."""
    took, points = 0.0, []
    for seed in SIM_SEEDS:
        drive = Drive(seed)
        drive.lidar(0.0)
        began = time.thread_time()
        points += [len(drive.lidar(60 * index / frames).points) for index in range(frames)]
        took += time.thread_time() - began
    return frames * len(SIM_SEEDS) / took, float(np.mean(points))
