"""The page of one replay, from its folder and the recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from perception_rt.replay.bag import Bag
from perception_rt.replay.report import charts, svg
from perception_rt.replay.report.choose import Sensor, choose, sensors_of
from perception_rt.replay.report.figure import write_figure
from perception_rt.replay.report.folder import read_metrics, read_run, write_page
from perception_rt.replay.report.ledger import FATES, STAGES, LedgerView, StreamView, read_ledger
from perception_rt.replay.report.pictures import pictures_of
from perception_rt.replay.report.scenes import Scene, SceneReader
from perception_rt.replay.report.scores import legend, score_sections
from perception_rt.replay.report.summary import Verdict, cards_of, judge, stream_card

_MOST_PICTURES = 40
_RULE = (
    "Of each part of the run, the frame whose boxes are on average the surest, and the least sure: what the model "
    "thinks of itself, not what is true. Then the answers that were the oldest when published, and messages that "
    "were not answered, of every fate that occurs. Times are of arrival, from the first message of the run."
)
_READING = (
    "Times are the replay's own. Short runs show every message; long ones the median (line), up to the 99th "
    "percentile (area), and the greatest age (faint line) of each moment. A pointer that rests on a chart is told "
    "the figures."
)


class Check(NamedTuple):
    """A budget or a comparison: what was asked for, what was found, and whether it holds."""

    name: str
    value: object
    limit: object
    holds: bool


def write_report(
    folder: Path, bag: Path | None = None, run: Mapping | None = None, checks: Sequence[Check] = ()
) -> None:
    """Write `report.html` and `report.png` of a replay into its folder.

    Args:
        folder: with metrics.json, ledger.csv and, for pictures, bag/.
        bag: the recording, for pictures; None for a report without them.
        run: what run.json will say, or what is known of it; None reads it, if it is there.
        checks: budgets and comparisons, in the order to be shown.

    Raises:
        ConfigError: the folder is not of a replay.
        BagError: a bag is given that cannot be opened.
    """
    folder = Path(folder)
    metrics = read_metrics(folder)
    run = (read_run(folder) or {}) if run is None else run
    checks = [Check(*check) for check in checks]
    view = read_ledger(folder / "ledger.csv")
    verdict = judge(metrics, checks)
    strips = [] if bag is None else _strips(folder, Path(bag), metrics, view)
    values = {
        **_heading(folder, metrics, run, verdict),
        "cards": cards_of(metrics, run),
        "streams": [stream_card(stream) for stream in metrics["streams"].values()],
        "checks": [check._replace(value=_told(check.value), limit=_told(check.limit)) for check in checks],
        "scores": score_sections(metrics["scores"]),
        "strips": strips,
        "rule": _RULE,
        "reading": _READING,
        "charts": [_stream_charts(view, stream) for stream in _heard(view)],
        **_tables(metrics, run, view),
    }
    anchors = (("Checks", "checks"), ("Scores", "scores"), ("Pictures", "strips"))
    sections = [(name, name.lower()) for name, key in anchors if values[key]]
    sections += [("Over time", "streams"), ("What was lost", "lost"), ("The run", "run")]
    write_page(folder / "report.html", "report.html.j2", {**values, "sections": sections})
    write_figure(folder / "report.png", values["title"], verdict.text, view, metrics["scores"])


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


def _told(value: object) -> str:
    return svg.number(value) if isinstance(value, float) else str(value)


def _heard(view: LedgerView) -> list[StreamView]:
    """The streams of nodes: what could not be read of the recording is told apart."""
    return [stream for stream in view.streams.values() if stream.node != "bag"]


def _stream_charts(view: LedgerView, stream: StreamView) -> dict[str, object]:
    shown = [fate for fate, row in zip(FATES, stream.fates, strict=True) if row.any()]
    drawn = [("Fates by arrival", charts.fates_chart(view, stream), legend("fate", shown))]
    if stream.times["age"].total:
        drawn.append(("Age at publishing", charts.age_chart(view, stream), ""))
        drawn.append(("Ages, as a histogram", charts.age_histogram(stream), ""))
    stages = [stage for stage in STAGES if stream.times[stage].total]
    if stages:
        told = legend("series", stages)
        drawn.append(("Stage times", charts.stages_chart(view, stream), told))
        drawn.append(("Stage times, as a histogram", charts.stages_histogram(stream), told))
    rows = [{"title": title, "svg": chart, "legend": told} for title, chart, told in drawn]
    return {"node": stream.node, "topic": stream.topic, "charts": rows}


def _strips(folder: Path, bag: Path, metrics: Mapping, view: LedgerView) -> list[dict[str, object]]:
    sensors = [sensor for sensor in sensors_of(metrics) if f"{sensor.node}: {sensor.topic}" in view.streams]
    if not sensors:
        return []
    with ExitStack() as stack:
        recording = stack.enter_context(Bag(bag))
        outputs = stack.enter_context(Bag(folder / "bag"))
        reader = SceneReader(recording, outputs, metrics)
        parts = max(1, min(3, _MOST_PICTURES // len(sensors) // 4))
        return [_strip(reader, sensor, choose(view, outputs, sensor, parts), view) for sensor in sensors]


def _strip(reader: SceneReader, sensor: Sensor, choices: Sequence, view: LedgerView) -> dict[str, object]:
    shown = [_shown(reader.read(sensor, choice), view) for choice in choices]
    return {"node": sensor.node, "topic": sensor.topic, "is_camera": sensor.is_camera, "shown": shown}


def _shown(scene: Scene, view: LedgerView) -> dict[str, object]:
    choice = scene.choice
    at_s = ((choice.near_ns if choice.stamp_ns is None else choice.stamp_ns) - view.start_ns) / 1e9
    fate = choice.why.replace(" ", "_")
    return {
        "title": f"{choice.why[:1].upper()}{choice.why[1:]}, at {at_s:.2f} s",
        "fate": fate if fate in FATES else "",
        "pictures": pictures_of(scene),
        "caption": "; ".join((choice.detail, *scene.missing)),
    }


def _tables(metrics: Mapping, run: Mapping, view: LedgerView) -> dict[str, object]:
    reasons = [
        {"stream": s.name, "fate": fate, "words": charts.words(fate), "count": count, "reason": reason}
        for s in view.streams.values()
        for (fate, reason), count in s.reasons.most_common()
    ]
    bag = metrics["bag"]
    unreadable = bag["unreadable"]
    damage = sorted(unreadable["reasons"].items())
    return {
        "reasons": reasons,
        "damage": damage or ([("not said", unreadable["messages"])] if unreadable["messages"] else []),
        "missing": [(topic, ", ".join(nodes)) for topic, nodes in sorted(bag["missing_topics"].items())],
        "recording": [
            (topic, row["type"], row["messages"], ", ".join(row["used_by"]) or "nobody")
            for topic, row in sorted(bag["topics"].items())
        ],
        "outputs": [
            (t, row["messages"], _hash(row["sha256"])) for t, row in sorted(metrics["outputs"].items())
        ],
        "bundles": [
            (node, row["name"], row["task"], _hash(row["sha256"]))
            for node, row in sorted(metrics["bundles"].items())
        ],
        "environment": list(_flat(run)),
    }


def _hash(sha256: str) -> Markup:
    return Markup('<code class="hash">{}</code>').format(sha256)


def _flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Whatever is known of the run, a row a value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        elif value not in (None, "", [], False):
            told = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else _told(value)
            yield f"{prefix}{charts.words(key)}", told
