"""bench/RESULTS.md and bench/load.png: the committed record, made from the results of the latest runs."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path

from bench.command import no_arguments
from bench.rows import Row, read_rows, show

RESULTS = Path(__file__).with_name("RESULTS.md")
OUT = Path("out")
COMMANDS = {"bench": "make bench", "accuracy": "make accuracy"}
HEAD = """\
# Results

Written by `python -m bench.record` from the files that `make bench` and `make accuracy` left in `out/`.
Absolute times are those of the machine named; ratios are measured side by side and travel better.
"""


def write(out: Path = OUT, results: Path = RESULTS) -> Path:
    """Write the record of every result file below `out`, keep other sections, and return its path.

    The plot of rising loads goes beside it.
    """
    sections = recorded(results.read_text()) if results.is_file() else {}
    for kind in COMMANDS:
        for path in sorted((out / kind).glob("*.json")):
            sections[_name(kind, path.stem)] = section(kind, path)
    results.write_text("\n".join([HEAD, *(sections[name] for name in sorted(sections))]))
    if (plot := out / "bench" / "load.png").is_file():
        shutil.copy(plot, results.with_name(plot.name))
    return results


def recorded(text: str) -> dict[str, str]:
    """The sections of a record, by name: part and command."""
    parts = text.split("\n## ")[1:]
    return {part.partition(",")[0]: f"## {part.strip()}\n" for part in parts}


def _name(kind: str, part: str) -> str:
    return f"{part}: `{COMMANDS[kind]}`"


def section(kind: str, path: Path) -> str:
    """One result file as Markdown."""
    machine, rows = read_rows(path)
    day = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).date()
    lines = [
        f"## {_name(kind, path.stem)}, {day}",
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        "| figure | value | tuned | baseline | unit | target | holds |",
        "|---|---:|---:|---:|---|---|---|",
        *(line(row) for row in rows),
        "",
    ]
    return "\n".join(lines)


def line(row: Row) -> str:
    """One row as Markdown."""
    holds = {None: "", True: "yes", False: "**no**"}[row.holds]
    tuned, baseline = ("" if value is None else show(value) for value in (row.tuned_value, row.baseline))
    return f"| {row.name} | {show(row.value)} | {tuned} | {baseline} | {row.unit} | {row.target} | {holds} |"


if __name__ == "__main__":
    no_arguments(__doc__)
    print(write())
    sys.exit(0)
