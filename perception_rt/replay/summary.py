"""Summarise a run: the content of `summary.json`, and its table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from typing import Any

from rich import box
from rich.table import Table

from perception_rt.model.task import DETECT2D, DETECT3D, TASKS
from perception_rt.realtime.ledger import Outcome
from perception_rt.replay.metrics import average_precision
from perception_rt.replay.metrics3d import average_precision_bev
from perception_rt.types import Detections2D, Detections3D

Found = Mapping[int, Detections2D | Detections3D]

SCORES: dict[
    str, tuple[Callable[..., dict[str, Any]], str]
] = {  # by task: the score, and the key of the figure to show
    DETECT2D.name: (average_precision, "ap50"),
    DETECT3D.name: (average_precision_bev, "map"),
}


def summarise(
    account: Mapping[str, str],
    detections: Found,
    truths: Found | None,
    classes: Sequence[str],
    task: str,
) -> dict[str, Any]:
    """Summarise one stream.

    Args:
        account: the stream's last diagnostics, as key-value pairs.
        detections: the published detections, by stamp in ns.
        truths: the ground truth of every frame, by stamp; None if there is none.
        classes: names by label.
        task: name of the task whose answers the detections are; one that `SCORES` lacks gets no score.

    Returns:
        `{"received", "states": {state: count}, "rate_hz", "age_ms": {"p50", "p99"}, "map50"}`; `map50` (in 3D
        by the boxes' footprints) counts a frame without an answer as a frame without detections, and is None
        without ground truth.
    """
    stamps = sorted(detections)
    span_s = (stamps[-1] - stamps[0]) / 1e9 if len(stamps) > 1 else 0.0
    map50 = None
    if truths and task in SCORES:
        map50 = _map50(truths, detections, classes, task)
    return {
        "received": int(account["received"]),
        "states": {outcome.value: int(account[outcome.value]) for outcome in Outcome},
        "rate_hz": round((len(stamps) - 1) / span_s, 3) if span_s else 0.0,
        "age_ms": {q: float(account.get(f"age_ms_{q}", "nan")) for q in ("p50", "p99")},
        "map50": None if map50 is None else round(map50, 4),
    }


def _map50(
    truths: Mapping[int, Any], detections: Mapping[int, Any], classes: Sequence[str], task: str
) -> float:
    nothing = TASKS[task].result.empty()
    precision, key = SCORES[task]
    answers = [detections.get(stamp, nothing) for stamp in truths]
    return float(precision(list(truths.values()), answers, classes)[key])


_HEADINGS = ("accounted\nfor", "as", "Hz", "age, ms\np50/p99", "mAP50")


def summary_table(summary: Mapping[str, dict[str, Any]]) -> Table:
    """Return a table of `{stream: summarise(...)}`, one row per stream; fits 80 columns.

    A row may also have `requested_hz`, `used_hz` and `reduced`, as in the summary of a demo.
    """
    rows = {stream: _cells(row) for stream, row in summary.items()}
    widths = [
        max(len(line) for text in column for line in text.split("\n"))
        for column in zip(_HEADINGS, *rows.values(), strict=True)
    ]
    left = 80 - sum(widths) - len(widths) - 3  # a space between columns and at each end
    table = Table(title="every frame accounted for", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("stream", overflow="fold")
    for heading, width in zip(_HEADINGS, widths, strict=True):
        table.add_column(heading, justify="right", min_width=width, no_wrap=True)
    for stream, cells in rows.items():
        table.add_row(broken(stream, max(left, 12)), *cells)
    if any(row.get("reduced") for row in summary.values()):
        table.caption = "Hz of: reduced from this rate to one that the machine sustains"
    return table


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    states, age = row["states"], row["age_ms"]
    return (
        f"{sum(states.values())} of {row['received']}",
        "\n".join(f"{count} {state}" for state, count in states.items() if count),
        f"{row['rate_hz']:.2f}" + (f"\nof {row['requested_hz']:g}" if row.get("reduced") else ""),
        "-" if isnan(age["p50"]) else "/".join(_milliseconds(age[q]) for q in ("p50", "p99")),
        "-" if row["map50"] is None else f"{row['map50']:.3f}",
    )


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def broken(name: str, width: int) -> str:
    """Return a stream's name in lines of at most `width`, broken only before a `/` or a topic."""
    out = []
    for line in name.replace(": ", ":\n ").split("\n"):
        while len(line) > width and "/" in line[2:]:
            cut = line.rfind("/", 2, width + 1)
            cut = cut if cut > 0 else line.index("/", 2)
            out.append(line[:cut])
            line = "  " + line[cut:]
        out.append(line)
    return "\n".join(out)


def metrics_table(metrics: Mapping[str, dict[str, Any]]) -> Table:
    """Return a table of metrics.json, one row per stream, with the AP50 of its node's detections."""
    scores = {
        metrics["outputs"][topic]["node"]: row["as_seen"]["ap50"]
        for topic, row in metrics["scores"].items()
        if row["kind"] == "detections"
    }
    faults = metrics["bag"].get("clock", {}).get("faults", {})  # ages from such stamps say nothing
    rows = {}
    for name, stream in metrics["streams"].items():
        age = stream["age_ms"]
        if age is None or stream["topic"] in faults:
            age = {"p50": float("nan"), "p99": float("nan")}
        rows[name] = {**stream, "age_ms": age, "map50": scores.get(stream["node"])}
    return summary_table(rows)
