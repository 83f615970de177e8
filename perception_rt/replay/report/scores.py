"""Show scores as cards, tables and charts: those of `perception_rt.replay.score` and any nested numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from perception_rt.replay.report import charts, svg

_MOST_CURVES = 8
_MOST_HORIZONS = 10
_WAYS = ("as_seen", "at_publish", "streaming")
_SAID_ELSEWHERE = ("kind", "truth", "classes", "curves", "calibration")
MEANING = (
    "As seen: ground truth against the output with the same stamp; a frame without output counts as empty. "
    "At publish: each output against the ground truth at its publish time. Streaming: ground truth against "
    "the latest output available at that time. Ellipses: 95 % of the errors should lie inside. NEES: 2 for "
    "correct covariances, larger if they are too small, smaller if they are too large."
)

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""Recall and precision, by class."""


class Headline(NamedTuple):
    """A topic's main score and its caption."""

    label: str
    value: str
    more: str


def headlines(scores: Mapping[str, Mapping]) -> list[Headline]:
    """Return one headline per topic."""
    return [line for topic, score in scores.items() if (line := _headline(topic, score)) is not None]


def _headline(topic: str, score: Mapping) -> Headline | None:
    seen, tracking = score.get("as_seen"), score.get("tracking")
    if tracking:
        told = f"IDF1 {text_of(tracking['idf1'])}, HOTA {text_of(tracking['hota'])}"
        return Headline("MOTA", text_of(tracking["mota"]), f"{told}, {topic}")
    if seen:
        later = [f"{charts.words(way)} {text_of(score[way]['ap50'])}" for way in _WAYS[1:] if score.get(way)]
        return Headline("AP50", text_of(seen["ap50"]), ", ".join((*later, topic)))
    if "ade_m" in score:
        return Headline("ADE", f"{text_of(score['ade_m'])} m", f"FDE {text_of(score['fde_m'])}, {topic}")
    if score.get("rmse"):
        drift = f"drift {text_of(score['drift_percent'])} %, {topic}"
        return Headline("Position, RMSE", f"{text_of(score['rmse'].get('position_m'))} m", drift)
    return None


def _curves(score: Mapping) -> Curves:
    """Draw precision over recall of the first classes, as seen, at IoU 0.5."""
    curves = list((score.get("as_seen") or {}).get("curves", {}).items())[:_MOST_CURVES]
    return {
        name: (np.linspace(0, 1, len(precision)), np.array(precision, np.float64))
        for name, precision in curves
    }


def score_sections(scores: Mapping[str, Mapping]) -> list[dict[str, Any]]:
    """Return the sections of the page with each topic's scores."""
    return [
        {
            "topic": topic,
            "truth": _truth(score.get("truth")),
            "charts": list(_charts(topic, score)),
            "tables": list(_tables(score)),
        }
        for topic, score in scores.items()
    ]


def _truth(truth: Mapping | None) -> str:
    if not truth:
        return ""
    counts = ", ".join(f"{value} {charts.words(key)}" for key, value in truth.items() if key != "name")
    return f"Against {truth['name']}" + (f": {counts}." if counts else ".")


def _charts(topic: str, score: Mapping) -> Iterator[svg.Chart]:
    if curves := _curves(score):
        chart, keys = charts.curves_chart(topic, curves), keys_of("class", list(curves))
        yield svg.Chart("Precision over recall, as seen, IoU 0.5", chart, keys)
    calibration = score.get("calibration")
    if calibration:
        columns = ([row[key] for row in calibration["bins"]] for key in ("confidence", "right", "count"))
        ece = text_of(calibration["ece"])
        told = f"ECE {ece} of {calibration['detections']} boxes; dashed: perfect calibration"
        yield svg.Chart("Reliability", charts.reliability_chart(topic, *columns), note=told)
    horizons = score.get("horizons")
    if horizons and len(horizons) > 1:
        far, off = list(map(float, horizons)), [row["mean_m"] for row in horizons.values()]
        yield svg.Chart("Mean error by prediction horizon", charts.ahead_chart(topic, far, off))


def _tables(score: Mapping, title: str = "") -> Iterator[dict[str, object]]:
    """Return tables of nested scores: one row for the total, then one row per class."""
    nested = {key: value for key, value in score.items() if isinstance(value, Mapping)}
    nested = {key: value for key, value in nested.items() if key not in _SAID_ELSEWHERE}
    plain = {key: value for key, value in score.items() if not isinstance(value, (Mapping, list))}
    plain = {key: value for key, value in plain.items() if key not in _SAID_ELSEWHERE}
    rows = {**({"all": plain} if plain else {}), **nested.pop("per_class", {})}
    if rows:
        yield _pivot(title or "overall", {row: _flat(found) for row, found in rows.items()})
    ways = {way: nested.pop(way) for way in _WAYS if way in nested}
    if ways:
        yield _pivot("mean over classes", {way: _flat(found, deep=False) for way, found in ways.items()})
        yield from _tables({"per_class": ways["as_seen"]["per_class"]}, "as seen, by class")
    if horizons := nested.pop("horizons", None):
        yield _horizons(horizons)
    for key, found in nested.items():
        name = f"{title} {charts.words(key)}".strip()
        if found and all(isinstance(value, Mapping) for value in found.values()):
            yield _pivot(name, {row: _flat(value) for row, value in found.items()})
        else:
            yield from _tables(found, name)


def _horizons(horizons: Mapping[str, Mapping]) -> dict[str, object]:
    """Return one row per prediction horizon, thinned evenly; the last one is kept."""
    every = -(-len(horizons) // _MOST_HORIZONS)
    rows = {}
    for ahead in list(horizons)[every - 1 - (-len(horizons) % every) :: every]:
        row, ellipses = horizons[ahead], horizons[ahead].get("ellipses") or {}
        figures = {key: ellipses.get(key) for key in ("within_95", "nees")}
        rows[f"{ahead} s"] = {"count": row["count"], "mean_m": row["mean_m"], **figures}
    more = f" (of {len(horizons)}; metrics.json has all)" if every > 1 else ""
    return _pivot(f"By time ahead{more}", rows)


def _flat(score: Mapping, prefix: str = "", deep: bool = True) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in score.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key} ") if deep else {}
        elif not isinstance(value, list):
            flat[prefix + key] = value
    return flat


def _pivot(caption: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [
        (charts.words(name), *(text_of(row.get(key, "")) for key in columns)) for name, row in rows.items()
    ]
    head = ("", *columns)
    return {
        "caption": caption[:1].upper() + caption[1:],
        "head": head,
        "rows": cells,
        "numbers": tuple(range(1, len(head))),
    }


def text_of(value: object) -> str:
    """Return a score as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else svg.number(value)
    return str(value)


def keys_of(kind: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the colour and label of legend entries; classes are coloured by index, others by name."""
    return [(f"{kind}-{place if kind == 'class' else name}", name) for place, name in enumerate(names)]
