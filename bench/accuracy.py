"""Measure scores: prints tables, writes out/accuracy/<part>.json.

Uses held-out simulated drives and, if the recordings are available, real data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import record
from bench.command import command
from bench.inputs import DATA
from bench.rows import Row, table_of, write_rows

OUT = Path("out/accuracy")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument(
        "--part", action="append", choices=list(PARTS), help="measure this part (default: all)"
    )
    parser.add_argument("--frames", type=int, default=500, help="simulated frames per detector (default 500)")
    parser.add_argument("--record", action="store_true", help="write bench/RESULTS.md")
    parser.add_argument(
        "--first77",
        action="store_true",
        help="score `pillars` on KITTI sequence 0000 too; rarely: nothing may be chosen by that score",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write; return 1 if a figure is worse than its baseline."""
    args = build_parser().parse_args(argv)
    lost: list[str] = []
    return command(lambda: lost.extend(measure_all(args, Console()))) or bool(lost)


def measure_all(args: argparse.Namespace, console: Console) -> list[str]:
    """Measure the selected parts; return the names of rows worse than their baseline."""
    lost = []
    parts = {**PARTS, "networks": partial(networks, first77=args.first77)}
    if not DATA.is_dir():
        console.print("no recordings (../shared/data): only simulated drives are scored")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    for part in args.part or PARTS:
        with Progress(*columns, console=console) as bar:
            rows = parts[part](args.frames, bar)
        write_rows(OUT / f"{part}.json", rows)
        console.print(table_of(rows))
        console.print(f"written: {OUT / part}.json")
        lost += [entry.name for entry in rows if entry.baseline is not None and not entry.holds]
    if args.record:
        console.print(f"written: {record.write()}")
    if lost:
        console.print(f"[red]worse than the baseline:[/] {', '.join(lost)}")
    return lost


def camera(frames: int, bar: Progress) -> list[Row]:
    """The camera's detectors."""
    from bench.camera_accuracy import camera_rows

    return camera_rows(OUT, "sim_camera", frames, bar)


def lidar(frames: int, bar: Progress) -> list[Row]:
    """The lidar's detectors: bev_cluster on real clouds, pillars on simulated ones."""
    from bench.lidar_accuracy import lidar_rows
    from bench.pillars_accuracy import pillars_rows

    return [*lidar_rows("bev_cluster", bar), *pillars_rows("pillars", frames, bar)]


def networks(frames: int, bar: Progress, first77: bool = False) -> list[Row]:
    """The shipped lidar network on real clouds, before and after training on streets; other networks."""
    from bench.explanations import explanation_rows
    from bench.finetune import FOLDER, calibration_rows, finetune_rows
    from bench.lidar_checkpoints import checkpoint_rows
    from bench.pillars_accuracy import network_rows
    from bench.segments import segment_rows

    rows = [*network_rows("pillars", bar, first77), *checkpoint_rows()]
    rows += [*segment_rows(), *explanation_rows(bar)]
    bar.stop()  # training shows its own
    return [*rows, *finetune_rows(FOLDER, frames), *calibration_rows(FOLDER, frames)]


def fusion(frames: int, bar: Progress) -> list[Row]:
    """Camera and lidar together."""
    from bench.fusion_accuracy import fusion_rows

    return fusion_rows(OUT, bar)


def ego(frames: int, bar: Progress) -> list[Row]:
    """The vehicle's state and its path ahead."""
    from bench.ego_accuracy import ego_rows

    return ego_rows(bar)


def tracking(frames: int, bar: Progress) -> list[Row]:
    """Tracks of objects; requires the recordings."""
    from bench.tracking_accuracy import tracking_rows

    return tracking_rows(DATA) if DATA.is_dir() else []


def prediction(frames: int, bar: Progress) -> list[Row]:
    """Predictions of objects."""
    from bench.prediction_accuracy import prediction_rows
    from bench.prediction_simulated import TUNED, UNSEEN, simulated_rows

    task = bar.add_task("prediction, simulated drives", total=len(TUNED) + len(UNSEEN))
    rows = simulated_rows(lambda: bar.advance(task))
    return rows + (prediction_rows(DATA) if DATA.is_dir() else [])


def trust(frames: int, bar: Progress) -> list[Row]:
    """Figures on held-out recordings, each beside its baseline."""
    from bench.trust_accuracy import trust_rows

    return trust_rows(DATA) if DATA.is_dir() else []


def replay(frames: int, bar: Progress) -> list[Row]:
    """Whole replays, including latency."""
    from bench.replay_accuracy import RUNS, replay_rows

    task = bar.add_task("replay", total=RUNS)
    return replay_rows(lambda: bar.advance(task))


PARTS: dict[str, Callable[[int, Progress], list[Row]]] = {
    "camera": camera,
    "lidar": lidar,
    "networks": networks,
    "fusion": fusion,
    "ego": ego,
    "tracking": tracking,
    "prediction": prediction,
    "trust": trust,
    "replay": replay,
}


if __name__ == "__main__":
    sys.exit(main())
