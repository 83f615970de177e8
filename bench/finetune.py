"""Teach a camera detector a class that it misses, from few pictures; writes out/accuracy/finetune.json.

A network is trained on simulated pictures without labels of cyclists. Then it is fine-tuned on a
hundred others, with cyclists. Both are scored on drives that no training used.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.command import command
from bench.compress import write_pictures
from bench.rows import Row, against, row, table_of, write_rows
from perception_rt.cli.main import main as perception_rt
from perception_rt.model.archive import read_manifest
from perception_rt.model.runtime import Runtime
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.drives import evaluation_seeds, shares, training_seeds
from perception_rt.train.folder import evaluate_folder
from perception_rt.types import PerceptionError

OUT = Path("out/accuracy/finetune.json")
MISSED = "cyclist"
BASE_PICTURES, BASE_STEPS, BASE_SEED = 480, 1500, 41
PICTURES, SEED = 100, 42
DRIVES, UNSEEN = 125, "unseen"  # that are scored on, and the folder of their pictures
FOLDER = Path("out/finetune")


def main(argv: list[str] | None = None) -> int:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.finetune", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of pictures and bundles")
    parser.add_argument("--frames", type=int, default=500, help="that are scored on (500)")
    args = parser.parse_args(argv)
    return command(lambda: measure(args.folder, args.frames, Console()))


def measure(folder: Path, frames: int, console: Console) -> None:
    """Print and write every row."""
    rows = finetune_rows(folder, frames)
    console.print(table_of(rows))
    write_rows(OUT, rows)


def finetune_rows(folder: Path, frames: int) -> list[Row]:
    """Every row; pictures and the first network are made once."""
    folder.mkdir(parents=True, exist_ok=True)
    known = tuple(name for name in SIM_CLASSES if name != MISSED)
    base, tuned = folder / "without_cyclists.pt", folder / "with_cyclists.pt"
    unseen_pictures(folder / UNSEEN, frames)
    if not base.is_file():
        pictures(folder / "base", training_seeds(BASE_SEED, BASE_PICTURES // 12), BASE_PICTURES, known)
        train(folder, "--data", folder / "base", "--steps", BASE_STEPS, "--out", base)
    pictures(folder / "few", training_seeds(SEED, PICTURES), PICTURES)
    began = time.monotonic()
    train(folder, "--data", folder / "few", "--weights", base, "--out", tuned)
    minutes = (time.monotonic() - began) / 60
    before, after = (evaluate_folder(Runtime.open(path, "cpu"), folder / UNSEEN) for path in (base, tuned))
    rows = [
        row("networks/finetune/map50", after["ap50"], "", ">= 0.5"),
        row("networks/finetune/map50_before", before["ap50"], ""),
        row("networks/finetune/minutes", minutes, "min", "<= 10 min on two cores"),
        row("networks/finetune/pictures", PICTURES, "pictures"),
        row("networks/finetune/frames", frames, "frames"),
    ]
    for name in SIM_CLASSES:
        for when, score in (("before", before), ("after", after)):
            value = score["per_class"][name]["ap50"]
            rows.append(row(f"networks/finetune/{name}_ap50_{when}", value, ""))
    return rows


def calibration_rows(folder: Path, frames: int) -> list[Row]:
    """Expected calibration error of `sim_camera` before and after `bundle calibrate`.

    The first half of unseen drives fits, the second is measured.
    """
    unseen, out = folder / UNSEEN, folder / "calibrated.pt"
    folder.mkdir(parents=True, exist_ok=True)
    unseen_pictures(unseen, frames)
    options = ["--data", str(unseen), "--frames", str(frames), "--out", str(out)]
    if perception_rt(["bundle", "calibrate", "sim_camera", *options]):
        raise PerceptionError("bundle calibrate sim_camera: failed")
    calibration = read_manifest(out).calibration
    assert calibration is not None
    record, stem = calibration.record, "networks/calibration/sim_camera"
    return [
        against(f"{stem}/ece", record["ece_after"], "", record["ece_before"], most=True),
        row(f"{stem}/detections", record["detections"], "detections"),
        row(f"{stem}/frames", record["frames"], "frames"),
    ]


def unseen_pictures(folder: Path, frames: int) -> None:
    """Pictures of drives that no training used."""
    pictures(folder, evaluation_seeds(min(DRIVES, frames)), frames)


def pictures(folder: Path, seeds: list[int], count: int, classes: tuple[str, ...] = SIM_CLASSES) -> None:
    """Write pictures of drives, where they are not there yet."""
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        write_pictures(partial, seeds, shares(count, len(seeds)), classes)
        partial.rename(folder)


def train(folder: Path, *options: Any) -> None:
    """`perception-rt train camera`, with its checkpoints in a folder.

    Raises:
        PerceptionError: it failed.
    """
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)  # of one that was stopped
    if perception_rt(["train", "camera", *map(str, options), "--run", str(run)]):
        raise PerceptionError(f"train {' '.join(map(str, options))}: failed")


if __name__ == "__main__":
    sys.exit(main())
