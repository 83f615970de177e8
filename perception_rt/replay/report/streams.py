"""The charts and figures of every stream, for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from markupsafe import Markup

from perception_rt.replay.report import charts, svg
from perception_rt.replay.report.ledger import OUTCOMES, STAGES, LedgerView, StreamView
from perception_rt.replay.report.scores import legend

_COLUMNS = ("p50", "p99", "max")


def stream_sections(streams: Mapping[str, Mapping], view: LedgerView) -> list[dict[str, object]]:
    """What the page shows of each stream that the ledger knows, in the order of metrics.json."""
    return [
        {
            "node": stream["node"],
            "topic": stream["topic"],
            "charts": list(_parts(stream, view, view.streams[name])),
        }
        for name, stream in streams.items()
        if name in view.streams
    ]


def _parts(stream: Mapping, view: LedgerView, rows: StreamView) -> Iterator[dict[str, object]]:
    shown = [outcome for outcome, row in zip(OUTCOMES, rows.outcomes, strict=True) if row.any()]
    yield _part("Outcomes by arrival", charts.outcomes_chart(view, rows), legend("outcome", shown))
    age = rows.times["age"]
    if age.total:
        yield _part("Age at publishing", charts.age_chart(view, rows))
        if age.constant is None:  # one bar would say nothing
            yield _part("Ages, as a histogram", charts.age_histogram(rows))
    stages = stages_of(rows)
    if any(rows.times[stage].constant is None for stage in stages):  # else the figures say it all
        told = legend("series", stages)
        yield _part("Stage times", charts.stages_chart(view, rows, stages), told)
        yield _part("Stage times, as a histogram", charts.stages_histogram(rows, stages), told)
    times = {"age": stream["age_ms"], **stream["stages_ms"]}
    if any(times.values()):
        yield _part("In figures, ms", _table(times))


def stages_of(rows: StreamView) -> list[str]:
    """The stages that took some time; with `--inference fixed` most take none."""
    return [stage for stage in STAGES if rows.times[stage].total and rows.times[stage].constant != 0]


def _part(title: str, body: Markup, told: str = "") -> dict[str, object]:
    return {"title": title, "svg": body, "legend": told}


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
