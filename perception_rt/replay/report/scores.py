"""Scores of any shape as tables and charts: numbers by their path, curves where there are some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from markupsafe import Markup

from perception_rt.replay.report import charts, svg

HEADLINES = ("ap50", "map50", "map", "hota", "mota", "idf1", "ade", "fde", "rmse")
"""Scores that cards show, in this order."""
_MOST_CARDS = 6
_MOST_CURVES = 8


def numbers_of(
    scores: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every single value below `scores`, with the keys that lead to it; lists are left out."""
    for key, value in scores.items():
        here = (*path, str(key))
        if isinstance(value, Mapping):
            yield from numbers_of(value, here)
        elif not isinstance(value, (list, tuple)):
            yield here, value


def curves_of(
    scores: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """Every object below `scores` that has a list of `precision`, with the keys that lead to it."""
    if isinstance(scores.get("precision"), Sequence):
        yield path, scores
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from curves_of(value, (*path, str(key)))


def text_of(value: object) -> str:
    """A score for people."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else svg.number(value)
    return str(value)


def headlines(scores: Mapping[str, Mapping]) -> list[tuple[str, str, str]]:
    """The first scores: name, value, and the topic that they are of."""
    found = []
    for topic, score in scores.items():
        for path, value in numbers_of(score):
            if path[-1] in HEADLINES and value is not None and not _of_a_class(path):
                found.append((HEADLINES.index(path[-1]), " ".join(path), text_of(value), topic))
    found.sort(key=lambda row: row[0])
    return [(name, value, topic) for _, name, value, topic in found[:_MOST_CARDS]]


def _of_a_class(path: tuple[str, ...]) -> bool:
    return len(path) > 2


def curves_by_topic(
    scores: Mapping[str, Mapping],
) -> Iterator[tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Precision over recall: of each topic, recall and precision by class."""
    for topic, score in scores.items():
        lines = {}
        for path, curve in islice(curves_of(score), _MOST_CURVES):
            precision = np.array(curve["precision"], np.float64)
            recall = np.array(curve.get("recall", np.linspace(0, 1, len(precision))), np.float64)
            lines[path[-1] if path else topic] = recall, precision
        if lines:
            yield topic, lines


def score_sections(scores: Mapping[str, Mapping]) -> list[dict[str, object]]:
    """What the page says of each topic's scores."""
    curves = dict(curves_by_topic(scores))
    sections = []
    for topic, score in scores.items():
        drawn = []
        if topic in curves:
            drawn.append(
                {
                    "title": "Precision over recall",
                    "svg": charts.curves_chart(topic, curves[topic]),
                    "legend": legend("class", list(curves[topic])),
                }
            )
        rows = [(" ".join(path), text_of(value)) for path, value in numbers_of(score)]
        tables = (
            [{"caption": "Scores", "head": ("score", "value"), "rows": rows, "numbers": (1,)}] if rows else []
        )
        sections.append({"topic": topic, "charts": drawn, "tables": tables})
    return sections


def legend(kind: str, names: Sequence[str]) -> Markup:
    """Colours for below a chart: of a `class` by its place, of a `fate` or a stage (`series`) by its name."""
    rows = (
        Markup('<span class="key"><span class="swatch {}-{}"></span>{}</span>').format(
            kind, place if kind == "class" else name, charts.words(name)
        )
        for place, name in enumerate(names)
    )
    return Markup(" ").join(rows)
