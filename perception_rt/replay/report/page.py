"""Build the page of one replay from its folder and the recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from perception_rt.replay.bag import Bag
from perception_rt.replay.budget import BudgetResult
from perception_rt.replay.report import charts, explanations, svg
from perception_rt.replay.report.figure import write_figure
from perception_rt.replay.report.findings import findings_of
from perception_rt.replay.report.folder import first_differences, read_metrics, read_run, write_page
from perception_rt.replay.report.graph import graph_chart
from perception_rt.replay.report.ledger import OUTCOMES, LedgerView, read_ledger
from perception_rt.replay.report.lives import MOST as MOST_LIVES
from perception_rt.replay.report.lives import ObjectLife, life_sections, read_lives
from perception_rt.replay.report.scores import MEANING, score_sections
from perception_rt.replay.report.side_by_side import side_by_side
from perception_rt.replay.report.streams import stream_sections
from perception_rt.replay.report.strips import RULE, picture_strips
from perception_rt.replay.report.summary import Verdict, cards_of, judge, stream_card
from perception_rt.replay.report.timeline import timeline_of
from perception_rt.replay.score import Truth
from perception_rt.types.palette import class_colour

_LONGEST = 80  # characters of a differing value
_READING = (
    "Times are measured in the replay. Short runs show every message. Long runs show the median (line), the "
    "99th percentile (area) and the maximum (faint line) of each moment. Hover over a chart to read values."
)


def write_report(
    folder: Path,
    bag: Path | None = None,
    run: Mapping | None = None,
    checks: Sequence[BudgetResult] = (),
    truths: Sequence[Truth] = (),
    golden: Path | None = None,
) -> None:
    """Write `report.html` and `report.png` of a replay into its folder.

    Args:
        folder: contains metrics.json, ledger.csv and, for pictures, bag/.
        bag: the recording; None for a report without pictures.
        run: content of run.json; None reads the file if it exists.
        checks: budgets and comparisons in display order.
        truths: ground truth of the scores; the best and worst frames are chosen with it.
        golden: another run of the same recording to compare with.

    Raises:
        ConfigError: the folder does not hold a replay.
        BagError: a bag cannot be opened.
    """
    folder = Path(folder)
    metrics = read_metrics(folder)
    run = (read_run(folder) or {}) if run is None else run
    view = read_ledger(folder / "ledger.csv")
    findings = run["findings"] if "findings" in run else findings_of(folder, metrics)
    verdict = judge(metrics, checks, findings)
    strips = [] if bag is None else picture_strips(folder, Path(bag), metrics, view, truths)
    lives = tracked_lives(folder, bag, metrics)
    shown = life_sections(lives, view.start_ns)
    streams, scores = stream_sections(metrics["streams"], view), score_sections(metrics["scores"])
    values: dict[str, Any] = {
        **_heading(folder, metrics, run, verdict),
        "cards": cards_of(metrics, run),
        "streams": [stream_card(stream) for stream in metrics["streams"].values()],
        "checks": [check._asdict() | {"value": _text(check.value)} for check in checks],
        "differences": [_difference(row) for row in first_differences(folder)],
        "scores": scores,
        "meaning": MEANING,
        "strips": strips,
        "beside": _beside(folder, golden, bag, metrics, view),
        "explanations": explanations.explanation_figures(folder),
        "explanations_told": explanations.MEANING,
        "lives": [
            life | {"colour": "#{:02x}{:02x}{:02x}".format(*class_colour(life["name"]))} for life in shown
        ],
        "lives_told": _lives_told(lives),
        "anchors": {life["id"]: life["anchor"] for life in shown},
        "rule": RULE,
        "reading": _READING,
        "charts": streams,
        "graph": graph_chart(metrics),
        **_timeline(folder, metrics, view),
        "health": health_table(metrics),
        **_tables(metrics, run, view),
    }
    anchors = (("Checks", "checks"), ("Scores", "scores"), ("Pictures", "strips"))
    sections = [("Timeline", "timeline")] if values["timeline"]["rows"] else []
    sections += [(name, name.lower()) for name, key in anchors if values[key]]
    sections += [("Heat maps", "explanations")] if values["explanations"] else []
    sections += [("Two runs", "beside")] if values["beside"] else []
    sections += [("Objects", "objects")] if shown else []
    sections += [("Sensors", "sensors")] if values["health"] is not None else []
    sections += [("Graph", "graph")] if streams else []
    sections += [("Over time", "streams"), ("What was lost", "lost"), ("The run", "run")]
    write_page(folder / "report.html", "report.html.j2", {**values, "sections": sections})
    drawn = [(f"{part['node']}: {part['topic']}", part["charts"]) for part in streams]
    drawn += [(part["topic"], part["charts"]) for part in scores if part["charts"]]
    write_figure(folder / "report.png", values["title"], verdict.text, drawn)


def tracked_lives(folder: Path, bag: Path | None, metrics: Mapping) -> list[ObjectLife]:
    """Return the lives of a run's objects, by the clock of the replay; none without a recording."""
    if bag is None or not (folder / "bag").is_dir():
        return []
    with Bag(bag, salvage=True) as recording, Bag(folder / "bag") as outputs:
        recording.retime(metrics["bag"].get("clock", {}).get("behind_ns", {}))
        return read_lives(recording, outputs, metrics)


def _lives_told(lives: Sequence[ObjectLife]) -> str:
    count = len(lives)
    return (
        f"{count} tracked objects."
        if count <= MOST_LIVES
        else f"The {MOST_LIVES} of {count} tracked longest."
    )


def _beside(
    folder: Path, golden: Path | None, bag: Path | None, metrics: Mapping, view: LedgerView
) -> dict[str, object] | None:
    if golden is None or bag is None:
        return None
    strips = side_by_side(folder, golden, read_metrics(golden), Path(bag), metrics, view)
    told = f"The other run is {golden.resolve().name}. The moments that differ most come first."
    return {"told": told, "strips": strips} if strips else None


def _timeline(folder: Path, metrics: Mapping, view: LedgerView) -> dict[str, object]:
    timeline = timeline_of(folder / "ledger.csv", view, metrics)
    found = {index for stream in timeline["data"]["streams"] for index in stream["o"]}
    return {
        "timeline": timeline,
        "timeline_outcomes": [outcome for index, outcome in enumerate(OUTCOMES) if index in found],
        "timeline_step": max(round(timeline["data"]["length_ms"] / 1000), 1),
    }


def health_table(metrics: Mapping) -> list[tuple[object, ...]] | None:
    """Return the faults of the sensors as rows of a table; None if no sensor was checked."""
    health = metrics.get("health")
    if not health or not health["sensors"]:
        return None
    rows: list[tuple[object, ...]] = []
    for one in health["findings"]:
        end = "the end" if one["end_s"] is None else f"{one['end_s']:.1f}"
        figures = svg.number(one["value"]), svg.number(one["limit"])
        rows.append((one["sensor"], one["level"], one["what"], f"{one['begin_s']:.1f} to {end}", *figures))
    return rows


def _heading(folder: Path, metrics: Mapping, run: Mapping, verdict: Verdict) -> dict[str, object]:
    name = Path(str(run.get("bag") or folder.resolve().name)).name
    lead = [f"{metrics['bag']['duration_s']:.1f} s of recording, {metrics['bag']['messages']} messages"]
    if run.get("started"):
        lead.append(f"replayed {run['started']}")
    if run.get("inference"):
        lead.append(f"inference {run['inference']}")
    if run.get("device"):
        lead.append(f"on {run['device']}")
    return {"title": f"Replay of {name}", "lead": ", ".join(lead), "verdict": verdict}


def _text(value: object) -> str:
    if value is None:
        return "–"
    return svg.number(value) if isinstance(value, float) else str(value)


def _difference(row: Mapping) -> tuple[object, ...]:
    """Return a table row: place, message, field and both values."""
    stamp_ns = row["stamp_ns"] if row["stamp_ns"] is not None else row["log_ns"]
    at = "" if stamp_ns is None else f"{stamp_ns / 1e9:.6f}"
    told = " ".join(filter(None, (row["field"], row["note"])))
    return row["where"], charts.words(row["kind"]), at, told, _exact(row["new"]), _exact(row["golden"])


def _exact(value: object) -> str:
    """Format two values with as many digits as they need to differ; long ones are cut."""
    text = f"{value:.9g}" if isinstance(value, float) else _text(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _tables(metrics: Mapping, run: Mapping, view: LedgerView) -> dict[str, object]:
    reasons = [
        {
            "stream": s.name,
            "outcome": outcome,
            "words": charts.words(outcome),
            "count": count,
            "reason": reason,
        }
        for s in view.streams.values()
        if s.node != "bag"  # unreadable messages have their own table
        for (outcome, reason), count in s.reasons.most_common()
    ]
    bag = metrics["bag"]
    unreadable = bag["unreadable"]
    damage = sorted(unreadable["reasons"].items())
    return {
        "reasons": reasons,
        "damage": damage or ([("not said", unreadable["messages"])] if unreadable["messages"] else []),
        "faults": [(fault,) for fault in sorted(bag["faults"])],
        "missing": [(topic, ", ".join(nodes)) for topic, nodes in sorted(bag["missing_topics"].items())],
        "recording": [
            (topic, row["type"], row["messages"], ", ".join(row["used_by"]) or "none")
            for topic, row in sorted(bag["topics"].items())
        ],
        "outputs": [
            (t, row["messages"], _hash(row["sha256"])) for t, row in sorted(metrics["outputs"].items())
        ],
        "bundles": [
            (node, row["name"], row["task"], _hash(row["sha256"]))
            for node, row in sorted(metrics["bundles"].items())
        ],
        "environment": list(_flat({key: value for key, value in run.items() if key != "findings"})),
    }


def _hash(sha256: str) -> Markup:
    return Markup('<code class="hash">{}</code>').format(sha256)


def _flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested values of run.json into rows."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        elif value not in (None, "", [], False):
            told = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else _text(value)
            yield f"{prefix}{charts.words(key)}", told
