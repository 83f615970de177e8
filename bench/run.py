"""Measure speed and memory: prints tables, writes out/bench/<part>.json.

With --record the figures become the committed record, bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import record
from bench.command import command, use_private_graph
from bench.inputs import CITY, CLOUDS, DATA, SIZES, model
from bench.rows import Row, table_of, write_rows

OUT = Path("out/bench")
PARTS = ("camera", "lidar", "state", "replay", "models", "demo")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="measure this part (default: all)")
    parser.add_argument("--bundle", help="the camera's (default: FastestDet; without data: sim_camera)")
    parser.add_argument("--soak", type=float, default=600.0, metavar="SECONDS", help="length of the long run")
    parser.add_argument("--quick", action="store_true", help="a short run; its figures are not meaningful")
    parser.add_argument("--record", action="store_true", help="write bench/RESULTS.md")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    use_private_graph()
    return command(lambda: measure_all(args, Console()))


def measure_all(args: argparse.Namespace, console: Console) -> None:
    """Every part that was asked for."""
    from perception_rt.node.run import keep_large_blocks  # rclpy: after the environment is set

    keep_large_blocks()
    for part in args.part or PARTS:
        rows = {
            "camera": camera,
            "lidar": lidar,
            "state": state,
            "replay": replay,
            "models": models,
            "demo": demo,
        }[part](args, console)
        rows = sorted(rows, key=lambda entry: entry.name.rpartition("/")[0])
        path = OUT / f"{part}.json"
        write_rows(path, rows)
        console.print(table_of(rows))
        console.print(f"written: {path}")
    if args.record:
        console.print(f"written: {record.write()}")


def camera(args: argparse.Namespace, console: Console) -> list[Row]:
    """The part camera."""
    from bench.camera import camera_part
    from bench.stream import Length

    length = Length(2, 1.0, 3.0, min(args.soak, 10.0)) if args.quick else Length(soak_s=args.soak)
    bundle = args.bundle or model(OUT)
    console.print(f"camera: {bundle}")
    total = length.total_s(len(SIZES)) + length.soak_s
    return with_bar(
        console, total, lambda folder, step: camera_part(bundle, folder, length, args.quick, step)
    )


def lidar(args: argparse.Namespace, console: Console) -> list[Row]:
    """The part lidar."""
    from bench.lidar import BUNDLES, lidar_part
    from bench.stream import Length

    length = Length(2, 1.0, 3.0) if args.quick else Length()
    total = length.total_s(len(CLOUDS) * len(BUNDLES))
    return with_bar(console, total, lambda folder, step: lidar_part(folder, length, args.quick, step))


def state(args: argparse.Namespace, console: Console) -> list[Row]:
    """The part state: ego filter, tracker, predictor, each on one core."""
    from bench.ego_speed import ego_speed_rows
    from bench.predictor_speed import predictor_rows
    from bench.tracker_speed import tracker_rows

    console.print("state: about a minute")
    return [
        *ego_speed_rows(args.quick),
        *tracker_rows(DATA if DATA.is_dir() else None),
        *predictor_rows(),
    ]


def replay(args: argparse.Namespace, console: Console) -> list[Row]:
    """The part replay; on the recorded drive alone."""
    if not CITY.is_dir():
        console.print("replay: the recorded drive is not here (../shared/data): nothing is measured")
        return []
    from bench.replay import GRAPHS, replay_part

    pairs, times, memory_times = (1, 2, 3) if args.quick else (5, 10, 240)
    bundle = args.bundle or model(OUT)
    total = len(GRAPHS) * pairs * 3 * times * 0.6 + memory_times * 0.7
    return with_bar(
        console, total, lambda folder, step: replay_part(bundle, folder, pairs, times, memory_times, step)
    )


def models(args: argparse.Namespace, console: Console) -> list[Row]:
    """The part models."""
    from bench.models import models_part

    console.print("models: about two minutes")
    with tempfile.TemporaryDirectory() as folder:
        return models_part(Path(folder), args.quick)


def demo(args: argparse.Namespace, console: Console) -> list[Row]:
    """The part demo."""
    from bench.demo import RUNS, demo_part

    return with_bar(console, len(RUNS) * 60.0, lambda folder, step: demo_part(folder, args.quick, step))


def with_bar(
    console: Console, total_s: float, part: Callable[[Path, Callable[[float, str], None]], list[Row]]
) -> list[Row]:
    """Run a part with a folder of its own and a bar of seconds."""
    console.print(f"about {total_s / 60 + 1:.0f} minutes")
    # Refreshed by hand, as a bar that draws by itself takes its share of the interpreter's lock.
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, console=console, auto_refresh=False) as bar,
    ):
        task = bar.add_task("start", total=total_s)

        def step(seconds: float, what: str) -> None:
            bar.update(task, advance=seconds, description=what, refresh=True)

        return part(Path(folder), step)


if __name__ == "__main__":
    sys.exit(main())
