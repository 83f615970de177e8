"""Result rows: a table to read, JSON for programs."""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from rich.table import Table

from perception_rt.replay.environment import machine

COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "": operator.eq}
TARGET = re.compile(r"(>=|<=|>|<|)\s*(\d+(?:\.\d+)?(?:e-?\d+)?)\b")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: slashes from the general to the particular, e.g. ``camera/720p/throughput_ratio``.
        value: None if it could not be measured.
        unit: of the value.
        target: a comparison and a number, then words if any (``<= 6 ms at 720p``); "" where none is asked.
        holds: whether the value meets the target; None without one.
        tuned_value: the same figure with parameters chosen on this data too; None where `value` is
            not one of data left out.
        baseline: the figure of the naive way, by the same protocol.
        tuned_on: what the parameters come from.
    """

    name: str
    value: float | None
    unit: str
    target: str
    holds: bool | None
    tuned_value: float | None = None
    baseline: float | None = None
    tuned_on: str = ""


def row(name: str, value: float | None, unit: str, target: str = "") -> Row:
    """Return a row that checks its value against the target and rounds it to five significant digits.

    Raises:
        ValueError: the target does not start with a comparison and a number.
    """
    return Row(name, rounded(value), unit, target, meets(value, target))


def against(
    name: str,
    value: float | None,
    unit: str,
    baseline: float,
    *,
    most: bool = False,
    tuned_value: float | None = None,
    tuned_on: str = "",
) -> Row:
    """Return a row that must be as good as its baseline: not above it if `most`, else not below."""
    target = f"{'<=' if most else '>='} {baseline:.5g} of the baseline"
    holds = meets(value, target)
    return Row(name, rounded(value), unit, target, holds, rounded(tuned_value), rounded(baseline), tuned_on)


def rounded(value: float | None) -> float | None:
    """Round to five significant digits; None if not finite."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def meets(value: float | None, target: str) -> bool | None:
    """Return whether `value` meets `target`; None without a target. A missing value does not meet it."""
    if not target:
        return None
    match = TARGET.match(target)
    if match is None:
        raise ValueError(f"target={target!r}: must start like '>= 0.90', '<= 6 ms' or '0'")
    return value is not None and math.isfinite(value) and bool(COMPARE[match[1]](value, float(match[2])))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write `{"machine": {...}, "rows": [...]}` atomically."""
    names = [entry.name for entry in rows]
    if len(set(names)) != len(names):
        raise ValueError(f"rows: twice {sorted({name for name in names if names.count(name) > 1})}")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "rows": [_fields(entry) for entry in rows]}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def _fields(entry: Row) -> dict[str, object]:
    """Return a row as JSON, without unused baseline fields."""
    values = asdict(entry)
    return values if entry.baseline is not None else dict(list(values.items())[:5])


def read_rows(path: Path) -> tuple[dict, list[Row]]:
    """Machine and rows of a file that `write_rows` wrote."""
    content = json.loads(path.read_text())
    return content["machine"], [Row(**entry) for entry in content["rows"]]


def show(value: float | None) -> str:
    """Return a value as shown in tables."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def table_of(rows: Sequence[Row]) -> Table:
    """Return the rows as a table with a section for each name prefix; it fits any terminal."""
    compared = any(entry.baseline is not None for entry in rows)
    headings = ("figure", "value", *(("tuned", "baseline") if compared else ()), "unit", "target", "")
    table = Table(pad_edge=False)
    for heading in headings:
        right = heading in ("value", "tuned", "baseline")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    marks = {None: "", True: "[green]holds[/]", False: "[red]fails[/]"}
    for stem, section in groupby(rows, key=lambda entry: entry.name.rpartition("/")[0]):
        table.add_section()
        table.add_row(f"[bold]{stem}[/]")
        for entry in section:
            name = "  " + entry.name.rpartition("/")[2]
            more = (show(entry.tuned_value), show(entry.baseline)) if compared else ()
            table.add_row(name, show(entry.value), *more, entry.unit, entry.target, marks[entry.holds])
    return table
