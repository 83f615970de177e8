"""Start-up times and memory, the length of README, and warnings of the documentation build.

    python -m bench.face

Writes `out/bench/face.json`. The documentation row installs Sphinx in `.venv-docs` as `make docs` does;
without a package index it is not measured.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from bench.command import command, no_arguments
from bench.inputs import DATA
from bench.rows import Row, row, table_of, write_rows

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("out/bench/face.json")
RUNS = 5
CLI = [sys.executable, "-m", "perception_rt.cli.main"]
LIGHT = ("fusion", "object_tracker", "sensor_health", "vehicle_state")
READY_S = 60.0
DISCOVERY_S = 1.0  # that `topic list` waits for other nodes
POLL_S = 0.002  # of the memory of a process that runs


def run(arguments: Sequence[str]) -> tuple[float, float]:
    """Run a process to its end; return the median wall time, ms, and the peak memory, MB."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times), peak_mb(arguments)


def peak_mb(arguments: Sequence[str]) -> float:
    """Return the most resident memory of a process, MB.

    It is read while the process runs: `ru_maxrss` would count this process, from which it was forked.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        peak = max(peak, int(found[1]) / 1024 if found else 0.0)
        time.sleep(POLL_S)
    return peak


def node_figures(node: str, sign: str) -> tuple[float, float]:
    """Start a node; return the time until its log has `sign`, s, and its resident memory then, MB."""
    arguments = [sys.executable, "-c", f"from perception_rt.node.{node} import main; main()"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RCUTILS_LOGGING_BUFFERED_STREAM": "0"}
    began = time.perf_counter()
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(sign, line):
                took = time.perf_counter() - began
                status = Path(f"/proc/{process.pid}/status").read_text()
                resident = re.search(r"VmRSS:\s+(\d+)", status)
                return took, int(resident[1]) / 1024 if resident else float("nan")
            if time.perf_counter() - began > READY_S:
                break
    finally:
        process.terminate()
        process.wait(20)
    return float("nan"), float("nan")


def model_load_s() -> float:
    """Return how long a process takes for importing torch, loading the node's bundle and its engine, s.

    The first process may have to try the engines; the second finds the choice in the cache, as a node does.
    """
    code = (
        "import time; began = time.perf_counter(); from perception_rt.model.runtime import Runtime;"
        "Runtime.open('sim_camera'); print(time.perf_counter() - began)"
    )
    words = [sys.executable, "-c", code]
    took = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    return float(took[-1])


def forecast_error(bag: Path) -> float | None:
    """Return by what share replay's early forecast of its whole time is wrong; None where it made none."""
    with TemporaryDirectory() as folder:
        config = f"{folder}/config.yaml"
        subprocess.run([*CLI, "init", str(bag), "--out", config], capture_output=True, check=True)
        words = [*CLI, "replay", str(bag), "--config", config, "--out", f"{folder}/out"]
        said = subprocess.run([*words, "--inference", "fixed:20"], capture_output=True, text=True).stdout
    found = re.search(r"about ([\d.]+) s in all.*, ([\d.]+) s in all", said, re.DOTALL)
    return abs(float(found[1]) / float(found[2]) - 1) if found else None


def docs_warnings() -> int | None:
    """Return the number of warnings of Sphinx; None where it cannot be installed or does not run."""
    libraries = ROOT / ".venv-docs"
    install = ["make", "-s", "-o", ".venv/pyvenv.cfg", ".venv-docs/installed"]
    if subprocess.run(install, cwd=ROOT, capture_output=True).returncode:
        return None
    words = [sys.executable, "-m", "sphinx", "-b", "html", "-E", "-q", str(ROOT / "docs"), "out/docs"]
    path = os.pathsep.join((str(libraries), str(ROOT)))
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    return None if done.returncode else done.stderr.count("WARNING") + done.stderr.count("ERROR")


def face_rows() -> list[Row]:
    """Return all rows."""
    help_ms, help_mb = run([*CLI, "--help"])
    bad_ms, bad_mb = run([*CLI, "up", "/nonexistent.yaml"])
    doctor_ms, doctor_mb = run([*CLI, "doctor"])
    topic_ms, topic_mb = run([*CLI, "topic", "list", "--spin-time", str(DISCOVERY_S)])
    completion_ms, completion_mb = run([*CLI, "completion", "bash"])
    light = {node: node_figures(node, "active: subscribes") for node in LIGHT}
    load_s = model_load_s()
    camera_s, camera_mb = node_figures("camera_detector", r" on (cpu|cuda), ")
    tests = [sys.executable, "-m", "pytest", "-q", "test/unit/test_cli.py"]
    fuzz = subprocess.run(tests, cwd=ROOT, capture_output=True, text=True)
    return [
        row("face/help_ms", help_ms, "ms", "< 500"),
        row("face/help_mb", help_mb, "MB", "< 80"),
        row("face/bad_argument_ms", bad_ms, "ms", "< 500"),
        row("face/bad_argument_mb", bad_mb, "MB", "< 80"),
        row("face/doctor_ms", doctor_ms, "ms", "< 500"),
        row("face/doctor_mb", doctor_mb, "MB", "< 80"),
        row("face/topic_list_beyond_discovery_ms", topic_ms - 1e3 * DISCOVERY_S, "ms", "< 500"),
        row("face/topic_list_mb", topic_mb, "MB", "< 80"),
        row("face/completion_ms", completion_ms, "ms", "< 500"),
        row("face/completion_mb", completion_mb, "MB", "< 80"),
        row("face/node_up_s", camera_s, "s"),
        row("face/node_model_load_s", load_s, "s"),
        row("face/node_up_beyond_load_s", camera_s - load_s, "s", "<= 2.5"),
        row("face/node_mb", camera_mb, "MB"),
        row("face/light_node_up_s", max(took for took, _ in light.values()), "s", "<= 2.5"),
        *(
            row(f"face/light_node_mb/{node}", resident, "MB", "<= 90")
            for node, (_, resident) in light.items()
        ),
        *(
            row(f"face/replay_forecast_error/{name}", forecast_error(DATA / "bags" / name), "", "<= 0.2")
            for name in ("kitti_city", "husky_test1.bag")
        ),
        row("face/readme_words", len((ROOT / "README.md").read_text().split()), "words", "<= 900"),
        row("face/docs_warnings", docs_warnings(), "warnings", "0"),
        row("face/cli_fuzz_tracebacks", fuzz.stdout.count("FAILED"), "tests", "0"),
    ]


def main() -> int:
    """Measure, print, write."""
    no_arguments(__doc__)

    def work() -> None:
        rows = face_rows()
        write_rows(OUT, rows)
        Console().print(table_of(rows))

    return command(work)


if __name__ == "__main__":
    sys.exit(main())
