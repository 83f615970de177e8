"""Heat maps of detections: what the marked part takes of the score, beside random parts of its size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import cv2
import numpy as np
from rich.progress import Progress

from bench.inputs import DATA, FASTESTDET, export_fastestdet
from bench.rows import Row, against, row
from perception_rt.model.runtime import Runtime
from perception_rt.replay.kitti import read_velodyne
from perception_rt.stage.explain.explain import Explanation, explain
from perception_rt.stage.explain.probe import Probe

PICTURES = ("video/street.jpg", "images/bus.jpg", "frames/000000/image.png", "frames/000114/image.png")
CLOUDS = ("000001", "000002", "000114")
DETECTIONS = 2  # of each frame, the most confident


def explanation_rows(bar: Progress) -> list[Row]:
    """Every row; none without the recordings."""
    if not FASTESTDET.is_file():
        return []
    rows = []
    task = bar.add_task("heat maps", total=None)
    with tempfile.TemporaryDirectory() as folder:
        camera = str(export_fastestdet(Path(folder) / "fastestdet.pt"))
        methods = ("rise", "gradients", "cam") if util.find_spec("captum") else ("rise",)
        for method in methods:
            found = [told for data in _pictures() for told in _explained(camera, data, method)]
            rows += _rows(f"fastestdet/{method}", found)
            bar.advance(task)
        for name in ("bev_cluster", "pillars"):
            rows += _rows(f"{name}/rise", [t for data in _clouds() for t in _explained(name, data, "rise")])
            bar.advance(task)
    return rows


def _pictures() -> Iterator[np.ndarray]:
    for name in PICTURES:
        yield np.ascontiguousarray(cv2.imread(str(DATA / name))[None, :, :, ::-1])


def _clouds() -> Iterator[np.ndarray]:
    for name in CLOUDS:
        points = read_velodyne(DATA / "frames" / name / "velodyne.bin")
        yield points[points[:, 0] > np.abs(points[:, 1])]  # what the camera sees too


def _explained(bundle: str, data: np.ndarray, method: str) -> Iterator[Explanation]:
    probe = Probe(Runtime.open(bundle, "cpu", threads=1), data)
    for target in probe.targets()[:DETECTIONS]:
        yield explain(probe, target, method)


def _rows(name: str, found: list[Explanation]) -> list[Row]:
    checks = [told.check for told in found]
    marked, random, near = (
        float(np.mean([np.mean(value) for value in values]))
        for values in ([c.marked for c in checks], [c.random for c in checks], [c.near for c in checks])
    )
    return [
        row(f"networks/explain/{name}/detections", len(checks), "detections"),
        against(f"networks/explain/{name}/score_lost", marked, "of the score", random),
        row(f"networks/explain/{name}/score_lost_near", near, "of the score"),
        row(f"networks/explain/{name}/checks_hold", float(np.mean([c.holds for c in checks])), "of them"),
    ]
