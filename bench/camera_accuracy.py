"""Scores of the camera: the shipped detector on simulated drives, FastestDet's bundle on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import Progress

from bench.inputs import CITY, DATA, FASTESTDET, export_fastestdet
from bench.rows import Row, row
from perception_rt.model.bundle import load
from perception_rt.model.runtime import Runtime, resolve_bundle
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.stage.detect2d import detect2d
from perception_rt.train.camera.score import evaluate
from perception_rt.train.drives import EVALUATION_DRIVES, evaluation_seeds
from perception_rt.types import CameraFrame

CITY_TOPIC = "/camera/front/image_raw"

Step = Callable[[], None]


def camera_rows(out: Path, bundle: str, frames: int, bar: Progress) -> list[Row]:
    """Return every score of the camera; scores on recordings only if available."""
    task = bar.add_task("camera, simulated frames", total=frames)
    rows = sim_rows(bundle, frames, lambda: bar.advance(task))
    if FASTESTDET.is_file():
        exported = export_fastestdet(out / "fastestdet.pt")
        real = list(pictures())
        task = bar.add_task("camera, real frames", total=len(real))
        rows += onnx_rows(exported, real, lambda: bar.advance(task))
        rows += drive_rows(exported)
    return rows


def sim_rows(bundle: str, frames: int, step: Step) -> list[Row]:
    """Average precision on unseen simulated frames, and the size of the file."""
    seeds = evaluation_seeds(min(EVALUATION_DRIVES, frames))
    score = evaluate(Runtime.open(bundle, device="cpu"), seeds, frames, step)
    prefix = "camera/sim"
    return [
        row(f"{prefix}/map50", score["ap50"], "mAP50", ">= 0.80"),
        row(f"{prefix}/map50_95", score["ap50_95"], "mAP50-95"),
        *(row(f"{prefix}/ap50_{name}", of["ap50"], "AP50") for name, of in score["per_class"].items()),
        row(f"{prefix}/frames", frames, "frames"),
        row(f"{prefix}/bundle_mb", resolve_bundle(bundle).stat().st_size / 1e6, "MB", "< 4"),
    ]


def pictures() -> Iterator[CameraFrame]:
    """Every picture of the recordings, the drive's included."""
    for path in [*sorted(DATA.glob("images/*.jpg")), *sorted(DATA.glob("frames/*/image.png"))]:
        yield CameraFrame(cv2.imread(str(path)), True, 0, path.stem)
    yield from drive()


def drive() -> Iterator[CameraFrame]:
    """The frames of the recorded drive."""
    with Bag(CITY) as bag:
        for message in bag.messages([CITY_TOPIC]):
            yield frame_of(message)


def onnx_rows(bundle: Path, frames: Sequence[CameraFrame], step: Step) -> list[Row]:
    """Compare the network of the bundle with ONNX Runtime, on the bundle's preprocessed pixels."""
    import onnxruntime

    module, _ = load(bundle)
    session = onnxruntime.InferenceSession(str(FASTESTDET), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    worst = worst_score = 0.0
    for frame in frames:
        with torch.no_grad():
            prepared = module.preprocess(torch.from_numpy(frame.pixels.copy())[None], frame.bgr)
            ours = module.network(prepared)[0].numpy()
        (theirs,) = session.run(None, {name: prepared.numpy()})
        worst = max(worst, float(np.abs(ours - theirs).max()))
        scores = [module.decoder([raw])[1] for raw in (torch.from_numpy(ours), torch.from_numpy(theirs))]
        worst_score = max(worst_score, float((scores[0] - scores[1]).abs().max()))
        step()
    prefix = "camera/fastestdet"
    return [
        row(f"{prefix}/onnxruntime_max_difference", worst, "raw output", "<= 1e-4"),
        row(f"{prefix}/onnxruntime_score_max_difference", worst_score, "score"),
        row(f"{prefix}/onnxruntime_frames", len(frames), "frames"),
    ]


def drive_rows(bundle: Path) -> list[Row]:
    """Cars in every frame of the recorded drive."""
    runtime = Runtime.open(bundle, device="cpu")
    car = runtime.manifest.classes.index("car")
    answered = cars = 0
    for frame in drive():
        (found,) = detect2d(runtime, [frame])
        answered += 1
        cars += bool((found.labels == car).any())
    prefix = "camera/kitti_city"
    return [
        row(f"{prefix}/frames_answered", answered, "frames", "24"),
        row(f"{prefix}/frames_with_car", cars, "frames", "24"),
    ]
