"""Imported lidar networks: beside the answers of their own tools, and where their time goes.

`python -m bench.lidar_checkpoints` prints the times of one core; the benchmark runs it with AVX2 alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench.command import no_arguments
from bench.inputs import cloud
from bench.rows import Row, row
from perception_rt.model.centerpoint import PARTS, BranchShape, CenterDecoding, CenterHead, ClassGroup
from perception_rt.model.pointpillars import (
    AnchorBox,
    AnchorHead,
    BevBackbone,
    PillarFeatures,
    PillarGrid,
    PointPillars,
)
from perception_rt.model.torchscript import optimise

ONE_CORE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
STAGES = ("voxels", "features", "backbone", "head", "decode_nms")
CANDIDATES = 1500  # boxes that reach NMS: more than a trained network has on a street
REPEATS = 7


def checkpoint_rows() -> list[Row]:
    """Every row."""
    return [*difference_rows(), *time_rows()]


def difference_rows() -> list[Row]:
    """Largest differences from OpenPCDet's and mmdetection3d's own modules, by network."""
    from perception_rt.model.importers.mmdet3d import import_mmdet3d
    from perception_rt.model.importers.openpcdet import import_openpcdet
    from test.lidar_networks import NAMES, difference, read, weights  # beside this package, not in it

    rows = []
    for name in NAMES:
        case = read(name)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, config = Path(folder) / "tiny.pth", Path(folder) / case["file"]
            config.write_text(case["config"])
            torch.save({"meta": case.get("meta", {}), "state_dict": weights(case["layers"])}, checkpoint)
            imported = {"openpcdet": import_openpcdet, "mmdet3d": import_mmdet3d}[case["tool"]](
                checkpoint, config
            )
        found = difference(case, imported)
        rows += [
            row(f"networks/{name}/raw_difference", found.raw, "", "<= 1e-4"),
            row(f"networks/{name}/box_difference", found.boxes, "m, rad", "<= 1e-3"),
            row(f"networks/{name}/labels_that_differ", found.labels, "boxes", "0"),
        ]
    return rows


def time_rows() -> list[Row]:
    """Times of the stages, measured in a process that has one core and AVX2."""
    command = [sys.executable, "-m", "bench.lidar_checkpoints"]
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_CORE}
    )
    rows = []
    for name, times in json.loads(answer.stdout).items():
        rows += [row(f"networks/{name}/{stage}_ms", times[stage], "ms") for stage in STAGES]
        whole = sum(times.values())
        share = (times["voxels"] + times["decode_nms"]) / whole
        rows += [
            row(f"networks/{name}/whole_ms", whole, "ms"),
            row(f"networks/{name}/voxels_nms_share", share, "of the whole", "<= 0.1"),
        ]
    return rows


def kitti_pointpillars() -> PointPillars:
    """PointPillars at KITTI's resolution: 432 x 496 pillars, three classes; weights from a seed."""
    torch.manual_seed(0)
    low, high = (0.0, -39.68, -3.0), (69.12, 39.68, 1.0)
    grid = PillarGrid(low, high, (0.16, 0.16, 4.0), 432, 496, 32, 40_000)
    features = PillarFeatures(grid, 4, [64])
    backbone = BevBackbone(64, [3, 5, 5], [2, 2, 2], [64, 128, 256], [1, 2, 4], [128] * 3, False)
    sizes = ((3.9, 1.6, 1.56), (0.8, 0.6, 1.73), (1.76, 0.6, 1.73))
    area = (*low[:2], *high[:2])
    anchors = [AnchorBox(size, yaw, -1.78, area, True) for size in sizes for yaw in (0.0, 1.57)]
    head = AnchorHead(backbone.channels, 3, anchors, (248, 216), 2, 0.78539, 0.0, 4096, 500)
    return PointPillars(grid, range(4), features, backbone, head, 0.1, 0.01).eval()


def nuscenes_centerpoint() -> PointPillars:
    """CenterPoint at the resolution of nuScenes: 512 x 512 pillars, six groups; weights from a seed."""
    torch.manual_seed(0)
    low, high = (-51.2, -51.2, -5.0), (51.2, 51.2, 3.0)
    grid = PillarGrid(low, high, (0.2, 0.2, 8.0), 512, 512, 20, 40_000)
    features = PillarFeatures(grid, 5, [64])
    backbone = BevBackbone(64, [3, 5, 5], [2, 2, 2], [64, 128, 256], [0.5, 1, 2], [128] * 3, False)
    groups = [ClassGroup(labels) for labels in ((0,), (1, 2), (3, 4), (5,), (6, 7), (8, 9))]
    shape = BranchShape(64, 64, 3, dict.fromkeys(PARTS, 2), True, 1e-5)
    limits = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    decoding = CenterDecoding((-51.2, -51.2), (0.8, 0.8), limits, 500, 1000, 83)
    head = CenterHead(backbone.channels, groups, shape, decoding)
    return PointPillars(grid, range(5), features, backbone, head, 0.1, 0.2).eval()


def ten_sweeps(points: np.ndarray) -> np.ndarray:
    """(N, 5) as many points as ten sweeps of 32 rings, from a cloud of 64."""
    sweeps = [
        np.column_stack(
            (points[k % 4 :: 4] + np.float32([0.5 * k, 0, 0, 0]), np.full(len(points[k % 4 :: 4]), k / 20))
        )
        for k in range(10)
    ]
    return np.concatenate(sweeps).astype(np.float32)


@torch.inference_mode()
def stage_times(network: PointPillars, points: np.ndarray) -> dict[str, float]:
    """Medians of each stage, ms of processor time."""
    device = torch.device("cpu")
    voxels, features, backbone, head = (
        optimise(torch.jit.script(part), device)
        for part in (network.voxeliser, network.vfe, network.backbone_2d, network.dense_head)
    )
    cloud_, times = torch.from_numpy(points), []
    threshold = None
    for _ in range(REPEATS):
        marks = [time.thread_time()]
        pillars = voxels(cloud_)
        marks.append(time.thread_time())
        grid = network.scatter(features(*pillars), pillars[2])
        marks.append(time.thread_time())
        wide = backbone(grid)
        marks.append(time.thread_time())
        raw = head(wide)
        marks.append(time.thread_time())
        if threshold is None:
            threshold = lowest_of(raw, isinstance(network.dense_head, CenterHead))
        network.dense_head.detect(raw, threshold, network.nms_threshold)
        marks.append(time.thread_time())
        times.append(np.diff(marks) * 1e3)
    return dict(zip(STAGES, np.median(times[2:], axis=0).tolist(), strict=True))


def lowest_of(raw: Sequence[torch.Tensor], centres: bool) -> float:
    """The score that `CANDIDATES` cells reach."""
    maps = raw[:: len(PARTS)] if centres else raw[:1]
    scores = torch.cat([values.sigmoid().flatten() for values in maps])
    return float(scores.topk(CANDIDATES)[0][-1])


def main() -> int:
    """Print the times as JSON."""
    no_arguments(__doc__)
    torch.set_num_threads(1)
    points = cloud("120k")
    found = {
        "pointpillars_kitti": stage_times(kitti_pointpillars(), points),
        "centerpoint_nuscenes": stage_times(nuscenes_centerpoint(), ten_sweeps(points)),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
