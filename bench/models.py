"""The part models: speed and accuracy of `auto` on one thread against the bundles of BASELINE.

FastestDet is compared with its own TorchScript program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.inputs import FASTESTDET, export_fastestdet
from bench.rows import Row, row
from perception_rt.model.archive import read_archive
from perception_rt.model.golden import read_golden
from perception_rt.model.runtime import Runtime, resolve_bundle

CALLS = 40
BASELINE = "c7897eb"  # the targets refer to the bundles, in format 1, of this commit
TARGETS = {"fastestdet": "<= 0.40", "sim_camera": "<= 0.34", "pillars": "<= 0.30"}


def models_part(folder: Path, quick: bool) -> list[Row]:
    """Every row of the models."""
    names = {"sim_camera": "sim_camera", "pillars": "pillars"}
    if FASTESTDET.is_file():
        names["fastestdet"] = str(export_fastestdet(folder / "fastestdet.pt"))
    calls = 5 if quick else CALLS
    return [entry for name, bundle in names.items() for entry in bundle_rows(name, bundle, calls, folder)]


def baseline(name: str, bundle: str, folder: Path) -> Runtime | None:
    """Return the old bundle, or the TorchScript of `bundle`; None if the git history is missing."""
    if name == "fastestdet":
        kinds = {program.kind for program in read_archive(Path(bundle)).manifest.programs}
        return (
            Runtime.open(bundle, "cpu", threads=1, engine="torchscript") if "torchscript" in kinds else None
        )
    found = subprocess.run(
        ["git", "show", f"{BASELINE}:perception_rt/bundles/{name}.pt"], capture_output=True, check=False
    )
    if found.returncode:
        return None
    path = folder / f"{name}.pt"
    path.write_bytes(found.stdout)
    return Runtime.open(path, "cpu", threads=1)


def bundle_rows(name: str, bundle: str, calls: int, folder: Path) -> list[Row]:
    """Time both alternately in one process, idle and beside a busy process on each core in turn."""
    archive = read_archive(resolve_bundle(bundle))
    data = read_golden(archive.manifest.golden, archive.members)
    old, auto = baseline(name, bundle, folder), Runtime.open(bundle, "cpu", threads=1)
    runtimes = {"auto": auto} | ({"old": old} if old else {})
    idle = alternate(runtimes, data, calls)
    worst = 0.0
    for core in sorted(os.sched_getaffinity(0)):
        with busy_core(core):
            times = alternate({"auto": auto}, data, calls)["auto"]
        worst = max(worst, float(np.percentile(times, 99)))
    stem, p50 = f"models/{name}", {key: float(np.median(times)) for key, times in idle.items()}
    ratio = p50["auto"] / p50["old"] if old else None
    print(f"{stem}: {auto.choice}")
    return [
        row(f"{stem}/auto_ms_p50", p50["auto"], "ms"),
        row(f"{stem}/baseline_ms_p50", p50.get("old"), "ms"),
        row(f"{stem}/auto_to_baseline", ratio, "ratio", TARGETS[name]),
        row(f"{stem}/score_difference", score_difference(old(data), auto(data)) if old else None, "score"),
        row(f"{stem}/busy_p99_to_idle_p50", worst / p50["auto"], "ratio", "<= 2 plus the core's fair share"),
    ]


def score_difference(first: Any, second: Any) -> float:
    """Return the largest difference of the sorted scores."""
    count = min(len(first[1]), len(second[1]))
    return float(np.abs(np.sort(first[1])[-count:] - np.sort(second[1])[-count:]).max(initial=0))


def alternate(runtimes: dict[str, Any], data: np.ndarray, calls: int) -> dict[str, list[float]]:
    """Return the time of each call, ms, alternating between the runtimes."""
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    for index in range(calls + 2):
        for name, runtime in runtimes.items():
            started = time.perf_counter()
            runtime(data)
            if index >= 2:
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


@contextmanager
def busy_core(core: int) -> Iterator[None]:
    """Run a process that keeps one core busy."""
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", code, str(core)])
    try:
        yield
    finally:
        other.kill()
        other.wait()
