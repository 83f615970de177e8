"""Measure bundles on each engine, number of threads and precision.

They run on a recording, a folder of pictures, or the golden input. Prints p50, p99, calls per second and
memory of each combination, and the mean average precision at IoU 0.5 if there are labels; writes a table,
JSON and a plot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_rt.cli.bench_labels import (
    LabelledFrames,
    add_labels_argument,
    average_precision,
    of_pictures,
    of_recording,
)
from perception_rt.types import BundleError, CameraFrame, ConfigError, ModelError
from perception_rt.types.folders import is_hidden

if TYPE_CHECKING:
    from perception_rt.model.task import Task

EXAMPLES = """\
  perception-rt bench sim_camera
  perception-rt bench sim_camera mine.pt --engine onnxruntime --engine openvino --threads 1 --threads 2
  perception-rt bench pillars --on drive.mcap --out out/bench-pillars
  perception-rt bench yolo11n.pt --on coco/images/val2017 --labels instances_val2017.json --frames 500
  perception-rt bench sim_camera --on drive.mcap --labels /camera/ground_truth"""

IMAGE = "sensor_msgs/msg/Image"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PRECISIONS = ("fp32", "fp16", "int8")
CALLS = 50
MOST_FRAMES = 50  # kept in memory and used in turn
MOST_CALLS = 100_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One combination.

    Attributes:
        bundle, engine, precision, threads: what ran.
        p50_ms, p99_ms: of a call from image or cloud to boxes; None if it did not run.
        per_s: sequential calls per second.
        memory_mib: growth of the process when the engine was loaded.
        ap50: mean average precision at IoU 0.5 on the labelled frames, in [0, 1]; None without labels.
        note: why it did not run.
    """

    bundle: str
    engine: str
    precision: str
    threads: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    per_s: float | None = None
    memory_mib: float | None = None
    ap50: float | None = None
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench`."""
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="bundle files, or names of shipped bundles"
    )
    parser.add_argument(
        "--engine", action="append", metavar="NAME", help="engine to measure (default: all installed)"
    )
    parser.add_argument(
        "--threads", action="append", type=int, metavar="N", help="number of threads (default 1)"
    )
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default cpu)")
    parser.add_argument(
        "--on", type=Path, metavar="PATH", help="a recording or a folder of pictures (default: golden input)"
    )
    add_labels_argument(parser)
    parser.add_argument(
        "--frames", type=int, default=500, help="maximum number of labelled frames to score (500)"
    )
    parser.add_argument("--calls", type=int, default=CALLS, help=f"timed calls per combination ({CALLS})")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for bench.json, .txt and .png")


def run(args: argparse.Namespace) -> int:
    """Measure every combination, print the table, write the files.

    Raises:
        BundleError: a bundle cannot be read.
        ConfigError: an option is out of bounds, or there is no data to run on.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from perception_rt.model.task import TASKS

    threads = args.threads or [1]
    for name in ("calls", "frames"):
        if not 1 <= getattr(args, name) <= MOST_CALLS:
            raise ConfigError(f"--{name}={getattr(args, name)}: must be from 1 to {MOST_CALLS}")
    if min(threads) < 1 or max(threads) > 256:
        raise ConfigError(f"--threads={threads}: must be from 1 to 256")
    if args.labels and args.on is None:
        raise ConfigError(f"--labels={args.labels}: needs --on, what they label")
    console, found = Console(), []
    text, count = TextColumn("{task.description}"), MofNCompleteColumn()
    with Progress(text, BarColumn(), count, TimeRemainingColumn(), console=console, transient=True) as bar:
        for name in args.bundles:
            combinations = list(combinations_of(name, args.engine, threads, args.precision, args.device))
            archive = combinations[0][0] if combinations else None
            data = frames_of(archive, args.on) if archive else []
            labelled = labelled_of(archive, args.on, args.labels, args.frames) if archive else None
            scored = {score_key(choice) for _, choice in combinations} if labelled else set()
            total = len(combinations) * args.calls + len(scored) * (labelled.count if labelled else 0)
            task = bar.add_task(name, total=total)
            precision: dict[tuple[str, str], float | None] = {}

            def on_frame(task: Any = task) -> None:
                bar.advance(task)

            for archive, choice in combinations:
                row, runtime = measure(name, archive, choice, data, args.calls, on_frame)
                key = score_key(choice)
                if labelled and runtime is not None and runtime.has_boxes and key not in precision:
                    sensor_data = TASKS[archive.manifest.task].sensor_data
                    precision[key] = average_precision(runtime, labelled, sensor_data, on_frame)
                value = precision.get(key)
                found.append(replace(row, ap50=None if value is None else round(value, 4)))
    table = table_of(found)
    console.print(table)
    if args.out is not None:
        write(args.out, found, table)
        console.print(f"written: {args.out}")
    return 0


def score_key(choice: Any) -> tuple[str, str]:
    """Return what determines the boxes: engine and program, not threads."""
    return choice.engine, choice.program.file


def labelled_of(archive: Any, source: Path | None, labels: str | None, most: int) -> LabelledFrames | None:
    """Return the labelled frames of `source`; None if there are none.

    Raises:
        ConfigError, BagError: the given labels are missing or unreadable.
    """
    from perception_rt.model.task import TASKS

    if source is None:
        return None
    task, manifest = TASKS[archive.manifest.task], archive.manifest
    pictures = picture_files(source) if IMAGE in task.sensor_types else []
    if pictures:
        return of_pictures(pictures, Path(labels) if labels else None, manifest.classes, most)
    if labels is None:
        return None
    from perception_rt.replay.bag import Bag

    with Bag(source) as bag:
        topics = bag.of_type(*task.sensor_types)
    return of_recording(source, labels, topics, IMAGE in task.sensor_types, most)


def combinations_of(
    name: str, engines: Sequence[str] | None, threads: Sequence[int], precisions: Any, device: str
) -> list[tuple[Any, Any]]:
    """Return (archive, choice) of every combination that can run."""
    from perception_rt.model.archive import read_archive
    from perception_rt.model.choice import candidates
    from perception_rt.model.engine import EngineOptions
    from perception_rt.model.runtime import resolve_bundle, resolve_device

    archive, made = read_archive(resolve_bundle(name)), {}
    for count in threads:
        options = EngineOptions(str(resolve_device(device)), False, count)
        for engine in engines or ["auto"]:
            for choice in candidates(archive, engine, options):
                if choice.options.threads == count and choice.program.precision in (precisions or PRECISIONS):
                    made[choice.engine, choice.program.file, count] = (archive, choice)
    return list(made.values())


def measure(
    name: str,
    archive: Any,
    choice: Any,
    data: Sequence[np.ndarray],
    calls: int,
    on_call: Callable[[], None] = lambda: None,
) -> tuple[Measured, Any]:
    """Load, verify and time one combination; also return its runtime, None if it fails."""
    import torch

    from perception_rt.model.runtime import open_archive

    options = choice.options
    what = Measured(name, choice.engine, choice.program.precision, options.threads)
    torch.set_num_threads(choice.torch_threads)
    before = resident_mib()
    try:
        device = torch.device(options.device)
        runtime = open_archive(archive, device, options.half, options.threads, choice.program, choice.engine)
        runtime.check_golden(archive.path)
        times = timed(runtime, data, calls, on_call)
    except (BundleError, ModelError) as error:
        return replace(what, note=str(error)), None
    row = replace(
        what,
        p50_ms=round(float(np.percentile(times, 50)), 3),
        p99_ms=round(float(np.percentile(times, 99)), 3),
        per_s=round(1e3 / float(np.mean(times)), 2),
        memory_mib=round(max(0.0, resident_mib() - before), 1),
    )
    return row, runtime


def timed(
    runtime: Any, data: Sequence[np.ndarray], calls: int, on_call: Callable[[], None] = lambda: None
) -> list[float]:
    """Return the time of each call, ms, after one call per frame."""
    for frame in data[:3]:
        runtime(frame)
    times = []
    for index in range(calls):
        started = time.perf_counter()
        runtime(data[index % len(data)])
        times.append((time.perf_counter() - started) * 1e3)
        on_call()
    return times


def resident_mib() -> float:
    """Return the memory of this process, MiB; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def frames_of(archive: Any, source: Path | None, most: int = MOST_FRAMES) -> list[np.ndarray]:
    """Return inputs for the runtime: images (1, H, W, 3) or clouds (N, 4).

    Raises:
        ConfigError: there is no input for this bundle.
    """
    from perception_rt.model.golden import read_golden
    from perception_rt.model.task import TASKS

    if source is None:
        return [read_golden(archive.manifest.golden, archive.members)]
    task = TASKS[archive.manifest.task]
    files = picture_files(source)
    flat = bool(files) and IMAGE in task.sensor_types
    found = _pictures(files[:most], task) if flat else _recorded(source, task, most)
    if not found:
        raise ConfigError(f"--on={source}: holds no {task.golden_origin}s")
    return found


def picture_files(source: Path) -> list[Path]:
    """Return the pictures of a folder, by name; empty if it is not a folder."""
    files = sorted(source.glob("*")) if source.is_dir() else []
    return [path for path in files if path.suffix.lower() in SUFFIXES and not is_hidden(path, source)]


def _pictures(files: Sequence[Path], task: Task) -> list[np.ndarray]:
    import cv2

    images = (cv2.imread(str(path)) for path in files)
    return [task.sensor_data(CameraFrame(image, True, 0, "")) for image in images if image is not None]


def _recorded(source: Path, task: Task, most: int) -> list[np.ndarray]:
    from perception_rt.replay.bag import Bag, frame_of

    with Bag(source) as bag:
        topics = bag.of_type(*task.sensor_types)
        messages = islice(bag.messages(topics), most) if topics else ()
        return [task.sensor_data(frame_of(message)) for message in messages]


def table_of(found: Sequence[Measured]) -> Any:
    """Return the results as a table, the fastest of each bundle first."""
    from rich.table import Table

    table = Table(pad_edge=False)
    for heading in ("bundle", "engine", "weights", "threads"):
        table.add_column(heading, overflow="fold")
    for heading in ("p50 ms", "p99 ms", "per s", "MiB", "AP50"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for row in sorted(found, key=lambda row: (row.bundle, row.p50_ms is None, row.p50_ms or 0.0)):
        values = (row.p50_ms, row.p99_ms, row.per_s, row.memory_mib)
        shown = ["-" if value is None else f"{value:.1f}" for value in values]
        shown.append("-" if row.ap50 is None else f"{row.ap50:.3f}")
        table.add_row(row.bundle, row.engine, row.precision, str(row.threads), *shown, row.note)
    return table


def write(folder: Path, found: Sequence[Measured], table: Any) -> None:
    """Write `bench.json`, `bench.txt` and `bench.png`."""
    from matplotlib.figure import Figure
    from rich.console import Console

    from perception_rt.replay.environment import machine

    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "rows": [asdict(row) for row in found]}
    (folder / "bench.json").write_text(json.dumps(content, indent=2) + "\n")
    with (folder / "bench.txt").open("w") as file:
        Console(file=file, width=140).print(table)
    ran = [row for row in found if row.p50_ms is not None]
    figure = Figure(figsize=(9, 1.5 + 0.4 * len(ran)), layout="constrained")
    axes = figure.subplots()
    labels = [
        f"{row.bundle}, {row.engine}, {row.precision}, {row.threads}"
        + ("" if row.ap50 is None else f", AP50 {row.ap50:.3f}")
        for row in ran
    ]
    p50, p99 = np.array([(row.p50_ms, row.p99_ms) for row in ran], np.float64).reshape(-1, 2).T
    axes.barh(labels, p99, color="C0", alpha=0.3, label="p99")
    axes.barh(labels, p50, color="C0", label="p50")
    axes.set(xlabel="ms a call")
    axes.legend()
    figure.savefig(folder / "bench.png")
