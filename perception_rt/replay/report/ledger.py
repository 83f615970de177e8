"""Read a ledger of any length into counts on a fixed grid, in chunks and constant memory.

The charts show the outcomes over time and the distribution of the durations;
both fit a grid of moments and logarithmic millisecond steps. Short runs also keep single values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.pipeline import STAGES
from perception_rt.types import ConfigError

TIMES = ("age", *STAGES)
UNREADABLE = "unreadable"
OUTCOMES = (*(outcome.value for outcome in Outcome), UNREADABLE)
LOST = OUTCOMES[1:]

MOMENTS = 96
STEPS_PER_DECADE = 100
EDGES_MS = np.logspace(-2, 6, 8 * STEPS_PER_DECADE + 1)
"""Bounds of the duration steps, ms; durations outside count in the first or last step."""
MOST_POINTS = 600
"""Maximum number of messages of a stream to keep single values."""
_MOST_REASONS = 40
_EXAMPLES = 6
_CHUNK_ROWS = 100_000
_OTHER = "other reasons"
_NUMBER = re.compile(r"\d+(\.\d+)?")
_COLUMNS = {
    "node": "str",
    "topic": "str",
    "number": "Int64",
    "arrival_ns": "Int64",
    "stamp_ns": "Int64",
    **{f"{stage}_ms": "float64" for stage in STAGES},
    "ended_ns": "Int64",
    "age_ms": "float64",
    "outcome": "str",
    "reason": "str",
}
_TEXTS = ("node", "topic", "outcome", "reason")


@dataclass(slots=True)
class Times:
    """Distribution of one duration of a stream's messages.

    Attributes:
        counts: (MOMENTS, steps) int32, messages by moment and step of `EDGES_MS`.
        greatest: (MOMENTS,) float64, maximum in ms; NaN without messages.
        least: minimum in ms; infinite without messages.
        points: (N, 2) float64, seconds since the start and ms of each message; empty for long runs.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros((MOMENTS, len(EDGES_MS) - 1), np.int32))
    greatest: np.ndarray = field(default_factory=lambda: np.full(MOMENTS, np.nan))
    least: float = np.inf
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def total(self) -> int:
        """Return the number of messages with this duration."""
        return int(self.counts.sum())

    @property
    def constant(self) -> float | None:
        """Return the duration in ms if all messages share it (within 1 µs), else None."""
        if not self.total or np.nanmax(self.greatest) - self.least > 1e-3:
            return None
        return self.least

    def percentile(self, q: float) -> np.ndarray:
        """Return a percentile over time, (MOMENTS,) float64 ms, within 2.4 %; NaN without messages."""
        return np.fmin(_percentile(self.counts, q), self.greatest)

    def percentile_of_all(self, q: float) -> float:
        """Return a percentile of the whole run, ms; NaN without messages."""
        return float(np.fmin(_percentile(self.counts.sum(0, keepdims=True), q)[0], np.nanmax(self.greatest)))


def _percentile(counts: np.ndarray, q: float) -> np.ndarray:
    """Return the percentile of (R, steps) counts as (R,) float64 ms; NaN without messages."""
    below = np.cumsum(counts, axis=1)
    step = (below >= np.maximum(np.ceil(q / 100 * below[:, -1]), 1)[:, None]).argmax(1)
    return np.where(below[:, -1] > 0, np.sqrt(EDGES_MS[:-1] * EDGES_MS[1:])[step], np.nan)


@dataclass(frozen=True, slots=True)
class Row:
    """One message of the ledger, times in ns and ms; None for empty fields."""

    node: str
    topic: str
    number: int | None
    arrival_ns: int | None
    stamp_ns: int | None
    ended_ns: int | None
    age_ms: float | None
    outcome: str
    reason: str


@dataclass(slots=True)
class StreamView:
    """The messages of one topic at one node.

    Attributes:
        node, topic: absolute names.
        rows: number of ledger lines.
        outcomes: (len(OUTCOMES), MOMENTS) int64, messages by outcome and moment of arrival.
        times: durations by name of `TIMES`.
        reasons: messages by outcome and reason; reasons that differ only in numbers are merged.
        oldest: messages with the greatest age at publishing, oldest first.
        examples: by outcome other than published, messages spread over the run.
    """

    node: str
    topic: str
    rows: int
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros((len(OUTCOMES), MOMENTS), np.int64))
    times: dict[str, Times] = field(default_factory=lambda: {name: Times() for name in TIMES})
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    oldest: list[Row] = field(default_factory=list)
    examples: dict[str, list[Row]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name used in metrics.json."""
        return f"{self.node}: {self.topic}"


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A whole ledger on the grid.

    Attributes:
        start_ns: time of the first arrival.
        duration_s: time to the last arrival, at least one millisecond.
        streams: streams by name, as in metrics.json; unreadable messages belong to node `bag`.
    """

    start_ns: int
    duration_s: float
    streams: dict[str, StreamView]

    @property
    def moments_s(self) -> np.ndarray:
        """Return the edges of the moments, (MOMENTS + 1,) float64, s since the start."""
        return np.linspace(0, self.duration_s, MOMENTS + 1)


def read_ledger(path: Path) -> LedgerView:
    """Read a ledger.csv in two passes: first the time range, then the messages.

    Raises:
        ConfigError: the file is not a ledger.
    """
    try:
        view = _extent(path)
        for chunk in read_chunks(path, list(_COLUMNS)):
            for (node, topic), rows in chunk.groupby(["node", "topic"], sort=False):
                _add(view, view.streams[f"{node}: {topic}"], rows)
    # What pandas raises: of its parser, for text among numbers, and for numbers that no int64 holds.
    except (OSError, ValueError, TypeError, OverflowError, KeyError) as error:
        raise ConfigError(f"{path}: not a replay's ledger: {error}") from error
    for stream in view.streams.values():
        _sort_points(stream)
    return view


def read_chunks(path: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Yield some columns of a ledger.csv, at most 100 000 rows at a time."""
    numbers = {name: [""] for name in columns if name not in _TEXTS}
    with pd.read_csv(
        path,
        usecols=columns,
        dtype={name: _COLUMNS[name] for name in columns},
        keep_default_na=False,
        na_values=numbers,
        chunksize=_CHUNK_ROWS,
    ) as chunks:
        yield from chunks


def _extent(path: Path) -> LedgerView:
    rows: Counter[tuple[str, str]] = Counter()
    first, last = [], []
    for chunk in read_chunks(path, ["node", "topic", "arrival_ns"]):
        rows.update(chunk.groupby(["node", "topic"], sort=False).size().to_dict())
        arrivals = chunk["arrival_ns"].dropna()
        if len(arrivals):
            first.append(int(arrivals.min()))
            last.append(int(arrivals.max()))
    start = min(first, default=0)
    streams = {f"{node}: {topic}": StreamView(node, topic, rows[node, topic]) for node, topic in sorted(rows)}
    return LedgerView(start, max((max(last, default=0) - start) / 1e9, 1e-3), streams)


def _add(view: LedgerView, stream: StreamView, rows: pd.DataFrame) -> None:
    unknown = set(rows["outcome"]) - set(OUTCOMES)
    if unknown:
        raise ValueError(f"outcome {min(unknown)!r} is none of {', '.join(OUTCOMES)}")
    weights = _weights(stream, rows)
    timed = rows["arrival_ns"].notna().to_numpy()
    seconds = (rows["arrival_ns"].fillna(view.start_ns) - view.start_ns).to_numpy(np.int64) / 1e9
    moments = np.clip((seconds / view.duration_s * MOMENTS).astype(int), 0, MOMENTS - 1)
    outcomes = rows["outcome"].map(OUTCOMES.index).to_numpy(np.int64)
    np.add.at(stream.outcomes, (outcomes[timed], moments[timed]), weights[timed])
    keep = stream.rows <= MOST_POINTS
    for name, times in stream.times.items():
        _add_times(times, rows[f"{name}_ms"].to_numpy(), seconds, moments, keep)
    _add_reasons(stream, rows, weights)
    _add_examples(stream, rows)


def _weights(stream: StreamView, rows: pd.DataFrame) -> np.ndarray:
    """Return the number of messages of each row, (N,) int64; unreadable messages are grouped."""
    if stream.node != "bag":
        return np.ones(len(rows), np.int64)
    return rows["number"].fillna(1).clip(lower=1).to_numpy(np.int64)


def _add_times(
    times: Times, values: np.ndarray, seconds: np.ndarray, moments: np.ndarray, keep: bool
) -> None:
    there = np.isfinite(values)
    values, seconds, moments = values[there], seconds[there], moments[there]
    steps = np.clip(np.searchsorted(EDGES_MS, values, "right") - 1, 0, len(EDGES_MS) - 2)
    np.add.at(times.counts, (moments, steps), 1)
    np.fmax.at(times.greatest, moments, values)
    times.least = float(values.min(initial=times.least))
    if keep:
        times.points = np.concatenate((times.points, np.column_stack((seconds, values))))


def _add_reasons(stream: StreamView, rows: pd.DataFrame, weights: np.ndarray) -> None:
    """Count reasons, ignoring numbers; the text of the first one is kept."""
    known = {(outcome, _NUMBER.sub("#", reason)): (outcome, reason) for outcome, reason in stream.reasons}
    told = pd.Series(weights, index=[rows["outcome"], rows["reason"]])
    told = told[told.index.get_level_values(1) != ""].groupby(level=[0, 1], sort=False).sum()
    for (outcome, reason), count in told.items():
        kind = (outcome, _NUMBER.sub("#", reason))
        if kind not in known:
            known[kind] = (outcome, reason if len(known) < _MOST_REASONS else _OTHER)
        stream.reasons[known[kind]] += int(count)


def _add_examples(stream: StreamView, rows: pd.DataFrame) -> None:
    aged = rows[rows["age_ms"].notna()].nlargest(_EXAMPLES, "age_ms")
    oldest = stream.oldest + [_row(row) for row in aged.itertuples(index=False)]
    stream.oldest = sorted(oldest, key=lambda row: -(row.age_ms or 0.0))[:_EXAMPLES]
    for outcome in set(rows["outcome"]) - {Outcome.PUBLISHED.value}:
        found = rows[rows["outcome"] == outcome]
        spread = np.unique(np.linspace(0, len(found) - 1, _EXAMPLES).astype(int))
        examples = stream.examples.get(outcome, []) + [
            _row(row) for row in found.iloc[spread].itertuples(index=False)
        ]
        spread = np.unique(np.linspace(0, len(examples) - 1, _EXAMPLES).astype(int))
        stream.examples[outcome] = [examples[i] for i in spread]


def _row(row: Any) -> Row:
    """Return a row of `DataFrame.itertuples`."""

    def number(value: Any) -> int | None:
        return None if pd.isna(value) else int(value)

    age = None if pd.isna(row.age_ms) else float(row.age_ms)
    return Row(
        node=row.node,
        topic=row.topic,
        number=number(row.number),
        arrival_ns=number(row.arrival_ns),
        stamp_ns=number(row.stamp_ns),
        ended_ns=number(row.ended_ns),
        age_ms=age,
        outcome=row.outcome,
        reason=row.reason,
    )


def _sort_points(stream: StreamView) -> None:
    """Sort by time; the ledger is ordered by the end of processing."""
    for times in stream.times.values():
        times.points = times.points[np.argsort(times.points[:, 0], kind="stable")]
