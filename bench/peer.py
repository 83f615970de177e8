"""Compare the detector nodes with a straightforward node (`bench.peer_node`), and plot rising loads.

    python -m bench.peer                 # about eleven minutes
    python -m bench.peer --all           # every load beside a busy core too, each with both peers: 22 minutes
    python -m bench.peer --quick         # one camera and the lidar, a smoke run
    python -m bench.peer --load          # rising loads, past saturation, with a plot: 8 minutes

The same bundle, the same picture and cloud, the same cores, one after another in one run: this package, then
a peer with torch and a peer with onnxruntime in the callback. An observer measures all of them alike.
Writes `out/bench/peer.json`, or `out/bench/load.json` and `out/bench/load.png`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.command import command, use_private_graph
from bench.inputs import SIZES, cloud, model, picture
from bench.rig import SETTLE_S, Observed, Scene, busy_core, observe
from bench.rows import Row, row, table_of, write_rows
from perception_rt.codec.encode import encode_image, encode_points

OUT = Path("out/bench")
OURS, TORCH, ONNX = "perception_rt", "torch", "onnxruntime"
START_S = 9.0  # start-up of a node, for the progress bar
IDLE, BUSY = "idle", "busy_core"
OVERLOAD_HZ = 150.0


class Case(NamedTuple):
    """A load: `name` of the rows, topics, rate of each in Hz, and whether core 0 is kept busy."""

    name: str
    sensors: int
    hz: float
    busy: bool

    @property
    def size(self) -> str:
        """Name of the input."""
        return self.name.split("/")[0]


def cases(quick: bool, every: bool = False) -> list[Case]:
    """Return the loads of the comparison; several cameras come at 10 Hz each.

    Args:
        quick: one camera and the lidar. every: several cameras beside a busy core, too.
    """
    found = []
    for busy in (False,) if quick else (False, True):
        counts = (1,) if quick or (busy and not every) else (1, 2, 4, 6)
        machine = BUSY if busy else IDLE
        for size in ("720p",) if quick else SIZES:
            for count in counts:
                found.append(Case(f"{size}/{count}_cameras/{machine}", count, 30 if count == 1 else 10, busy))
        found.append(Case(f"lidar_120k/1_lidar/{machine}", 1, 10, busy))
    return found


def nodes_of(case: Case, every: bool) -> tuple[str, ...]:
    """Return the nodes to compare; unless `every`, the second peer only with one sensor."""
    return (OURS, TORCH, ONNX) if every or case.sensors == 1 else (OURS, TORCH)


def peer_rows(case: Case, seen: dict[str, Observed]) -> list[Row]:
    """Return the figures of every node in a case, and the ratios that have targets."""
    prefix, rows = f"peer/{case.name}", []
    for node, run in seen.items():
        share = run.answered / run.sent if run.sent else float("nan")
        beyond = run.age(50) - run.forward_ms if run.forward_ms is not None else float("nan")
        cpu = run.cpu_ms / run.answered if run.answered else float("nan")
        rows += [
            row(f"{prefix}/{node}_age_p50_ms", run.age(50), "ms"),
            row(f"{prefix}/{node}_age_p99_ms", run.age(99), "ms"),
            row(f"{prefix}/{node}_beyond_forward_p50_ms", beyond, "ms"),
            row(f"{prefix}/{node}_answered", share, "share"),
            row(f"{prefix}/{node}_results_per_s", run.answered / run.seconds, "1/s"),
            row(f"{prefix}/{node}_cpu_ms_per_frame", cpu, "ms"),
        ]
    ours = seen[OURS]
    for peer, target in ((TORCH, "<= 0.3333"), (ONNX, "<= 1")):
        if peer in seen:
            ratio = ours.age(50) / seen[peer].age(50)
            rows.append(row(f"{prefix}/age_p50_over_{peer}", ratio, "ratio", target))
            rows.append(row(f"{prefix}/age_p99_over_{peer}", ours.age(99) / seen[peer].age(99), "ratio"))
    if TORCH in seen and case.sensors == 1 and not case.busy and case.size in SIZES:
        beyond = [run.age(50) - (run.forward_ms or float("nan")) for run in (ours, seen[TORCH])]
        rows.append(row(f"{prefix}/beyond_forward_over_torch", beyond[0] / beyond[1], "ratio", "<= 0.25"))
        if case.size == "720p":
            values = (("p50", "<= 4"), ("p99", "<= 8"))
            for name, target in values:
                beyond_ms = ours.age(float(name[1:])) - (ours.forward_ms or float("nan"))
                rows.append(row(f"{prefix}/beyond_forward_{name}_ms", beyond_ms, "ms", target))
    return rows


def write_inputs(folder: Path) -> dict[str, tuple[str, Path, str]]:
    """Write the messages; return message type, file and bundle by the name of the input."""
    bundle, found = model(OUT), {}
    for name, size in SIZES.items():
        file = folder / f"{name}.cdr"
        file.write_bytes(encode_image(picture(size), "rgb8", 0, "camera"))
        found[name] = ("Image", file, bundle)
    file = folder / "cloud.cdr"
    file.write_bytes(encode_points(cloud("120k"), 0, "lidar"))
    return found | {"lidar_120k": ("PointCloud2", file, "pillars")}


def compare(
    args: argparse.Namespace, seconds: float, folder: Path, step: Callable[[float, str], None]
) -> Iterator[list[Row]]:
    """Run every case on its nodes."""
    inputs = write_inputs(folder)
    for case in cases(args.quick, args.all):
        kind, file, bundle = inputs[case.size]
        seen = {}
        with busy_core(0 if case.busy else None):
            for node in nodes_of(case, args.all):
                seen[node] = observe(Scene(kind, file, bundle, case.sensors, case.hz, node), seconds, folder)
                step(START_S + SETTLE_S + seconds, f"{case.name} {node}")
        yield peer_rows(case, seen)
    kind, file, bundle = inputs["720p"]
    rates = {}
    for node in (OURS, TORCH, ONNX):
        run = observe(Scene(kind, file, bundle, 1, OVERLOAD_HZ, node), seconds, folder)
        rates[node] = run.answered / run.seconds
        step(START_S + SETTLE_S + seconds, f"throughput {node}")
    yield [
        *(row(f"peer/720p/throughput/{node}_fps", rate, "frames/s") for node, rate in rates.items()),
        row("peer/720p/throughput/over_torch", rates[OURS] / rates[TORCH], "ratio", ">= 1"),
        row("peer/720p/throughput/over_onnxruntime", rates[OURS] / rates[ONNX], "ratio", ">= 1"),
    ]


def load_cases(quick: bool) -> list[Case]:
    """Return rising loads: cameras at 10 Hz each, lidars at 10 Hz each; fewer of them beside a busy core."""
    if quick:
        counts = {IDLE: ((1, 4), (1, 2))}
    else:
        counts = {IDLE: ((1, 2, 3, 4, 6, 8), (1, 2)), BUSY: ((1, 4, 8), (1,))}
    found = []
    for machine, (cameras, lidars) in counts.items():
        busy = machine == BUSY
        found += [Case(f"720p/{count}_cameras/{machine}", count, 10, busy) for count in cameras]
        found += [Case(f"lidar_120k/{count}_lidars/{machine}", count, 10, busy) for count in lidars]
    return found


def load(
    args: argparse.Namespace, seconds: float, folder: Path, step: Callable[[float, str], None]
) -> Iterator[list[Row]]:
    """Measure rising loads; past saturation the age must stay below two periods and a forward."""
    inputs, points = write_inputs(folder), []
    for case in load_cases(args.quick):
        kind, file, bundle = inputs[case.size]
        with busy_core(0 if case.busy else None):
            for node in (OURS, TORCH):
                run = observe(Scene(kind, file, bundle, case.sensors, case.hz, node), seconds, folder)
                points.append((case, node, run))
                step(START_S + SETTLE_S + seconds, f"{case.name} {node}")
                prefix = f"load/{case.name}/{node}"
                limit = 2 * 1000 / case.hz + case.sensors * (run.forward_ms or 0)
                target = f"<= {limit:.4g}" if node == OURS else ""
                yield [
                    row(f"{prefix}_results_per_s", run.answered / run.seconds, "1/s"),
                    row(f"{prefix}_answered", run.answered / max(1, run.sent), "share"),
                    row(f"{prefix}_age_p50_ms", run.age(50), "ms"),
                    row(f"{prefix}_age_p99_ms", run.age(99), "ms", target),
                ]
    plot(points, OUT / "load.png")


def plot(points: Sequence[tuple[Case, str, Observed]], path: Path) -> None:
    """Draw the age's 99th percentile and the share of answered frames over the number of cameras."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (ages, shares) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for busy, style in ((False, "-"), (True, "--")):
        for node, colour in ((OURS, "tab:blue"), (TORCH, "tab:orange")):
            runs = [
                (case.sensors, run)
                for case, which, run in points
                if which == node and case.busy == busy and case.size == "720p"
            ]
            if not runs:
                continue
            label = f"{node}, {'beside a busy core' if busy else 'idle'}"
            counts = [count for count, _ in runs]
            ages.plot(counts, [run.age(99) for _, run in runs], style, color=colour, marker="o", label=label)
            answered = [run.answered / max(1, run.sent) for _, run in runs]
            shares.plot(counts, answered, style, color=colour, marker="o", label=label)
    ages.set(xlabel="cameras, 720p at 10 Hz", ylabel="age p99, ms", yscale="log")
    shares.set(xlabel="cameras, 720p at 10 Hz", ylabel="answered frames", ylim=(0, 1.05))
    ages.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load", action="store_true", help="rising loads instead of the comparison")
    parser.add_argument("--all", action="store_true", help="every load and peer of the comparison")
    parser.add_argument("--seconds", type=float, help="of each measurement (default 10, with --load 8)")
    parser.add_argument("--quick", action="store_true", help="a short run; its figures are not meaningful")
    args = parser.parse_args(argv)
    use_private_graph()
    return command(lambda: measure(args, Console()))


def measure(args: argparse.Namespace, console: Console) -> None:
    """Run the comparison or the load with a progress bar."""
    if args.load:
        part, name, runs = load, "load", 2 * len(load_cases(args.quick))
    else:
        part, name = compare, "peer"
        runs = 3 + sum(len(nodes_of(case, args.all)) for case in cases(args.quick, args.all))
    seconds = args.seconds or (8.0 if args.load else 10.0)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console) as bar:
        task = bar.add_task("start", total=runs * (START_S + SETTLE_S + seconds))
        for found in part(
            args,
            seconds,
            Path(folder),
            lambda spent, what: bar.update(task, advance=spent, description=what),
        ):
            rows += found
            write_rows(OUT / f"{name}.json", rows)  # keep the results if a later case fails
    console.print(table_of(rows))
    console.print(f"written: {OUT / f'{name}.json'}")


if __name__ == "__main__":
    sys.exit(main())
