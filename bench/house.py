"""Figures of the package as a whole.

`python -m bench.house` prints them and writes `out/bench/house.json`.
`test/unit/test_packaging.py` builds and tries sdist and wheel. colcon builds and tests a clone of what is
committed; where colcon is not installed, pip brings it into a scratch folder, and without a package index the
row says that it was not measured. The mutation score is that of the last run of `python -m bench.mutants`.
"""

from __future__ import annotations

import importlib.util
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

from bench.command import no_arguments
from bench.mutants import OUT as MUTANTS
from bench.record import OUT
from bench.rows import Row, row, table_of, write_rows

ROOT = Path(__file__).resolve().parents[1]
RUNS, LONGEST_S = 5, 900.0
COLCON = (
    "colcon-core", "colcon-cmake", "colcon-library-path", "colcon-package-selection", "colcon-pkg-config",
    "colcon-python-setup-py", "colcon-recursive-crawl", "colcon-ros", "colcon-test-result",
    "catkin_pkg", "distlib", "docutils", "empy", "pyparsing", "python-dateutil",
)  # fmt: skip
COLCON_TESTS = ("test/unit/test_launch.py", "test/unit/test_layers.py")


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
    return 1e3 * statistics.median(
        float(run([sys.executable, "-c", code])[1].split()[-1]) for _ in range(RUNS)
    )


def mypy_errors() -> int | None:
    """Return how many errors mypy finds, run as `make lint` does; None if it does not get that far."""
    text = run([sys.executable, "-m", "mypy"])[1]
    found = re.search(r"Found (\d+) error", text)
    if found is None and "Success" not in text:
        print(text[-2000:])
        return None
    return int(found.group(1)) if found else 0


def mutants_killed() -> float | None:
    """Return the share of mutants that the unit tests killed; None before the first run."""
    if not MUTANTS.is_file():
        return None
    record = json.loads(MUTANTS.read_text())
    return record["killed"] / record["total"]


def wheel_ok() -> int:
    """Return whether sdist and wheel are built, and the wheel runs in a clean environment."""
    return int(succeeds([sys.executable, "-m", "pytest", "-q", "test/unit/test_packaging.py"]))


def colcon_ok() -> int | None:
    """Return whether colcon builds a clone, with and without --symlink-install, and its tests pass there.

    Of the tests those that depend on the workspace: `COLCON_TESTS`. None where colcon cannot be installed.
    """
    with tempfile.TemporaryDirectory() as workspace:
        tools = Path(workspace, "tools")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tools, *COLCON]
        if importlib.util.find_spec("colcon_core") is None and not succeeds(pip):
            return None
        run(["git", "clone", "-q", ROOT, Path(workspace, "src", "perception_rt")])
        colcon = [sys.executable, "-m", "colcon"]
        chosen = ["--packages-select", "perception_rt"]
        for options in (["--symlink-install"], []):
            shutil.rmtree(Path(workspace, "install"), ignore_errors=True)
            if not succeeds([*colcon, "build", *chosen, *options], workspace, PYTHONPATH=str(tools)):
                return 0
            if not Path(workspace, "install/perception_rt/lib/perception_rt/camera_detector").exists():
                return 0
        tests = ["--return-code-on-test-failure", "--pytest-args", *COLCON_TESTS]
        return int(succeeds([*colcon, "test", *chosen, *tests], workspace, PYTHONPATH=str(tools)))


def package_lines() -> int:
    """Return how many lines of Python the package has."""
    files = run(["git", "ls-files", "perception_rt/*.py"])[1].split()
    return sum(len(Path(ROOT, name).read_text().splitlines()) for name in files)


def succeeds(command: Sequence[object], folder: str | Path = ROOT, **environment: str) -> bool:
    """Run a command and return whether it succeeds; print the end of what it says where it does not."""
    code, text = run(command, folder, **environment)
    if code:
        print(*command, f"ended with {code}:\n{text[-2000:]}")
    return code == 0


def run(command: Sequence[object], folder: str | Path = ROOT, **environment: str) -> tuple[int, str]:
    """Run a command; return its exit status, or 124 after `LONGEST_S`, and its output."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": LONGEST_S}
    try:
        done = subprocess.run(words, cwd=folder, env=kept | environment, **pipes)
    except subprocess.TimeoutExpired:
        return 124, f"not done after {LONGEST_S:.0f} s"
    return done.returncode, done.stdout


def main() -> int:
    """Measure, print and write."""
    no_arguments(__doc__)
    began = time.monotonic()
    rows = house_rows()
    Console().print(table_of(rows))
    write_rows(OUT / "bench" / "house.json", rows)
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if all(entry.holds is not False for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
