"""Draw the charts of a run: outcomes, ages and stage times, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from perception_rt.replay.report import svg
from perception_rt.replay.report.ledger import EDGES_MS, MOMENTS, OUTCOMES, LedgerView, StreamView, Times

_HISTOGRAM_BARS = 40


def words(name: str) -> str:
    """Return the label of a state or a metric."""
    return name.replace("_", " ")


def outcomes_chart(view: LedgerView, stream: StreamView) -> Markup:
    """Draw the outcomes of the messages over their arrival time, stacked."""
    edges = view.moments_s
    counts, edges = coarser(stream.outcomes, edges, stream.rows)
    x, y = svg.x_scale(0, edges[-1]), svg.y_scale(0, max(counts.sum(0).max(), 1) * 1.05, whole=True)
    lefts, widths = _columns(x, edges)
    marks, base = [], np.zeros(counts.shape[1])
    for outcome, row in zip(OUTCOMES, counts, strict=True):
        if row.any():
            gap = np.minimum(1.0, widths / 4)
            marks.append(svg.bars(lefts, widths - gap, y(base), y(base + row), f"outcome-{outcome}"))
        base = base + row
    notes = [_outcomes_note(edges, column, counts[:, column]) for column in range(counts.shape[1])]
    totals = ", ".join(
        f"{n} {words(outcome)}" for outcome, n in zip(OUTCOMES, counts.sum(1), strict=True) if n
    )
    marks.append(svg.hover(lefts, widths, notes))
    return svg.chart(f"Messages of {stream.name} over time: {totals}", x, y, "arrival, s", "messages", marks)


def _outcomes_note(edges: np.ndarray, column: int, counts: np.ndarray) -> str:
    if not counts.any():
        return ""
    told = ", ".join(
        f"{n} {words(outcome)}" for outcome, n in zip(OUTCOMES, counts.tolist(), strict=True) if n
    )
    return f"{edges[column]:.2f} to {edges[column + 1]:.2f} s: {told}"


def coarser(counts: np.ndarray, edges: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge moments until each has enough messages; return the counts and the edges."""
    every = next(n for n in (1, 2, 4, 8) if n == 8 or rows >= 3 * MOMENTS / n)
    return counts.reshape(len(counts), -1, every).sum(2), edges[::every]


def _columns(x: svg.Scale, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    px = x(edges)
    return px[:-1], np.diff(px)


def age_chart(view: LedgerView, stream: StreamView) -> Markup:
    """Draw the age at publishing over time: median and 99th percentile, or every message of a short run."""
    return _over_time(view, stream, {"age": stream.times["age"]}, "Age at publishing", "age, ms")


def stages_chart(view: LedgerView, stream: StreamView, stages: Sequence[str]) -> Markup:
    """Draw the stage times over time."""
    times = {stage: stream.times[stage] for stage in stages}
    return _over_time(view, stream, times, "Stage times", "time, ms")


def _over_time(
    view: LedgerView, stream: StreamView, series: dict[str, Times], what: str, y_title: str
) -> Markup:
    top = max((float(np.nanmax(times.greatest)) for times in series.values()), default=1.0)
    x, y = svg.x_scale(0, view.duration_s), svg.y_scale(0, max(top, 0.1) * 1.08)
    edges = view.moments_s
    middles = x((edges[:-1] + edges[1:]) / 2)
    marks, told = [], []
    for name, times in series.items():
        median, high = times.percentile(50), times.percentile(99)
        told.append(f"{name} {svg.number(float(np.nanmedian(median)))} ms")
        if len(times.points):
            seconds, values = times.points.T
            notes = [f"{name} {svg.number(v)} ms at {s:.2f} s" for s, v in times.points.tolist()]
            marks.append(svg.line(x(seconds), y(values), f"series-{name} thin"))
            marks.append(svg.dots(x(seconds), y(values), f"series-{name}", notes))
            continue
        marks.append(svg.band(middles, y(median), y(high), f"series-{name}"))
        marks.append(svg.line(middles, y(median), f"series-{name}"))
        if len(series) == 1:
            marks.append(svg.line(middles, y(times.greatest), f"series-{name} faint"))
    if not all(len(times.points) for times in series.values()):
        marks.append(svg.hover(*_columns(x, edges), _times_notes(edges, series)))
    label = f"{what} of {stream.name} over time, usual values: {', '.join(told)}"
    return svg.chart(label, x, y, "arrival, s", y_title, marks)


def _times_notes(edges: np.ndarray, series: dict[str, Times]) -> list[str]:
    curves = {name: (times.percentile(50), times.percentile(99)) for name, times in series.items()}
    notes = []
    for column in range(MOMENTS):
        told = [
            f"{name} median {svg.number(median[column])}, p99 {svg.number(high[column])} ms"
            for name, (median, high) in curves.items()
            if np.isfinite(median[column])
        ]
        span = f"{edges[column]:.1f} to {edges[column + 1]:.1f} s: "
        notes.append(span + "; ".join(told) if told else "")
    return notes


def age_histogram(stream: StreamView) -> Markup:
    """Draw the histogram of ages at publishing."""
    return _histogram(stream, {"age": stream.times["age"]}, "Ages at publishing", "age, ms")


def stages_histogram(stream: StreamView, stages: Sequence[str]) -> Markup:
    """Draw the histogram of stage times."""
    times = {stage: stream.times[stage] for stage in stages}
    return _histogram(stream, times, "Stage times", "time, ms")


def _histogram(stream: StreamView, series: dict[str, Times], what: str, x_title: str) -> Markup:
    """Draw the shares of messages in logarithmic steps: bars for one series, outlines for several."""
    counts = {name: times.counts.sum(0) for name, times in series.items()}
    edges, counts = _in_view(counts)
    top = max((float((row / max(row.sum(), 1)).max()) for row in counts.values()), default=1.0)
    x, y = (
        svg.x_scale(edges[0], edges[-1], log=True),
        svg.y_scale(0, top * (1.25 if len(series) == 1 else 1.08) or 1.0),
    )
    lefts, widths = _columns(x, edges)
    marks = []
    for name, row in counts.items():
        shares = row / max(row.sum(), 1)
        heights = y(shares)
        if len(counts) == 1:
            marks.append(
                svg.bars(lefts, widths * 0.92, np.full(len(row), svg.BOTTOM), heights, f"series-{name}")
            )
            continue
        steps = np.repeat(heights, 2)
        marks.append(
            svg.band(np.repeat(x(edges), 2)[1:-1], np.full(len(steps), svg.BOTTOM), steps, f"series-{name}")
        )
        marks.append(svg.line(np.repeat(x(edges), 2)[1:-1], steps, f"series-{name}"))
    if len(series) == 1:
        marks += [_marked(x, q, *series.values()) for q in (50, 99)]
    marks.append(svg.hover(lefts, widths, _histogram_notes(edges, counts)))
    label = f"{what} of {stream.name}, share of messages by milliseconds"
    return svg.chart(label, x, y, x_title + " (logarithmic)", "share", marks, shares=True)


def _marked(x: svg.Scale, q: int, times: Times) -> Markup:
    """Draw a percentile of the whole run as a labelled line."""
    at = float(x(times.percentile_of_all(q)))
    upright = svg.line(np.array((at, at)), np.array((svg.BOTTOM, svg.TOP)), "mark")
    name = svg.element("text", f"p{q}", x=at - 4, y=svg.TOP + 9 + (q > 50) * 13, text_anchor="end")
    return svg.element("g", upright, name)


def _in_view(counts: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the steps that contain messages with a margin, merged to about `_HISTOGRAM_BARS` bars."""
    used = np.flatnonzero(np.sum(list(counts.values()), axis=0)) if counts else np.arange(80, 160)
    first, last = max(int(used[0]) - 3, 0), min(int(used[-1]) + 4, len(EDGES_MS) - 1)
    every = -(-(last - first) // _HISTOGRAM_BARS)
    last = min(first + every * -(-(last - first) // every), len(EDGES_MS) - 1)
    last -= (last - first) % every
    kept = {name: row[first:last].reshape(-1, every).sum(1) for name, row in counts.items()}
    return EDGES_MS[first : last + 1 : every], kept


def _histogram_notes(edges: np.ndarray, counts: dict[str, np.ndarray]) -> list[str]:
    notes = []
    for column in range(len(edges) - 1):
        told = [f"{int(row[column])} {name}" for name, row in counts.items() if row[column]]
        span = f"{svg.number(edges[column])} to {svg.number(edges[column + 1])} ms: "
        notes.append(span + ", ".join(told) if told else "")
    return notes


def curves_chart(label: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Markup:
    """Draw precision over recall, one line per class: `{name: (recall, precision)}`, at most 8 of them."""
    x, y = svg.x_scale(0, 1), svg.y_scale(0, 1.02)
    marks = []
    for place, (name, (recall, precision)) in enumerate(curves.items()):
        xs, ys = x(recall), y(precision)
        marks.append(svg.element("g", svg.note(name), svg.line(xs, ys, f"class-{place % 8}")))
    return svg.chart(
        f"Precision over recall of {label}: {', '.join(curves)}", x, y, "recall", "precision", marks
    )


def ahead_chart(label: str, seconds: Sequence[float], metres: Sequence[float]) -> Markup:
    """Draw the mean prediction error over the prediction horizon."""
    far, off = np.asarray(seconds, float), np.asarray(metres, float)
    x, y = svg.x_scale(0, float(far.max())), svg.y_scale(0, max(float(off.max()), 0.01) * 1.08)
    notes = [f"{svg.number(s)} s ahead: {svg.number(m)} m" for s, m in zip(far, off, strict=True)]
    marks = [svg.line(x(far), y(off), "series-age thin"), svg.dots(x(far), y(off), "series-age", notes)]
    return svg.chart(f"Mean error of {label} by time ahead", x, y, "time ahead, s", "mean error, m", marks)


def reliability_chart(
    label: str, confidence: Sequence[float], correct: Sequence[float], counts: Sequence[int]
) -> Markup:
    """Draw precision over confidence; the diagonal is perfect calibration."""
    x, y = svg.x_scale(0, 1), svg.y_scale(0, 1.02)
    sure, right = np.asarray(confidence, float), np.asarray(correct, float)
    notes = [
        f"confidence {s:.2f}: {r:.0%} of {n} are right" for s, r, n in zip(sure, right, counts, strict=True)
    ]
    ends = np.array((0.0, 1.0))
    order = np.argsort(sure)
    marks = [
        svg.line(x(ends), y(ends), "faint ideal"),
        svg.line(x(sure[order]), y(right[order]), "series-age thin"),
        svg.dots(x(sure), y(right), "series-age", notes),
    ]
    return svg.chart(f"Reliability of {label}", x, y, "confidence", "share that is correct", marks)
