"""Figures of the package as a whole.

`python -m bench.house` prints them and writes `out/bench/house.json`.
`test/unit/test_packaging.py` builds and tries sdist and wheel; colcon builds a clone where it is
installed (`pip install colcon-common-extensions`), else the row says that it was not measured. The mutation
score is that of the last run of `python -m bench.mutants`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.mutants import OUT as MUTANTS
from bench.record import OUT
from bench.rows import Row, row, table_of, write_rows

ROOT = Path(__file__).resolve().parents[1]
RUNS = 5


def house_rows() -> list[Row]:
    """Return every row of this file."""
    return [
        row("house/import_ms", import_ms(), "ms", "<= 300"),
        row("house/mypy_errors", mypy_errors(), "errors", "<= 0"),
        row("house/mutants_killed", mutants_killed(), "share", ">= 0.90"),
        row("house/wheel_ok", wheel_ok(), "0 or 1", ">= 1"),
        row("house/colcon_ok", colcon_ok(), "0 or 1", ">= 1"),
        row("house/package_lines", package_lines(), "lines", "<= 31513"),
    ]


def import_ms() -> float:
    """Return the median time of `import perception_rt` in a new interpreter."""
    code = (
        "import time; began = time.perf_counter(); import perception_rt; print(time.perf_counter() - began)"
    )
    return 1e3 * statistics.median(float(run([sys.executable, "-c", code])[1]) for _ in range(RUNS))


def mypy_errors() -> int:
    """Return the number of errors that mypy finds in the whole package, no folder left out."""
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
        config.write("[mypy]\nignore_missing_imports = true\n")
        config.flush()
        command = [sys.executable, "-m", "mypy", "--config-file", config.name, "perception_rt"]
        found = re.search(r"Found (\d+) error", run(command)[1])
    return int(found.group(1)) if found else 0


def mutants_killed() -> float | None:
    """Return the share of mutants that the unit tests killed; None before the first run."""
    if not MUTANTS.is_file():
        return None
    record = json.loads(MUTANTS.read_text())
    return record["killed"] / record["total"]


def wheel_ok() -> int:
    """Return whether sdist and wheel are built, and the wheel runs in a clean environment."""
    return int(run([sys.executable, "-m", "pytest", "-q", "test/unit/test_packaging.py"])[0] == 0)


def colcon_ok() -> int | None:
    """Return whether colcon builds a clone, with and without --symlink-install; None without colcon."""
    if shutil.which("colcon") is None:
        return None
    with tempfile.TemporaryDirectory() as workspace:
        run(["git", "clone", "-q", ROOT, Path(workspace, "src", "perception_rt")])
        for options in ([], ["--symlink-install"]):
            shutil.rmtree(Path(workspace, "install"), ignore_errors=True)
            command = ["colcon", "build", "--packages-select", "perception_rt", *options]
            if run(command, workspace)[0]:
                return 0
            if not Path(workspace, "install/perception_rt/lib/perception_rt/camera_detector").exists():
                return 0
    return 1


def package_lines() -> int:
    """Return how many lines of Python the package has."""
    files = run(["git", "ls-files", "perception_rt/*.py"])[1].split()
    return sum(len(Path(ROOT, name).read_text().splitlines()) for name in files)


def run(command: Sequence[object], folder: str | Path = ROOT) -> tuple[int, str]:
    """Run a command; return its exit status and its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, timeout=900)
    return done.returncode, done.stdout


def main() -> int:
    """Measure, print and write."""
    began = time.monotonic()
    rows = house_rows()
    Console().print(table_of(rows))
    write_rows(OUT / "bench" / "house.json", rows)
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if all(entry.holds is not False for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
