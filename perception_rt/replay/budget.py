"""Check the metrics of a replay against budgets such as ``age_p99<=60`` or ``/fusion: lost<=1%``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.pipeline import STAGES
from perception_rt.types import ConfigError

_TIMES = {
    **{f"age_{q}": ("age_ms", q) for q in ("p50", "p90", "p99", "max")},
    **{f"{stage}_{q}": ("stages_ms", stage, q) for stage in STAGES for q in ("p50", "p99", "max")},
}
_COUNTS = ("lost", "unaccounted", *(outcome.value for outcome in Outcome))
_RATE = "rate_min"
_AT_LEAST = (_RATE, Outcome.PUBLISHED.value)
STREAM_METRICS = (*_TIMES, *_COUNTS, _RATE)
UNREADABLE = "unreadable"
"""The metric of the whole recording: the number of unreadable messages."""
_MORE_IS_BETTER = re.compile(r"m?ap(\d.*|_.*)?|mota|motp|idf1|hota|det_a|ass_a|recall.*|precision.*|rate_hz")
_LESS_IS_BETTER = re.compile(r"ece|.*(ade|fde|rmse|drift|error|miss|switch|false).*")
_AS_SEEN = "as_seen"  # the default way to score detections
_GRAMMAR = re.compile(r"(?:(?P<stream>.*):)?\s*(?P<metric>[^\s:<>=]+)\s*(?P<how><=|>=|=)\s*(?P<limit>\S+)")


class BudgetResult(NamedTuple):
    """The result of a check: of a budget against one stream or topic, or of a comparison.

    Attributes:
        name: stream or topic, and metric; or what is compared.
        value: the measured value; None if there is none, which fails the check.
        limit: for example ``<= 60 ms``.
        holds: whether the value is within the limit.
    """

    name: str
    value: float | None
    limit: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit for a metric of some streams.

    Attributes:
        stream: a node, a topic, a stream (``/node: /topic``) or an output; None for all with the metric.
        metric: one of `STREAM_METRICS`, ``unreadable``, or a score by the end of its path (``ap50``).
        at_least: whether the limit is a minimum; None for `=`, where it depends on the metric.
        limit: in ms, messages, Hz or the unit of the score. percent: of the messages received.
    """

    stream: str | None
    metric: str
    at_least: bool | None
    limit: float
    percent: bool = False

    def __str__(self) -> str:
        sign = {None: "=", True: ">=", False: "<="}[self.at_least]
        stream = f"{self.stream}: " if self.stream else ""
        return f"{stream}{self.metric}{sign}{self.limit:g}{'%' * self.percent}"


def parse_budget(text: str, scored: bool = True) -> Budget:
    """Parse ``[STREAM:]METRIC<=LIMIT``.

    Args:
        scored: whether scores are available; if not, only metrics of streams are accepted.
        text: with ``<=``, ``>=`` or ``=``; ``=`` means at least for rates and scores, and at most for times,
        losses and errors. A limit of lost messages may be a percentage.

    Raises:
        ConfigError: the text does not have that form.
    """
    found = _GRAMMAR.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"budget={text!r}: write [STREAM:]METRIC<=LIMIT, e.g. age_p99<=60 or ap50>=0.6")
    number = found["limit"].removesuffix("%")
    try:
        limit = float(number)
    except ValueError:
        limit = float("nan")
    if not abs(limit) < float("inf"):
        raise ConfigError(f"budget={text!r}: limit {number!r} is not a number")
    metric, percent = found["metric"], found["limit"].endswith("%")
    if not scored and metric not in (*STREAM_METRICS, UNREADABLE):
        raise ConfigError(
            f"budget={text!r}: no such metric; the metrics are: {_listed((*STREAM_METRICS, UNREADABLE))}; "
            "scores need --truth"
        )
    if percent and metric not in _COUNTS:
        raise ConfigError(f"budget={text!r}: only {', '.join(_COUNTS)} can be a percentage")
    stream = (found["stream"] or "").strip() or None
    at_least = {"=": None, ">=": True, "<=": False}[found["how"]]
    return Budget(stream, metric, at_least, limit, percent)


def check_budgets(budgets: Sequence[Budget], metrics: Mapping[str, Any]) -> list[BudgetResult]:
    """Check budgets against metrics.json, with one result for each stream that a budget applies to.

    Raises:
        ConfigError: a metric or stream does not exist, or the meaning of `=` is not known for a score; lists
        the valid names.
    """
    return [result for budget in budgets for result in _check(budget, metrics)]


def budget_table(results: Sequence[BudgetResult]) -> Table:
    """Return a table with one row per result."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("budget", overflow="fold")
    for heading in ("value", "limit", "holds"):
        table.add_column(heading, justify="right")
    for name, value, limit, holds in results:
        told = "no data" if value is None else f"{value:.6g}"
        table.add_row(escape(name), told, limit, "yes" if holds else "[red]no[/red]")
    return table


def _check(budget: Budget, metrics: Mapping[str, Any]) -> list[BudgetResult]:
    if budget.metric == UNREADABLE:
        value = metrics["bag"]["unreadable"]["messages"]
        return [_result(budget, UNREADABLE, value, budget.at_least or False)]
    if budget.metric in STREAM_METRICS:
        return list(_check_streams(budget, metrics["streams"]))
    return list(_check_scores(budget, metrics.get("scores") or {}))


def _check_streams(budget: Budget, streams: Mapping[str, Mapping]) -> Iterator[BudgetResult]:
    chosen = [name for name, row in streams.items() if _meant(budget.stream, name, row["node"], row["topic"])]
    if not chosen:
        raise ConfigError(f"budget={budget}: no such stream; the streams are: {_listed(streams)}")
    at_least = budget.metric in _AT_LEAST if budget.at_least is None else budget.at_least
    for name in chosen:
        value = _stream_value(streams[name], budget)
        yield _result(budget, f"{name}: {budget.metric}", value, at_least)


def _stream_value(row: Mapping[str, Any], budget: Budget) -> float | None:
    """Return the value of a stream's metric; None if the stream has no data for it."""
    received, states = row["received"], row["states"]
    if budget.metric in _TIMES:
        value: Any = row
        for key in _TIMES[budget.metric]:
            value = (value or {}).get(key)
        return value
    if not received:
        return None
    if budget.metric == _RATE:
        return row["rate_hz"]
    count = {
        "lost": received - states[Outcome.PUBLISHED.value],
        "unaccounted": received - sum(states.values()),
        **states,
    }[budget.metric]
    return 100 * count / received if budget.percent else count


def _check_scores(budget: Budget, scores: Mapping[str, Mapping]) -> Iterator[BudgetResult]:
    known = {topic: _numbers(row) for topic, row in scores.items()}
    if not any(_ends(path, budget.metric) for row in known.values() for path in row):
        names = sorted({path for row in known.values() for path in row})
        raise ConfigError(
            f"budget={budget}: no such metric; the metrics are: {_listed((*STREAM_METRICS, UNREADABLE))}; "
            f"the scores are: {_listed(names) if names else 'none; scores need --truth'}"
        )
    chosen = [topic for topic in known if _meant(budget.stream, topic, topic.rpartition("/")[0], topic)]
    if not chosen:
        raise ConfigError(f"budget={budget}: no such scored topic; the scored topics are: {_listed(known)}")
    found = [(topic, path) for topic in chosen if (path := _score_path(budget, topic, known[topic]))]
    if not found:
        raise ConfigError(f"budget={budget}: {', '.join(chosen)} has only: {_listed(known[chosen[0]])}")
    for topic, path in found:
        yield _result(budget, f"{topic}: {path}", known[topic][path], _at_least(budget, path))


def _score_path(budget: Budget, topic: str, row: Mapping[str, Any]) -> str | None:
    """Return the path of the meant score: the one as seen, or else the outermost that matches."""
    if f"{_AS_SEEN}.{budget.metric}" in row:
        return f"{_AS_SEEN}.{budget.metric}"
    fitting = [path for path in row if _ends(path, budget.metric)]
    if not fitting:
        return None
    depth = min(path.count(".") for path in fitting)
    outermost = [path for path in fitting if path.count(".") == depth]
    if len(outermost) > 1:
        raise ConfigError(f"budget={budget}: {topic} has several, choose one of: {_listed(outermost)}")
    return outermost[0]


def _at_least(budget: Budget, path: str) -> bool:
    if budget.at_least is not None:
        return budget.at_least
    if _MORE_IS_BETTER.fullmatch(path.rpartition(".")[2]):
        return True
    if any(_LESS_IS_BETTER.fullmatch(name) for name in path.split(".")):
        return False
    raise ConfigError(f"budget={budget}: write <= or >=: it is not known whether a higher {path} is better")


def _numbers(row: Mapping[str, Any], before: str = "") -> dict[str, float | None]:
    """Return every number below `row` by its path; None for an unknown value."""
    found: dict[str, float | None] = {}
    for key, value in row.items():
        path = f"{before}.{key}" if before else str(key)
        if isinstance(value, Mapping):
            found |= _numbers(value, path)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[path] = value
    return found


def _ends(path: str, metric: str) -> bool:
    return path == metric or path.endswith("." + metric)


def _meant(asked: str | None, name: str, node: str, topic: str) -> bool:
    return asked is None or re.sub(r":\s*", ": ", asked) in (name, node, topic)


def _result(budget: Budget, name: str, value: float | None, at_least: bool) -> BudgetResult:
    unit = " ms" if budget.metric in _TIMES else " Hz" if budget.metric == _RATE else " %" * budget.percent
    limit = f"{'>=' if at_least else '<='} {budget.limit:g}{unit}"
    holds = value is not None and (value >= budget.limit if at_least else value <= budget.limit)
    return BudgetResult(name, value, limit, holds)


def _listed(names: Any) -> str:
    return ", ".join(names)
