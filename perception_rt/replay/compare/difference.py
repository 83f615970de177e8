"""A difference of two runs, the result of a comparison, and its rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from perception_rt.replay.compare.leaves import Leaf, Tolerance, differing, ignore_paths

VOLATILE = (
    "/diagnostics:status.hardware_id",  # the device's name depends on the machine
    "/diagnostics:status.values[*:device].value",
)
"""Fields that may differ between two runs of the same recording by default."""
_SHOWN = 5  # number of differences per topic in the table
_LONGEST = 60
_LONGEST_IN_FILE = 1000


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference from the golden run.

    Attributes:
        kind: ``value`` (a field of a message), ``missing`` or ``extra`` (a message), ``missing_topic`` or
            ``extra_topic``, ``type``, ``undecodable`` (bytes that differ and cannot be decoded),
            ``outcome`` or ``metric``.
        where: the topic, or ``ledger.csv``, or ``metrics.json``.
        field: path of the field; empty if the difference is not in a field.
        new, golden: both values.
        log_ns: publish time, of the new run if it has the message. stamp_ns: of its header.
        note: further details.
    """

    kind: str
    where: str
    field: str = ""
    new: Any = None
    golden: Any = None
    log_ns: int | None = None
    stamp_ns: int | None = None
    note: str = ""

    def to_json(self) -> dict:
        """Return a dict for JSON; other values become text."""
        return asdict(self) | {"new": _plain(self.new), "golden": _plain(self.golden)}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | None):
        return value
    return repr(value)[:_LONGEST_IN_FILE]


@dataclass(slots=True)
class Comparison:
    """The result of comparing two runs.

    Attributes:
        compared: number of messages, ledger rows and groups of metrics compared, by topic or file.
        counts: number of differences, by (topic or file, kind).
        shown: the first few of each topic or file.
    """

    compared: Counter[str] = field(default_factory=Counter)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    shown: list[Difference] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return not self.counts

    def by_place(self) -> dict[str, dict[str, int]]:
        """Return the number of differences, by topic or file, then by kind."""
        places: dict[str, dict[str, int]] = {}
        for (where, kind), count in sorted(self.counts.items()):
            places.setdefault(where, {})[kind] = count
        return places

    def add(self, difference: Difference) -> None:
        """Count a difference, and keep it if it is one of the first of its topic or file."""
        if sum(d.where == difference.where for d in self.shown) < _SHOWN:
            self.shown.append(difference)
        self.counts[difference.where, difference.kind] += 1


@dataclass
class Judge:
    """The rules of a comparison and the number of compared items; arguments as in `compare_runs`."""

    tolerance: Tolerance
    volatile: Sequence[str]
    compared: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.ignores = ignore_paths(self.volatile)

    def leaves(self, where: str, new: Any, golden: Any, path: str = "") -> Iterator[Leaf]:
        """Yield the fields that differ and must not."""
        return differing(new, golden, self.tolerance, lambda inner: self.ignores(where, inner), path)


def comparison_table(comparison: Comparison) -> Table:
    """Return a table of the first differences of each topic or file, and the number of all."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("log time, s")
    for heading in ("what differs", "new", "golden"):
        table.add_column(heading, overflow="fold")
    for where, kinds in comparison.by_place().items():
        total = sum(kinds.values())
        table.add_row(
            "", f"[bold]{escape(where)}[/bold]: {total} in {comparison.compared[where]} compared", "", ""
        )
        rows = [difference for difference in comparison.shown if difference.where == where]
        for difference in rows:
            table.add_row(*(escape(cell) for cell in _cells(difference)))
        if total > len(rows):
            table.add_row("", f"... and {total - len(rows)} more", "", "")
    return table


def _cells(difference: Difference) -> tuple[str, str, str, str]:
    log = "" if difference.log_ns is None else f"{difference.log_ns / 1e9:.6f}"
    note = f"({difference.note})" if difference.note else ""
    name = difference.field or difference.kind.replace("_", " ")
    return log, f"{name} {note}".strip(), _short(difference.new), _short(difference.golden)


def _short(value: Any) -> str:
    text = "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
