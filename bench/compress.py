"""Measure compressed networks beside fp32; writes out/bench/compress.json.

`sim_camera` on held-out simulated drives (mAP50), FastestDet on a recording of a city (agreement with fp32).
The first half of the data calibrates, the second is measured. `sim_camera` is also pruned, and distilled into
a narrower network, with a short training each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from bench.command import command
from bench.inputs import CITY, FASTESTDET, export_fastestdet
from bench.rows import Row, row, table_of, write_rows
from perception_rt.cli.main import main as perception_rt
from perception_rt.model.archive import read_manifest
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.camera.data import drive_samples
from perception_rt.train.drives import evaluation_seeds, shares
from perception_rt.types import PerceptionError

OUT = Path("out/bench/compress.json")
MAX_LOSS = 1.0  # points
PRECISIONS = {"int8": ["--precision", "int8"], "fp16": ["--precision", "fp16"]}
NARROWER = {"pruned": ["--prune", "0.25"], "distilled": ["--distill", "0.5"]}
FRAMES_PER_DRIVE = 4


def main(argv: list[str] | None = None) -> int:
    """Compress, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.compress", description=__doc__)
    parser.add_argument("--frames", type=int, default=1000, help="simulated, half of them measured (1000)")
    parser.add_argument(
        "--steps",
        type=int,
        default=600,
        help="of training pruned and distilled networks; 0 leaves them out (600)",
    )
    args = parser.parse_args(argv)
    return command(lambda: measure(args.frames, args.steps, Console()))


def measure(frames: int, steps: int, console: Console) -> None:
    """Every row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = evaluation_seeds(max(1, frames // FRAMES_PER_DRIVE))
        write_pictures(folder / "sim", seeds, shares(frames, len(seeds)))
        trained = {way: [*options, "--steps", str(steps)] for way, options in NARROWER.items() if steps}
        ways = {**PRECISIONS, **trained}
        rows = rows_of("sim_camera", "sim_camera", folder / "sim", frames, folder, ways)
        if FASTESTDET.is_file():
            bundle = export_fastestdet(folder / "fastestdet.pt")
            rows += rows_of("fastestdet", str(bundle), CITY, frames, folder, PRECISIONS)
    console.print(table_of(rows))
    write_rows(OUT, rows)


def rows_of(
    name: str, bundle: str, data: Path, frames: int, folder: Path, ways: Mapping[str, Sequence[str]]
) -> list[Row]:
    """The rows of one network, compressed in some ways: names, and options of `bundle compress`."""
    rows = []
    for way, how in ways.items():
        out = folder / f"{name}_{way}.pt"
        options = [*how, "--data", str(data), "--frames", str(frames)]
        status = perception_rt(
            ["bundle", "compress", bundle, *options, "--max-loss", "100", "--out", str(out)]
        )
        stem = f"compress/{name}/{way}"
        if status:
            rows.append(row(f"{stem}/loss", None, "points", f"<= {MAX_LOSS:g} points"))
            continue
        rows += rows_of_record(stem, dict(read_manifest(out).provenance["compression"]))
    return rows


def rows_of_record(stem: str, record: dict[str, Any]) -> list[Row]:
    """Return the rows of a record of `bundle compress`."""
    size, took = record["size_mb"], record["latency_ms"]
    rows = [
        row(f"{stem}/size_mb", size[1], "MB", f"< {size[0]:g} MB of fp32"),
        row(f"{stem}/latency_ratio", took[1] / took[0], "of fp32"),
        row(f"{stem}/{record['measure']}", record["after"], ""),
        row(f"{stem}/{record['measure']}_fp32", record["before"], ""),
        row(f"{stem}/loss", record["loss"], "points", f"<= {MAX_LOSS:g} points"),
        row(f"{stem}/frames", record["evaluated_frames"], "frames"),
    ]
    if "channels" in record:
        rows.append(row(f"{stem}/channels_ratio", record["channels"][1] / record["channels"][0], "of fp32"))
    if "score_difference" in record:
        rows.append(row(f"{stem}/score_difference", record["score_difference"], ""))
    return rows


def write_pictures(
    folder: Path, seeds: Sequence[int], counts: Sequence[int], classes: Sequence[str] = SIM_CLASSES
) -> None:
    """Pictures of some drives, with labels of some classes in YOLO's form."""
    folder.mkdir()
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    for seed, count in zip(seeds, counts, strict=True):
        for number, sample in enumerate(drive_samples(seed, count)):
            path = folder / f"{seed}_{number}.png"
            if not cv2.imwrite(str(path), np.ascontiguousarray(sample.image[:, :, ::-1])):
                raise PerceptionError(f"{path}: cannot be written")
            height, width = sample.image.shape[:2]
            low, high = np.split(sample.truth.xyxy / [width, height, width, height], 2, axis=1)
            boxes = np.concatenate([(low + high) / 2, high - low], axis=1)
            named = zip((SIM_CLASSES[label] for label in sample.truth.labels), boxes, strict=True)
            lines = [
                f"{classes.index(name)} {' '.join(f'{value:.6f}' for value in box)}\n"
                for name, box in named
                if name in classes
            ]
            path.with_suffix(".txt").write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
