"""Scores of the shipped lidar network on held-out simulated drives and real clouds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.progress import Progress

from bench.inputs import DATA
from bench.lidar_accuracy import Scene, detect, labelled_frames, labelled_sequence, outcome, share
from bench.lidar_circle import argoverse, counts, kitti, nuscenes
from bench.models import baseline
from bench.rows import Row, row
from perception_rt.model.runtime import CloudRuntime, Runtime, resolve_bundle
from perception_rt.stage.detect3d import detect3d
from perception_rt.train.drives import EVALUATION_DRIVES, evaluation_seeds
from perception_rt.train.pillars.score import evaluate
from perception_rt.types import Detections3D, LidarFrame

IOUS = {30: 0.3, 50: 0.5, 70: 0.7}
TARGETS = {"recall_iou30": ">= 0.88", "precision_iou30": ">= 0.75"}


def pillars_rows(bundle: str, frames: int, bar: Progress) -> list[Row]:
    """Average precision by footprints: of all, by class, and by distance; the size of the file."""
    task = bar.add_task(f"{bundle}, simulated clouds", total=frames)
    seeds = evaluation_seeds(min(EVALUATION_DRIVES, frames))
    score = evaluate(Runtime.open(bundle, device="cpu"), seeds, frames, lambda: bar.advance(task))
    prefix = f"lidar/{bundle}/sim"
    return [
        row(f"{prefix}/map_bev50", score["map"], "mAP", ">= 0.75"),
        *(row(f"{prefix}/ap_bev50_{name}", of["ap"], "AP") for name, of in score["per_class"].items()),
        *(
            row(f"{prefix}/map_bev50_{band.replace(' ', '_')}", of["map"], "mAP")
            for band, of in score["bands"].items()
        ),
        row(f"{prefix}/frames", frames, "frames"),
        row(f"{prefix}/bundle_mb", resolve_bundle(bundle).stat().st_size / 1e6, "MB", "< 8"),
    ]


def network_rows(bundle: str, bar: Progress, first77: bool) -> list[Row]:
    """Cars on real clouds, without training on them: of this bundle and of the previous one.

    Args:
        bundle: name of a shipped bundle.
        bar: told of each cloud.
        first77: score on KITTI sequence 0000 too, by which nothing may be chosen: thresholds are chosen on
            the frames and the circles.
    """
    if not DATA.is_dir():
        return []
    with TemporaryDirectory() as folder:
        before = baseline(bundle, Path(folder))
        runtimes = {bundle: Runtime.open(bundle, device="cpu")}
        if before is not None:
            runtimes[f"{bundle}_before"] = before
        return [
            entry
            for name, runtime in runtimes.items()
            for entry in real_rows(f"networks/{name}", runtime, bar, name == bundle, first77)
        ]


def real_rows(prefix: str, runtime: CloudRuntime, bar: Progress, held: bool, first77: bool) -> list[Row]:
    """Scores of a bundle on KITTI's frames and sequence, and on whole circles; `held`: to the targets."""
    rows = []
    for name in ("frames", *(["tracking_0000"] if first77 else [])):
        scenes = labelled_frames() if name == "frames" else labelled_sequence()
        task = bar.add_task(f"{prefix}, {name}", total=len(scenes))
        found = [detect(runtime, scene.points, bar, task) for scene in scenes]
        targets = TARGETS if held and name == "tracking_0000" else {}
        rows += scene_rows(f"{prefix}_{name}", scenes, found, runtime.manifest.classes, targets)
    for name, circles in (("argoverse", argoverse()), ("nuscenes", nuscenes()), ("kitti", kitti())):
        clouds = list(circles)
        answers = [detect3d(runtime, LidarFrame(circle.points, 0, 0, "lidar")) for circle in clouds]
        for kind in ("car", "pedestrian"):
            pairs = zip(clouds, answers, strict=True)
            hit, asked, right, claimed = np.sum([counts(*pair, kind) for pair in pairs], 0).tolist()
            for what, part, whole in (("recall", hit, asked), ("precision", right, claimed)):
                value = part / whole if whole else None
                rows.append(row(f"{prefix}_{name}/{kind}_{what}", value, f"of {whole}"))
    return rows


def scene_rows(
    prefix: str,
    scenes: Sequence[Scene],
    found: Sequence[Detections3D],
    classes: Sequence[str],
    targets: dict[str, str],
) -> list[Row]:
    """Recall of cars, and precision of all boxes and of the cars among them."""
    rows = []
    cars = [boxes[boxes.labels == classes.index("car")] for boxes in found]
    for percent, threshold in IOUS.items():
        figures = {}
        for kind, boxes in (("", found), ("car_", cars)):
            pairs = zip(scenes, boxes, strict=True)
            outcomes = [outcome(scene, of, classes, threshold) for scene, of in pairs]
            figures["recall"] = share(np.concatenate([o.found for o in outcomes]))
            figures[f"{kind}precision"] = share(np.concatenate([o.right for o in outcomes]))
        for name, value in figures.items():
            key = f"{name}_iou{percent}"
            rows.append(row(f"{prefix}/{key}", value, "ratio", targets.get(key, "")))
    return rows
