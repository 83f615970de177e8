"""The main plots of a run as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perception_rt.replay.report.charts import coarser, words
from perception_rt.replay.report.colours import LIGHT
from perception_rt.replay.report.ledger import EDGES_MS, OUTCOMES, LedgerView, StreamView, Times
from perception_rt.replay.report.scores import curves_by_topic
from perception_rt.replay.report.streams import stages_of
from perception_rt.replay.report.svg import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_STREAMS = 8
_ROW_INCHES = 2.2
_ABOVE = {
    "fontsize": 6.5,
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "ncols": 4,
    "frameon": False,
    "borderaxespad": 0,
}


def write_figure(path: Path, title: str, verdict: str, view: LedgerView, scores: Mapping) -> None:
    """Write a PNG: a row a stream with outcomes, ages and stage times; then precision over recall.

    Args:
        path: of the picture.
        title, verdict: what stands above.
        view: the run's ledger; of more streams than eight, those with the most messages are drawn.
        scores: of metrics.json.
    """
    from matplotlib.figure import Figure  # half a second, and only who plots needs it

    streams = sorted(
        (s for s in view.streams.values() if s.node != "bag"), key=lambda s: (-s.outcomes.sum(), s.name)
    )[:_MOST_STREAMS]
    streams.sort(key=lambda stream: stream.name)
    curves = list(curves_by_topic(scores).items())[:4]
    rows = len(streams) + bool(curves)
    figure = Figure(figsize=(14, 0.9 + _ROW_INCHES * max(rows, 1)), layout="constrained")
    figure.suptitle(f"{title}\n{textwrap.fill(verdict, 150)}", fontsize=11)
    parts = figure.subfigures(max(rows, 1), 1, squeeze=False)[:, 0]
    for part, stream in zip(parts, streams, strict=False):
        part.suptitle(stream.name, fontsize=9, x=0.01, ha="left", weight="bold")
        outcomes, ages, spread, stages = part.subplots(1, 4)
        _plot_outcomes(outcomes, view, stream)
        _plot_over_time(ages, view, {"age": stream.times["age"]}, "age, ms")
        _plot_spread(spread, stream.times["age"])
        _plot_over_time(stages, view, {n: stream.times[n] for n in stages_of(stream)}, "stage times, ms")
    if curves:
        for axes, (topic, lines) in zip(np.ravel(parts[-1].subplots(1, 4)), curves, strict=False):
            _plot_curves(axes, topic, lines)
        for axes in parts[-1].axes[len(curves) :]:
            axes.set_axis_off()
    for axes in figure.get_axes():
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.label.set_size(8)
        axes.yaxis.label.set_size(8)
    figure.savefig(path, dpi=110)


def _plot_outcomes(axes: Axes, view: LedgerView, stream: StreamView) -> None:
    outcomes, edges = coarser(stream.outcomes, view.moments_s, stream.rows)
    base = np.zeros(outcomes.shape[1])
    for outcome, row in zip(OUTCOMES, outcomes, strict=True):
        if row.any():
            label = f"{row.sum()} {words(outcome)}"
            axes.bar(
                edges[:-1],
                row,
                np.diff(edges),
                base,
                align="edge",
                color=LIGHT[f"outcome-{outcome}"],
                label=label,
            )
        base = base + row
    axes.set(xlabel="arrival, s", ylabel="messages")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if base.any():
        axes.legend(**_ABOVE)


def _plot_over_time(axes: Axes, view: LedgerView, series: Mapping[str, Times], label: str) -> None:
    edges = view.moments_s
    middles = (edges[:-1] + edges[1:]) / 2
    if not any(times.total for times in series.values()):
        _say(axes, "no stage times" if not series else "nothing was published")
        return
    for name, times in series.items():
        colour, told = LIGHT[f"series-{name}"], name if name != "age" else "each message"
        if len(times.points):
            axes.plot(*times.points.T, ".-", color=colour, linewidth=0.6, markersize=3, label=told)
            continue
        median, high = times.percentile(50), times.percentile(99)
        axes.fill_between(middles, median, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(middles, median, color=colour, linewidth=1.2, label=name if name != "age" else "p50 to p99")
    axes.set(xlabel="arrival, s", ylabel=label)
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(**_ABOVE)


def _plot_spread(axes: Axes, times: Times) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

    if times.constant is not None:
        _say(axes, f"every age is {number(times.constant)} ms")
        return
    counts = times.counts.sum(0)
    used = np.flatnonzero(counts)
    axes.set(xlabel="age, ms (logarithmic)", ylabel="messages")
    if len(used):
        here = slice(used[0], used[-1] + 1)
        axes.bar(
            EDGES_MS[:-1][here],
            counts[here],
            np.diff(EDGES_MS)[here],
            align="edge",
            color=LIGHT["series-age"],
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())


def _say(axes: Axes, text: str) -> None:
    """A sentence where a plot would be empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8, color="gray")


def _plot_curves(axes: Axes, topic: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for place, (name, (recall, precision)) in enumerate(lines.items()):
        axes.plot(recall, precision, color=LIGHT[f"class-{place % 8}"], linewidth=1.2, label=name)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(topic, fontsize=8)
    axes.legend(fontsize=6.5)
