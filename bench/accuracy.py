"""Measure scores: prints a table, writes out/accuracy/camera.json.

The shipped detector on simulated drives that no training used; where the recordings are here, FastestDet's
bundle against ONNX Runtime and on a real drive.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import record
from bench.command import command
from bench.inputs import DATA, FASTESTDET, export_fastestdet
from bench.rows import Row, row, table_of, write_rows
from perception_rt.codec.image import parse_image
from perception_rt.model.bundle import load
from perception_rt.model.runtime import Runtime, resolve_bundle
from perception_rt.replay.bag import Bag
from perception_rt.stage.detect2d import detect2d
from perception_rt.train.data import evaluation_seeds
from perception_rt.train.make import EVALUATION_DRIVES
from perception_rt.train.score import evaluate
from perception_rt.types import CameraFrame

OUT = Path("out/accuracy")
CITY, CITY_TOPIC = DATA / "bags" / "kitti_city", "/camera/front/image_raw"

Step = Callable[[], None]


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument("--bundle", default="sim_camera", help="the detector of simulated frames")
    parser.add_argument("--frames", type=int, default=500, help="simulated frames (default 500)")
    parser.add_argument("--record", action="store_true", help="write bench/RESULTS.md")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    return command(lambda: measure_all(args, Console()))


def measure_all(args: argparse.Namespace, console: Console) -> None:
    """Every score."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("simulated frames", total=args.frames)
        rows = sim_rows(args.bundle, args.frames, lambda: bar.advance(task))
        if FASTESTDET.is_file():
            bundle = export_fastestdet(OUT / "fastestdet.pt")
            frames = list(pictures())
            task = bar.add_task("real frames", total=len(frames))
            rows += onnx_rows(bundle, frames, lambda: bar.advance(task))
            rows += drive_rows(bundle)
        else:
            console.print("no recordings (../shared/data): FastestDet is not measured")
    write_rows(OUT / "camera.json", rows)
    console.print(table_of(rows))
    console.print(f"written: {OUT / 'camera.json'}")
    if args.record:
        console.print(f"written: {record.write()}")


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
            yield parse_image(message.data).decode()


def onnx_rows(bundle: Path, frames: Sequence[CameraFrame], step: Step) -> list[Row]:
    """The network inside the bundle against ONNX Runtime, on the pixels that the bundle prepared."""
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


if __name__ == "__main__":
    sys.exit(main())
