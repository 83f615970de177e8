"""Measure speed and memory: prints tables, writes out/bench/<part>.json.

One part today: camera. With --record the figures become the committed record, bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import record
from bench.command import command
from bench.inputs import SIZES, model
from bench.rows import Row, table_of, write_rows
from perception_rt.node.graph import transport_environment

OUT = Path("out/bench")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--bundle", help="what to measure (default: FastestDet; without data: sim_camera)")
    parser.add_argument("--soak", type=float, default=600.0, metavar="SECONDS", help="length of the long run")
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures mean little")
    parser.add_argument("--record", action="store_true", help="write bench/RESULTS.md")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    args = build_parser().parse_args(argv)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(100, 200))
    return command(lambda: measure_all(args, Console()))


def measure_all(args: argparse.Namespace, console: Console) -> None:
    """Every part."""
    rows = camera(args, console)
    write_rows(OUT / "camera.json", rows)
    console.print(table_of(rows))
    console.print(f"written: {OUT / 'camera.json'}")
    if args.record:
        console.print(f"written: {record.write()}")


def camera(args: argparse.Namespace, console: Console) -> list[Row]:
    """The part camera."""
    from bench.camera import Length, measure, soak
    from bench.micro import micro_rows
    from bench.pipeline import detector
    from bench.usual_node import usual_rows
    from perception_rt.node.run import keep_large_blocks

    os.environ.update(transport_environment())
    keep_large_blocks()
    length = Length(2, 1.0, 3.0, min(args.soak, 10.0)) if args.quick else Length(soak_s=args.soak)
    bundle = args.bundle or model(OUT)
    console.print(f"model {bundle}; about {length.total_s(len(SIZES)) / 60 + 1:.0f} minutes")
    rows = micro_rows(args.quick)
    # Refreshed by hand, as a bar that draws by itself takes its share of the interpreter's lock.
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, console=console, auto_refresh=False) as bar,
    ):
        task = bar.add_task("start", total=length.total_s(len(SIZES)))

        def step(seconds: float, what: str) -> None:
            bar.update(task, advance=seconds, description=what, refresh=True)

        rates = {}
        with detector(bundle, list(SIZES.values())) as node:
            for name in SIZES:
                found, *rates[name] = measure(node, name, dict(os.environ), Path(folder), length, step)
                rows += found
            rows += soak(node, rates["720p"][0], dict(os.environ), Path(folder), length.soak_s, step)
        for name in SIZES:
            file = Path(folder, f"{name}.cdr")
            rows += usual_rows(f"camera/{name}", bundle, file, *rates[name], length.paced_s)
            step(2 * length.paced_s, f"{name} usual node")
    return sorted(rows, key=lambda entry: entry.name.rpartition("/")[0])


if __name__ == "__main__":
    sys.exit(main())
