"""The part models: speed and accuracy of `auto` on one thread against the bundles of BASELINE.

FastestDet's baseline is what the code of BASELINE exports from the same file. The rows `avx2` are of a
process in which torch, oneDNN and OpenVINO use AVX2 at most. onnxruntime has no such setting: on a processor
with AVX-512, `auto_to_baseline` flatters where it was chosen; `openvino_to_baseline` does not.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.inputs import FASTESTDET, export_fastestdet
from bench.rows import Row, read_rows, row, write_rows
from perception_rt.model.archive import read_archive
from perception_rt.model.engine import EngineOptions, find_engine
from perception_rt.model.golden import read_golden
from perception_rt.model.runtime import Runtime, resolve_bundle

CALLS = 40
BASELINE = "c7897eb"  # the targets refer to the bundles, in format 1, of this commit
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
AVX2_FILE = "avx2.json"
TARGETS = {"fastestdet": "<= 0.40", "sim_camera": "<= 0.34", "pillars": "<= 0.30"}


def models_part(folder: Path, quick: bool) -> list[Row]:
    """Every row of the models."""
    if FASTESTDET.is_file():
        export_fastestdet(folder / "fastestdet.pt")
    calls = 5 if quick else CALLS
    rows = [entry for name in names(folder) for entry in bundle_rows(name, calls, folder)]
    command = [sys.executable, "-m", "bench.models", str(folder), str(calls)]
    subprocess.run(command, check=True, env=os.environ | AVX2)
    return rows + read_rows(folder / AVX2_FILE)[1]


def names(folder: Path) -> list[str]:
    """The models that are measured."""
    return ["sim_camera", "pillars", *(["fastestdet"] if (folder / "fastestdet.pt").is_file() else [])]


def source(name: str, folder: Path) -> str:
    """What `Runtime.open` takes for a model."""
    return str(folder / "fastestdet.pt") if name == "fastestdet" else name


def baseline(name: str, folder: Path) -> Runtime | None:
    """The bundle of BASELINE, its TorchScript run whole; None if the git history is missing."""
    path = folder / f"old_{name}.pt"
    if not path.is_file():
        wanted = "perception_rt" if name == "fastestdet" else f"perception_rt/bundles/{name}.pt"
        found = subprocess.run(
            ["git", "archive", "--format=tar", BASELINE, wanted], capture_output=True, check=False
        )
        if found.returncode:
            return None
        old = folder / "old"
        with tarfile.open(fileobj=io.BytesIO(found.stdout)) as tar:
            tar.extractall(old, filter="data")
        if name == "fastestdet":
            export_fastestdet(path, old)
        else:
            (old / wanted).rename(path)
    return Runtime.open(path, "cpu", threads=1)


def golden_data(name: str, folder: Path) -> np.ndarray:
    """The picture or cloud that a model's golden answer is of."""
    archive = read_archive(resolve_bundle(source(name, folder)))
    return read_golden(archive.manifest.golden, archive.members)


def bundle_rows(name: str, calls: int, folder: Path) -> list[Row]:
    """Time both alternately in one process, idle and beside a busy process on each core in turn."""
    data = golden_data(name, folder)
    old, auto = baseline(name, folder), Runtime.open(source(name, folder), "cpu", threads=1)
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


def avx2_rows(name: str, calls: int, folder: Path) -> list[Row]:
    """Time `auto`, OpenVINO and the baseline alternately, in a process with the settings AVX2."""
    data, old, bundle = golden_data(name, folder), baseline(name, folder), source(name, folder)
    runtimes = {"auto": Runtime.open(bundle, "cpu", threads=1)} | ({"baseline": old} if old else {})
    programs = read_archive(resolve_bundle(bundle)).manifest.programs
    if find_engine("openvino").available(EngineOptions()) is None and any(p.kind == "onnx" for p in programs):
        runtimes["openvino"] = Runtime.open(bundle, "cpu", threads=1, engine="openvino")
    print(f"models/{name}, AVX2: {runtimes['auto'].choice}")
    p50 = {key: float(np.median(times)) for key, times in alternate(runtimes, data, calls).items()}
    rows = [row(f"models/{name}/avx2/{key}_ms_p50", value, "ms") for key, value in p50.items()]
    for key in sorted(p50.keys() - {"baseline"}):
        ratio = p50[key] / p50["baseline"] if old else None
        rows.append(row(f"models/{name}/avx2/{key}_to_baseline", ratio, "ratio", TARGETS[name]))
    return rows


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


if __name__ == "__main__":
    made = Path(sys.argv[1])
    measured = [entry for name in names(made) for entry in avx2_rows(name, int(sys.argv[2]), made)]
    write_rows(made / AVX2_FILE, measured)
