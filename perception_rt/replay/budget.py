"""Budgets: limits that the metrics of a replay must keep, as ``age_p99<=60`` or ``/fusion: lost<=1%``."""

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
"""Of the whole recording: messages that could not be read."""
_MORE_IS_BETTER = re.compile(r"m?ap(\d.*|_.*)?|mota|motp|idf1|hota|det_a|ass_a|recall.*|precision.*|rate_hz")
_LESS_IS_BETTER = re.compile(r"ece|.*(ade|fde|rmse|drift|error|miss|switch|false).*")
_AS_SEEN = "as_seen"  # of the ways to score detections, the usual one
_GRAMMAR = re.compile(r"(?:(?P<stream>.*):)?\s*(?P<metric>[^\s:<>=]+)\s*(?P<how><=|>=|=)\s*(?P<limit>\S+)")


class BudgetResult(NamedTuple):
    """A budget held against one stream or topic.

    Attributes:
        name: the stream or topic and the metric.
        value: what was measured; None where nothing was, which holds no budget.
        limit: as ``<= 60 ms``.
        holds: whether the value keeps it.
    """

    name: str
    value: float | None
    limit: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit.

    Attributes:
        stream: a node, a topic, a stream (``/node: /topic``) or an output; None: all that have the metric.
        metric: one of `STREAM_METRICS`, ``unreadable``, or a score by the end of its path (``ap50``).
        at_least: whether the limit is the least that is good; None: `=` was said, the metric tells.
        limit: ms, messages, Hz or as the score. percent: of the messages received.
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
    """Read ``[STREAM:]METRIC<=LIMIT``.

    Args:
        scored: whether there will be scores; without, only metrics of streams can be meant.
        text: with ``<=``, ``>=``, or ``=`` for what is natural: at least, for rates and scores, at most for
            times, losses and errors. A limit of lost messages may be a percentage.

    Raises:
        ConfigError: it is not of that form; says what is.
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
            f"budget={text!r}: no such metric; there are: {_listed((*STREAM_METRICS, UNREADABLE))}; "
            "for scores give --truth"
        )
    if percent and metric not in _COUNTS:
        raise ConfigError(f"budget={text!r}: a percentage can limit {', '.join(_COUNTS)}")
    stream = (found["stream"] or "").strip() or None
    at_least = {"=": None, ">=": True, "<=": False}[found["how"]]
    return Budget(stream, metric, at_least, limit, percent)


def check_budgets(budgets: Sequence[Budget], metrics: Mapping[str, Any]) -> list[BudgetResult]:
    """Hold budgets against what metrics.json holds, a result for each stream that a budget is about.

    Raises:
        ConfigError: a metric or a stream that is not there, or a score of which `=` does not say enough;
            lists what there is.
    """
    return [result for budget in budgets for result in _check(budget, metrics)]


def budget_table(results: Sequence[BudgetResult]) -> Table:
    """A row a result."""
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
        raise ConfigError(f"budget={budget}: no such stream; there are: {_listed(streams)}")
    at_least = budget.metric in _AT_LEAST if budget.at_least is None else budget.at_least
    for name in chosen:
        value = _stream_value(streams[name], budget)
        yield _result(budget, f"{name}: {budget.metric}", value, at_least)


def _stream_value(row: Mapping[str, Any], budget: Budget) -> float | None:
    """The value of a stream's metric; None where the stream gave no data for it."""
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
            f"budget={budget}: no such metric; there are: {_listed((*STREAM_METRICS, UNREADABLE))}; "
            f"of scores: {_listed(names) if names else 'none; give --truth'}"
        )
    chosen = [topic for topic in known if _meant(budget.stream, topic, topic.rpartition("/")[0], topic)]
    if not chosen:
        raise ConfigError(f"budget={budget}: no such scored topic; there are: {_listed(known)}")
    found = [(topic, path) for topic in chosen if (path := _score_path(budget, topic, known[topic]))]
    if not found:
        raise ConfigError(f"budget={budget}: {', '.join(chosen)} has only: {_listed(known[chosen[0]])}")
    for topic, path in found:
        yield _result(budget, f"{topic}: {path}", known[topic][path], _at_least(budget, path))


def _score_path(budget: Budget, topic: str, row: Mapping[str, Any]) -> str | None:
    """The score that is meant: that of the outputs as seen, or else the outermost that ends so."""
    if f"{_AS_SEEN}.{budget.metric}" in row:
        return f"{_AS_SEEN}.{budget.metric}"
    fitting = [path for path in row if _ends(path, budget.metric)]
    if not fitting:
        return None
    depth = min(path.count(".") for path in fitting)
    outermost = [path for path in fitting if path.count(".") == depth]
    if len(outermost) > 1:
        raise ConfigError(f"budget={budget}: {topic} has several, say which: {_listed(outermost)}")
    return outermost[0]


def _at_least(budget: Budget, path: str) -> bool:
    if budget.at_least is not None:
        return budget.at_least
    if _MORE_IS_BETTER.fullmatch(path.rpartition(".")[2]):
        return True
    if any(_LESS_IS_BETTER.fullmatch(name) for name in path.split(".")):
        return False
    raise ConfigError(f"budget={budget}: whether more of {path} is better is not known; write <= or >=")


def _numbers(row: Mapping[str, Any], before: str = "") -> dict[str, float | None]:
    """Every single number below, by its path; one that is not known is None."""
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
