"""Merge the metrics of many replays: sum counts, pool times and average scores."""

from __future__ import annotations

import csv
import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_rt.realtime.pipeline import STAGES
from perception_rt.replay.batch.unit import UnitResult
from perception_rt.replay.lockstep.recorder import LEDGER, RECORDING, percentiles
from perception_rt.types import ConfigError

METRICS = "metrics.json"
MEAN_OF_BAGS = "counts are sums; all else is the mean of the bags, weighted by their truths"
_AGE_RANKS, _STAGE_RANKS = (50, 90, 99), (50, 99)
_WEIGHTS = ("truths", "boxes", "frames", "count", "predictions", "states")
"""Counts that weight the scores next to and below them; the first existing one is used."""
_NOT_COUNTS = ("nees_expected",)
_DECIMALS = 6


def merge_runs(folder: Path, outcomes: Sequence[UnitResult]) -> dict[str, Any]:
    """Merge the metrics of `folder`/<name> of every completed bag, and write `folder`/metrics.json.

    Returns:
        The metrics as of a single replay, and "bags": the result and figures of each bag, by name. States,
        messages and seconds are sums; percentiles are exact, over the rows of all ledgers; a rate is weighted
        by the durations of the bags that have the stream. Scores: counts are summed and all else averaged
        ("merged" has the method). This is exact for MOTA and recall; AP, IDF1 and HOTA over pooled outputs
        would differ a little.

    Raises:
        ConfigError: a run's metrics or ledger cannot be read.
    """
    runs = {o.name: _read(folder / o.name) for o in outcomes if o.state != "failed"}
    merged = {
        "format": 1,
        "streams": _streams(folder, runs),
        "bag": _bag([run["bag"] for run in runs.values()]),
        "bundles": _bundles(runs),
        "outputs": _outputs(runs),
        "scores": _scores([run["scores"] for run in runs.values()]),
        "bags": {outcome.name: _describe(outcome, runs.get(outcome.name)) for outcome in outcomes},
    }
    partial = folder / f".{METRICS}.partial"
    partial.write_text(json.dumps(merged, indent=1, allow_nan=False) + "\n")
    partial.replace(folder / METRICS)
    return merged


def _read(folder: Path) -> dict[str, Any]:
    path = folder / METRICS
    try:
        metrics = json.loads(path.read_text())
        return {part: metrics[part] for part in ("streams", "bag", "bundles", "outputs", "scores")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a replay's metrics: {error!r}; remove its folder and go on"
        ) from error


def _describe(outcome: UnitResult, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the figures of a bag; lists such as curves remain in its own metrics.json."""
    row: dict[str, Any] = {"exit_code": outcome.exit_code, "failed": outcome.state == "failed"}
    if run is None:
        return row | {"reason": outcome.reason}
    figures = ("received", "states", "rate_hz", "age_ms")
    return row | {
        "duration_s": run["bag"]["duration_s"],
        "streams": {name: {key: of[key] for key in figures} for name, of in run["streams"].items()},
        "outputs": {topic: of["sha256"] for topic, of in run["outputs"].items()},
        "scores": _without_lists(run["scores"]),
    }


# Streams.


def _streams(folder: Path, runs: Mapping[str, Mapping]) -> dict[str, dict]:
    merged: dict[str, dict] = {}
    names = sorted({name for run in runs.values() for name in run["streams"]})
    for name in names:
        having = {bag: run for bag, run in runs.items() if name in run["streams"]}
        rows = [run["streams"][name] for run in having.values()]
        # A recording without the topic does not count for its rate.
        weights = [
            run["bag"]["duration_s"] * (run["streams"][name]["received"] > 0) for run in having.values()
        ]
        states = {state: sum(row["states"][state] for row in rows) for state in rows[0]["states"]}
        merged[name] = {
            **{key: rows[0][key] for key in ("node", "topic")},
            "received": sum(row["received"] for row in rows),
            "states": states,
            "reasons": {state: text for row in rows for state, text in row["reasons"].items()},
            "rate_hz": round(_mean([row["rate_hz"] for row in rows], weights), 3),
        }
    for name, times in _times(folder, list(runs), names):
        merged[name]["age_ms"] = percentiles(times["age"], _AGE_RANKS)
        merged[name]["stages_ms"] = {stage: percentiles(times[stage], _STAGE_RANKS) for stage in STAGES}
    return merged


def _times(folder: Path, bags: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Yield all ages and stage times of each stream, ms, from the ledgers."""
    found = {name: {key: array("d") for key in ("age", *STAGES)} for name in names}
    for bag in bags:
        path = folder / bag / LEDGER
        try:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["node"] != RECORDING:
                        times = found[f"{row['node']}: {row['topic']}"]
                        for key, values in times.items():
                            if text := row[f"{key}_ms"]:
                                values.append(float(text))
        except (OSError, KeyError, ValueError) as error:
            raise ConfigError(
                f"{path}: not a replay's ledger: {error!r}; remove its folder and go on"
            ) from error
    for name in names:
        yield name, found.pop(name)


# The rest.


def _bag(bags: Sequence[Mapping]) -> dict[str, Any]:
    topics: dict[str, dict] = {}
    missing: dict[str, list[str]] = {}
    reasons: dict[str, int] = {}
    faults: Counter[str] = Counter()
    for bag in bags:
        for topic, row in bag["topics"].items():
            known = topics.setdefault(topic, {"type": row["type"], "messages": 0, "used_by": []})
            known["messages"] += row["messages"] or 0
            known["used_by"] = sorted({*known["used_by"], *row["used_by"]})
        for topic, nodes in bag["missing_topics"].items():
            missing[topic] = sorted({*missing.get(topic, ()), *nodes})
        for reason, count in bag["unreadable"]["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
        faults.update(bag["faults"])
    return {
        "duration_s": round(sum(bag["duration_s"] for bag in bags), 3),
        "messages": sum(bag["messages"] for bag in bags),
        "topics": topics,
        "missing_topics": missing,
        "unreadable": {"messages": sum(bag["unreadable"]["messages"] for bag in bags), "reasons": reasons},
        "faults": dict(faults),
    }


def _bundles(runs: Mapping[str, Mapping]) -> dict[str, dict]:
    """Return the bundle of every node; all runs of a batch use the same."""
    return {node: bundle for run in runs.values() for node, bundle in run["bundles"].items()}


def _outputs(runs: Mapping[str, Mapping]) -> dict[str, dict]:
    """Sum message counts, and hash the bags' hashes in order of their names."""
    merged: dict[str, dict] = {}
    for name in sorted(runs):
        for topic, row in runs[name]["outputs"].items():
            known = merged.setdefault(topic, {**row, "messages": 0, "sha256": hashlib.sha256()})
            known["messages"] += row["messages"]
            known["sha256"].update(f"{name} {row['sha256']}\n".encode())
    return {topic: {**row, "sha256": row["sha256"].hexdigest()} for topic, row in sorted(merged.items())}


# Scores.


def _scores(bags: Sequence[Mapping[str, Mapping]]) -> dict[str, dict]:
    topics = sorted({topic for scores in bags for topic in scores})
    merged = {}
    for topic in topics:
        rows = [scores[topic] for scores in bags if topic in scores]
        weights = [_weight(row.get("truth") or {}, 1) for row in rows]
        merged[topic] = {**_merge(rows, weights), "merged": MEAN_OF_BAGS, "bags": len(rows)}
    return merged


def _merge(rows: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """Merge rows of similar structure; missing values are taken from the other rows."""
    weights = [_weight(row, weight) for row, weight in zip(rows, weights, strict=True)]
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        having = [
            (row[key], weight) for row, weight in zip(rows, weights, strict=True) if row.get(key) is not None
        ]
        values = [value for value, _ in having]
        if not values:
            merged[key] = None
        elif all(isinstance(value, Mapping) for value in values):
            merged[key] = _merge(values, [weight for _, weight in having])
        elif all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            merged[key] = values[0] if key in _NOT_COUNTS else sum(values)
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            merged[key] = round(_mean(values, [weight for _, weight in having]), _DECIMALS)
        elif all(value == values[0] for value in values):
            merged[key] = values[0]
    return merged


def _weight(row: Mapping[str, Any], otherwise: float) -> float:
    return next((row[key] for key in _WEIGHTS if isinstance(row.get(key), int)), otherwise)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean of at least one value."""
    if not sum(weights):
        weights = [1] * len(values)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _without_lists(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_lists(item) for key, item in value.items() if not isinstance(item, list)}
