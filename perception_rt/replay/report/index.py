"""Write the overview of several replays, one row per recording with a link to its report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception_rt.replay.report import svg
from perception_rt.replay.report.charts import words
from perception_rt.replay.report.folder import read_metrics, read_run, write_page
from perception_rt.replay.report.ledger import OUTCOMES
from perception_rt.replay.report.scores import headlines
from perception_rt.replay.report.summary import judge
from perception_rt.types import ConfigError

_EXITS = {
    0: ("good", "good"),
    1: ("bad", "a check failed"),
    2: ("bad", "cannot be used"),
    3: ("warn", "with gaps"),
    130: ("warn", "interrupted"),
}


def write_index(folder: Path, runs: Sequence[Path]) -> None:
    """Write `index.html` into `folder`.

    Args:
        folder: an existing folder.
        runs: replay folders in display order; a folder without results counts as failed.
    """
    rows = [_row(Path(folder), Path(run)) for run in runs]
    totals = {outcome: sum(row["states"].get(outcome, 0) for row in rows) for outcome in OUTCOMES}
    received = sum(row["received"] for row in rows)
    good = sum(row["level"] == "good" for row in rows)
    level = "good" if good == len(rows) else "bad" if any(row["level"] == "bad" for row in rows) else "warn"
    values = {
        "title": f"{len(rows)} replay{'s' * (len(rows) != 1)}",
        "level": level,
        "verdict": f"{good} of {len(rows)} are good.",
        "text": f"{sum(totals.values())} of {received} received messages are accounted for.",
        "outcomes": [{"name": f, "words": words(f), "count": n} for f, n in totals.items() if n],
        "rows": rows,
    }
    write_page(Path(folder) / "index.html", "index.html.j2", values)


def _row(folder: Path, run: Path) -> dict[str, Any]:
    name = run.name
    nothing = {
        "name": name,
        "link": "",
        "states": {},
        "outcomes": [],
        "received": 0,
        "scores": [],
        "age": "–",
        "speed": "–",
    }
    try:
        metrics, info = read_metrics(run), read_run(run)
    except ConfigError as error:
        return {**nothing, "level": "bad", "verdict": f"no results: {error}", "lost": "–", "span": "–"}
    streams = metrics["streams"].values()
    states = {outcome: sum(stream["states"].get(outcome, 0) for stream in streams) for outcome in OUTCOMES}
    received = sum(stream["received"] for stream in streams)
    ages = [stream["age_ms"]["p99"] for stream in streams if stream["age_ms"]]
    level, verdict = _judged(metrics, info)
    lost = received - states["published"]
    report = run / "report.html"
    return {
        "name": name,
        "link": Path(os.path.relpath(report, folder)).as_posix() if report.is_file() else "",
        "level": level,
        "verdict": verdict,
        "span": f"{metrics['bag']['duration_s']:.1f} s",
        "received": received,
        "states": states,
        "outcomes": [{"name": f, "words": words(f), "count": n} for f, n in states.items() if n],
        "lost": f"{lost} ({lost / received:.1%})" if received else "0",
        "age": f"{svg.number(max(ages))} ms" if ages else "–",
        "speed": f"{info['speed']:.2f} ×" if info and info.get("speed") else "–",
        "scores": [f"{line.label} {line.value}" for line in headlines(metrics["scores"])],
    }


def _judged(metrics: dict, info: dict | None) -> tuple[str, str]:
    if info is None:
        return "bad", "not complete: it has no run.json"
    verdict = judge(metrics, (), info.get("findings", ()))
    code = info.get("exit_code", 0)
    level, word = _EXITS.get(code, ("bad", f"exit code {code}"))
    if level == "good":
        return verdict.level, verdict.word.lower() if verdict.level == "good" else verdict.text
    return level, word if verdict.level == "good" else f"{word}: {verdict.text[:1].lower()}{verdict.text[1:]}"
