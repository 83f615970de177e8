"""The part demo: the whole demo on two cores, at fixed and sustained rates, beside busy processes.

`separate` runs each node in its own process; the others run all nodes in one. Also measures how many images
and clouds the simulator renders per second on one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.models import busy_core
from bench.rows import Row, row
from perception_rt.types import PerceptionError

CORES = 2
LIMIT_S = 600.0
CAMERA, LIDAR = "/camera/image_raw", "/lidar/points"
RUNS: dict[str, tuple[str, bool, list[str]]] = {
    "fixed": ("fixed", False, []),
    "separate": ("fixed", False, ["--separate"]),
    "sustained": ("sustained", False, []),
    "busy": ("sustained", True, []),
}
SPEED = """
import sys, time, cv2
from perception_rt.sim.drive import Drive
cv2.setNumThreads(1)
drive, count = Drive(7), int(sys.argv[1])
for make, hz in ((drive.sample, 30), (drive.lidar, 10)):
    make(0.0)
    began = time.process_time()
    for number in range(count):
        make(number / hz)
    print(count / (time.process_time() - began))
"""


def demo_part(folder: Path, quick: bool, step: Callable[[float, str], None]) -> list[Row]:
    """Return every row of the demo; `step` is called with the seconds of each run."""
    rows = simulator_rows(10 if quick else 60)
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    for name, (rates, busy, options) in RUNS.items():
        began = time.monotonic()
        with ExitStack() as stack:
            for core in cores if busy else []:
                stack.enter_context(busy_core(core))
            summary = run_demo(folder / name, rates, cores, options)
        rows += demo_rows(name, summary)
        step(time.monotonic() - began, f"demo, {name}")
    return rows


def simulator_rows(count: int) -> list[Row]:
    """Measure the rendering speed of one thread, in its own process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SPEED, str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    images, clouds = map(float, done.stdout.split())
    return [
        row("demo/simulator/images", images, "1/s of a core", ">= 40"),
        row("demo/simulator/clouds", clouds, "1/s of a core", ">= 25"),
    ]


def run_demo(
    out: Path, rates: str, cores: list[int], options: Sequence[str] = ()
) -> Mapping[str, dict[str, Any]]:
    """Run the demo on these cores, and return its summary.

    Raises:
        PerceptionError: it failed; the last line of its log has the reason.
    """
    command = [sys.executable, "-m", "perception_rt.cli.main", "demo", "--rates", rates, "--out", str(out)]
    command += options
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited by child processes
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    finally:
        os.sched_setaffinity(0, before)
    if done.returncode:
        raise PerceptionError(f"demo: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    found: Mapping[str, dict[str, Any]] = json.loads((out / "summary.json").read_text())
    return found


def demo_rows(name: str, summary: Mapping[str, dict[str, Any]]) -> list[Row]:
    """The rows of one run."""
    rows = []
    for sensor, topic, asked in (("camera", CAMERA, 30), ("lidar", LIDAR, 10)):
        stream, stem = summary[topic], f"demo/{name}/{sensor}"
        share = stream["states"]["published"] / max(stream["received"], 1)
        full = f">= {asked} Hz" if name == "sustained" else ""
        rows += [
            row(f"{stem}_map50", stream["map50"], "", ">= 0.70" if sensor == "camera" else ""),
            row(f"{stem}_rate", stream["used_hz"], "Hz", full),
            row(f"{stem}_answered", share, "of the frames"),
            row(f"{stem}_age_p50", stream["age_ms"]["p50"], "ms"),
            row(f"{stem}_age_p99", stream["age_ms"]["p99"], "ms"),
        ]
    return rows
