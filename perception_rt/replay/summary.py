"""The summary of a run: what `summary.json` holds and the table that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from perception_rt.realtime.ledger import Fate
from perception_rt.replay.metrics import average_precision
from perception_rt.types import Detections2D


def summarise(
    account: Mapping[str, str],
    detections: Mapping[int, Detections2D],
    truths: Mapping[int, Detections2D] | None,
    classes: Sequence[str],
) -> dict:
    """Summarise one stream.

    Args:
        account: the stream's last diagnostics, texts by key.
        detections: what was published, by stamp in ns.
        truths: the ground truth of every frame, by stamp; None where there is none.
        classes: names by label.

    Returns:
        `{"received", "states": {state: count}, "rate_hz", "age_ms": {"p50", "p99"}, "map50"}`; `map50` counts
        an unanswered frame as one in which nothing was found, and is None without ground truth.
    """
    stamps = sorted(detections)
    span_s = (stamps[-1] - stamps[0]) / 1e9 if len(stamps) > 1 else 0.0
    map50 = None
    if truths:
        answers = [detections.get(stamp, Detections2D.empty()) for stamp in truths]
        map50 = average_precision(list(truths.values()), answers, classes)["ap50"]
    return {
        "received": int(account["received"]),
        "states": {fate.value: int(account[fate.value]) for fate in Fate},
        "rate_hz": round((len(stamps) - 1) / span_s, 3) if span_s else 0.0,
        "age_ms": {q: float(account.get(f"age_ms_{q}", "nan")) for q in ("p50", "p99")},
        "map50": None if map50 is None else round(map50, 4),
    }


def summary_table(summary: Mapping[str, dict]) -> Table:
    """The table of `{stream: summarise(...)}`, a column a stream."""
    table = Table(title="every frame accounted for")
    table.add_column("stream")
    for stream in summary:
        table.add_column(stream, justify="right")
    rows = list(summary.values())
    table.add_row("received", *(str(row["received"]) for row in rows))
    table.add_row("accounted for", *(str(sum(row["states"].values())) for row in rows))
    for fate in Fate:
        if fate is Fate.PUBLISHED or any(row["states"][fate.value] for row in rows):
            table.add_row(f"  {fate.value}", *(str(row["states"][fate.value]) for row in rows))
    table.add_row("rate held, Hz", *(f"{row['rate_hz']:.2f}" for row in rows))
    for quantile in ("p50", "p99"):
        table.add_row(f"age {quantile}, ms", *(f"{row['age_ms'][quantile]:.1f}" for row in rows))
    table.add_row("mAP50", *("-" if row["map50"] is None else f"{row['map50']:.3f}" for row in rows))
    return table
