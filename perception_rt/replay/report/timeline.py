"""Draw every message of a run on one timeline: a row per stream, and bars for sensor faults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from perception_rt.replay.report import svg
from perception_rt.replay.report.charts import words
from perception_rt.replay.report.ledger import OUTCOMES, LedgerView, StreamView, read_chunks

MOST_TICKS = 4000
"""Maximum number of messages drawn one by one; longer streams are grouped, to keep the page small."""
_WIDTH, _HEIGHT = 1000.0, 20.0
_LONGEST_REASON = 160


def timeline_of(path: Path, view: LedgerView, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows for the page, and the data for its script.

    Args:
        path: ledger.csv. view: the same ledger on its grid. metrics: content of metrics.json.

    Returns:
        `{"rows": [{"name", "svg"}], "data": {"length_ms", "outcomes", "streams"}}`; each stream has times in
        ms, indices of outcomes, and texts by position.
    """
    streams = [stream for stream in view.streams.values() if stream.node != "bag"]
    ticks = {stream.name: _Ticks() for stream in streams}
    for chunk in read_chunks(path, ["node", "topic", "arrival_ns", "age_ms", "outcome", "reason"]):
        for (node, topic), rows in chunk.groupby(["node", "topic"], sort=False):
            stream = view.streams[f"{node}: {topic}"]
            if stream.name in ticks and stream.rows <= MOST_TICKS:
                for row in rows[rows["arrival_ns"].notna()].itertuples(index=False):
                    text = row.reason[:_LONGEST_REASON] if row.reason else ""
                    if row.age_ms == row.age_ms:  # not NaN
                        text = f"{svg.number(row.age_ms)} ms old"
                    at_ms = round((int(row.arrival_ns) - view.start_ns) / 1e6)
                    ticks[stream.name].add(at_ms, OUTCOMES.index(row.outcome), text)
    for stream in streams:
        if stream.rows > MOST_TICKS:
            _add_moments(ticks[stream.name], view, stream)
    length_ms = max(round(view.duration_s * 1000), 1)
    rows = [{"name": s.name, "svg": _row(s.name, ticks[s.name], length_ms)} for s in streams]
    return {
        "rows": [*rows, *_fault_rows(metrics, length_ms)],
        "data": {
            "length_ms": length_ms,
            "outcomes": [words(outcome) for outcome in OUTCOMES],
            "streams": [ticks[stream.name].sorted() for stream in streams],
        },
    }


class _Ticks:
    """Times in ms, indices of outcomes and texts of the messages of a stream."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, str]] = []

    def add(self, at_ms: int, outcome: int, text: str) -> None:
        self.rows.append((at_ms, outcome, text))

    def sorted(self) -> dict[str, list]:
        """Return columns in order of time; `texts` index a list without repetitions."""
        self.rows.sort()
        texts = list(dict.fromkeys(text for _, _, text in self.rows))
        index = {text: place for place, text in enumerate(texts)}
        return {
            "t": [at for at, _, _ in self.rows],
            "o": [outcome for _, outcome, _ in self.rows],
            "x": [index[text] for _, _, text in self.rows],
            "texts": texts,
        }


def _add_moments(ticks: _Ticks, view: LedgerView, stream: StreamView) -> None:
    middles_ms = np.round((view.moments_s[:-1] + view.moments_s[1:]) * 500).astype(int).tolist()
    for outcome, counts in enumerate(stream.outcomes):
        for at_ms, count in zip(middles_ms, counts.tolist(), strict=True):
            if count:
                ticks.add(at_ms, outcome, f"{count} messages in this moment")


def _row(name: str, ticks: _Ticks, length_ms: int) -> Markup:
    """Draw the ticks of a stream; lost messages are taller and drawn last."""
    paths = []
    for outcome, word in enumerate(OUTCOMES):
        places = [at for at, found, _ in ticks.rows if found == outcome]
        top, height = (6, 8) if outcome == 0 else (0, 20)
        path = "".join(f"M{at / length_ms * _WIDTH:.1f} {top}v{height}" for at in places)
        if path:
            paths.append(svg.element("path", class_=f"tick-mark outcome-{word}", d=path))
    return _stretched(f"Messages of {name} over time", paths)


def _fault_rows(metrics: Mapping[str, Any], length_ms: int) -> list[dict[str, Any]]:
    found: dict[str, list[Markup]] = {}
    for one in metrics.get("health", {}).get("findings", ()):
        end_s = length_ms / 1000 if one["end_s"] is None else one["end_s"]
        begin, end = (min(max(s * 1000 / length_ms, 0), 1) * _WIDTH for s in (one["begin_s"], end_s))
        bar = svg.element(
            "rect", svg.note(one["what"]), class_=f"fault {'bad' if one['level'] == 'ERROR' else 'warn'}",
            x=begin, y=3.0, width=max(end - begin, 2.0), height=14.0,
        )  # fmt: skip
        found.setdefault(one["sensor"], []).append(bar)
    return [
        {"name": f"faults of {sensor}", "svg": _stretched(f"Faults of {sensor} over time", bars)}
        for sensor, bars in found.items()
    ]


def _stretched(label: str, marks: list[Markup]) -> Markup:
    size = f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}"
    return svg.element("svg", *marks, viewBox=size, preserveAspectRatio="none", role="img", aria_label=label)
