"""Prepare the charts and figures of every stream for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from perception_rt.replay.report import charts, svg
from perception_rt.replay.report.ledger import OUTCOMES, STAGES, LedgerView, StreamView
from perception_rt.replay.report.scores import keys_of

_COLUMNS = ("p50", "p99", "max")


def stream_sections(streams: Mapping[str, Mapping], view: LedgerView) -> list[dict[str, Any]]:
    """Return the section of each stream in the ledger, in the order of metrics.json."""
    return [
        {
            "node": stream["node"],
            "topic": stream["topic"],
            "charts": list(_parts(stream, view, view.streams[name])),
        }
        for name, stream in streams.items()
        if name in view.streams
    ]


def _parts(stream: Mapping, view: LedgerView, rows: StreamView) -> Iterator[svg.Chart]:
    shown = [outcome for outcome, row in zip(OUTCOMES, rows.outcomes, strict=True) if row.any()]
    yield svg.Chart("Outcomes by arrival", charts.outcomes_chart(view, rows), keys_of("outcome", shown))
    age = rows.times["age"]
    if age.total:
        yield svg.Chart("Age at publishing", charts.age_chart(view, rows))
        if age.constant is None:  # a single bar has no information
            yield svg.Chart("Ages, as a histogram", charts.age_histogram(rows))
    stages = stages_of(rows)
    if any(rows.times[stage].constant is None for stage in stages):  # else the figures are enough
        keys = keys_of("series", stages)
        yield svg.Chart("Stage times", charts.stages_chart(view, rows, stages), keys)
        yield svg.Chart("Stage times, as a histogram", charts.stages_histogram(rows, stages), keys)
    times = {"age": stream["age_ms"], **stream["stages_ms"]}
    if any(times.values()):
        yield svg.Chart("In figures, ms", _table(times))


def stages_of(rows: StreamView) -> list[str]:
    """Return the stages with a duration; with `--inference fixed` most have none."""
    return [stage for stage in STAGES if rows.times[stage].total and rows.times[stage].constant != 0]


def _table(times: Mapping[str, Mapping | None]) -> Markup:
    head = Markup("").join(Markup('<th scope="col" class="n">{}</th>').format(column) for column in _COLUMNS)
    lines = []
    for name, found in times.items():
        if found:
            cells = (Markup('<td class="n">{}</td>').format(_cell(found.get(column))) for column in _COLUMNS)
            lines.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, Markup("").join(cells)))
    body = Markup("").join(lines)
    return Markup('<table class="slim"><thead><tr><td></td>{}</tr></thead><tbody>{}</tbody></table>').format(
        head, body
    )


def _cell(value: float | None) -> str:
    return "–" if value is None else svg.number(value)
