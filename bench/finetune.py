"""Teach a camera detector a class that it misses, from few pictures; writes out/accuracy/finetune.json.

A network is trained on simulated pictures without labels of cyclists. Then it is fine-tuned on a
hundred others, with cyclists. Both are scored on drives that no training used.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.command import command
from bench.compress import write_pictures
from bench.rows import row, table_of, write_rows
from perception_rt.cli.main import main as perception_rt
from perception_rt.model.runtime import Runtime
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.drives import evaluation_seeds, shares, training_seeds
from perception_rt.train.folder import evaluate_folder
from perception_rt.types import PerceptionError

OUT = Path("out/accuracy/finetune.json")
MISSED = "cyclist"
BASE_PICTURES, BASE_STEPS, BASE_SEED = 480, 1500, 41
PICTURES, SEED = 100, 42
DRIVES = 125  # that are scored on


def main(argv: list[str] | None = None) -> int:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.finetune", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/finetune"), help="of pictures and bundles")
    parser.add_argument("--frames", type=int, default=500, help="that are scored on (500)")
    args = parser.parse_args(argv)
    return command(lambda: measure(args.folder, args.frames, Console()))


def measure(folder: Path, frames: int, console: Console) -> None:
    """Every row; pictures and the first network are made once."""
    folder.mkdir(parents=True, exist_ok=True)
    known = tuple(name for name in SIM_CLASSES if name != MISSED)
    base, tuned = folder / "without_cyclists.pt", folder / "with_cyclists.pt"
    drives = evaluation_seeds(min(DRIVES, frames))
    pictures(folder / "unseen", drives, frames)
    if not base.is_file():
        pictures(folder / "base", training_seeds(BASE_SEED, BASE_PICTURES // 12), BASE_PICTURES, known)
        train("--data", folder / "base", "--steps", BASE_STEPS, "--out", base)
    pictures(folder / "few", training_seeds(SEED, PICTURES), PICTURES)
    began = time.monotonic()
    train("--data", folder / "few", "--weights", base, "--out", tuned)
    minutes = (time.monotonic() - began) / 60
    before, after = (evaluate_folder(Runtime.open(path, "cpu"), folder / "unseen") for path in (base, tuned))
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
    console.print(table_of(rows))
    write_rows(OUT, rows)


def pictures(folder: Path, seeds: list[int], count: int, classes: tuple[str, ...] = SIM_CLASSES) -> None:
    """Write pictures of drives, where they are not there yet."""
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        write_pictures(partial, seeds, shares(count, len(seeds)), classes)
        partial.rename(folder)


def train(*options: Any) -> None:
    """`perception-rt train camera`.

    Raises:
        PerceptionError: it failed.
    """
    if perception_rt(["train", "camera", *map(str, options)]):
        raise PerceptionError(f"train {' '.join(map(str, options))}: failed")


if __name__ == "__main__":
    sys.exit(main())
