"""Draw the graph of nodes and topics of a run with their rates and ages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from perception_rt.replay.report import svg

_WIDTH, _HEIGHT = 200.0, 40.0  # of a box, px
_STEP_X, _STEP_Y = 250.0, 54.0
_MARGIN = 8.0
_LONGEST_NAME = 29
NODE, TOPIC = "node", "topic"
Vertex = tuple[str, str]  # NODE or TOPIC, and its name


def graph_chart(metrics: Mapping[str, Any]) -> Markup:
    """Return an SVG of fixed size: topics and nodes in columns, from the sensors on the left.

    Args:
        metrics: content of metrics.json. Topics that no node uses are left out.
    """
    edges = _edges(metrics)
    columns: defaultdict[int, list[Vertex]] = defaultdict(list)
    for vertex, depth in sorted(_depths(set(edges)).items()):
        columns[depth].append(vertex)
    places: dict[Vertex, tuple[float, float]] = {}
    for depth in sorted(columns):
        rows = columns[depth]
        heights = [_beside(vertex, edges, places) for vertex in rows]
        for row, (_, vertex) in enumerate(sorted(zip(heights, rows, strict=True))):
            places[vertex] = _MARGIN + depth * _STEP_X, _MARGIN + row * _STEP_Y
    figures = _figures(metrics)
    marks = [_edge(places[a], places[b], note) for (a, b), note in edges.items()]
    marks += [_box(vertex, place, figures.get(vertex, "")) for vertex, place in places.items()]
    width = max((x for x, _ in places.values()), default=0.0) + _WIDTH + _MARGIN
    height = max((y for _, y in places.values()), default=0.0) + _STEP_Y + _MARGIN
    told = f"Graph of {sum(kind == NODE for kind, _ in places)} nodes and their topics"
    return svg.element(
        "svg", *marks, class_="graph", viewBox=f"0 0 {width:.0f} {height:.0f}", role="img", aria_label=told,
        style=f"width:{width:.0f}px",
    )  # fmt: skip


def _edges(metrics: Mapping[str, Any]) -> dict[tuple[Vertex, Vertex], str]:
    """Return a tooltip for each pair of topic and subscriber, or publisher and topic."""
    edges: dict[tuple[Vertex, Vertex], str] = {}
    for topic, row in metrics["bag"]["topics"].items():
        for node in row.get("used_by", ()):
            edges[(TOPIC, topic), (NODE, node)] = f"{node} subscribes to {topic}"
    for stream in metrics["streams"].values():
        published = f"{stream['states']['published']} of {stream['received']} published"
        edges[(TOPIC, stream["topic"]), (NODE, stream["node"])] = f"{stream['topic']}: {published}"
    for topic, row in metrics["outputs"].items():
        if row["node"]:  # no subscriptions of its own
            edges[(NODE, row["node"]), (TOPIC, topic)] = f"{row['node']} publishes {topic}"
    return edges


def _depths(edges: set[tuple[Vertex, Vertex]]) -> dict[Vertex, int]:
    """Return the length of the longest path to each vertex; a cycle ends after as many steps as vertices."""
    depths = {vertex: 0 for edge in edges for vertex in edge}
    for _ in range(min(len(depths), 12)):
        for a, b in sorted(edges):
            depths[b] = max(depths[b], min(depths[a] + 1, 12))
    for source in sorted(set(depths) - {b for _, b in edges}):  # beside its first subscriber
        depths[source] = min(depths[b] for a, b in edges if a == source) - 1
    return depths


def _beside(vertex: Vertex, edges: Mapping, places: Mapping[Vertex, tuple[float, float]]) -> float:
    """Return the mean height of a vertex's predecessors, so that few edges cross."""
    heights = [places[a][1] for a, b in edges if b == vertex and a in places]
    return sum(heights) / len(heights) if heights else 0.0


def _figures(metrics: Mapping[str, Any]) -> dict[Vertex, str]:
    """Return the rates of topics and the greatest ages of nodes, as text."""
    duration_s = metrics["bag"]["duration_s"] or 1.0
    told: dict[Vertex, str] = {}
    for topic, row in {**metrics["bag"]["topics"], **metrics["outputs"]}.items():
        if row.get("messages") is not None:
            told[TOPIC, topic] = f"{row['messages'] / duration_s:.1f} Hz"
    for stream in metrics["streams"].values():
        if stream["age_ms"]:
            p50, p99 = (svg.number(stream["age_ms"][q]) for q in ("p50", "p99"))
            told[NODE, stream["node"]] = f"age p50/p99 {p50}/{p99} ms"
    return told


def _edge(start: tuple[float, float], end: tuple[float, float], note: str) -> Markup:
    x0, y0, x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT / 2, end[0], end[1] + _HEIGHT / 2
    gap = _STEP_X - _WIDTH
    path = f"M{x0:.0f} {y0:.0f}"
    if not 0 <= x1 - x0 <= gap:  # runs between the rows, to avoid the boxes on its way
        lane = start[1] + (_HEIGHT + _STEP_Y) / 2
        path += _curve(x0, y0, x0 + gap, lane) + f"H{x1 - gap:.0f}"
        x0, y0 = x1 - gap, lane
    path += _curve(x0, y0, x1, y1)
    return svg.element("path", svg.note(note), class_="edge", d=path)


def _curve(x0: float, y0: float, x1: float, y1: float) -> str:
    middle = (x0 + x1) / 2
    return f"C{middle:.0f} {y0:.0f} {middle:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"


def _box(vertex: Vertex, place: tuple[float, float], figure: str) -> Markup:
    kind, name = vertex
    x, y = place
    short = name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]
    corner = 6.0 if kind == NODE else _HEIGHT / 2
    below = [svg.element("text", figure, x=x + _WIDTH / 2, y=y + 32, text_anchor="middle")] if figure else []
    return svg.element(
        "g",
        svg.note(name),
        svg.element("rect", class_=f"graph-{kind}", x=x, y=y, width=_WIDTH, height=_HEIGHT, rx=corner),
        svg.element("text", short, class_="name", x=x + _WIDTH / 2, y=y + 17, text_anchor="middle"),
        *below,
    )
