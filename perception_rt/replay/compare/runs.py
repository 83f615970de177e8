"""Compare the bags, ledgers and metrics of two replays.

Both bags and both ledgers are read in step, so that memory does not grow with their length. Messages are
matched by topic and header stamp (and by order if a stamp repeats), those without a header by order.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from perception_rt.replay.compare.bags import compare_bags
from perception_rt.replay.compare.difference import VOLATILE, Comparison, Difference, Judge
from perception_rt.replay.compare.in_step import Item, Numbering, matched
from perception_rt.replay.compare.leaves import Tolerance
from perception_rt.types import ConfigError

BAG, LEDGER, METRICS = "bag", "ledger.csv", "metrics.json"
_STREAM_METRICS = ("received", "states")
_BAG_METRICS = ("missing_topics", "unreadable")
_TIMES = ("ended_ns", "arrival_ns")
_COLUMNS = {"node", "topic", "number", "stamp_ns", "outcome", "reason", *_TIMES}


def compare_runs(
    new: Path, golden: Path, tolerance: Tolerance | None = None, volatile: Sequence[str] = VOLATILE
) -> Comparison:
    """Compare two replays, and write every difference to `new`/differences.json.

    Args:
        new: folder of the run to check. golden: folder of the reference run.
        tolerance: for floats; None for the default.
        volatile: patterns of fields that may differ; see `leaves.ignore_paths`.

    Raises:
        ConfigError: a folder is not the output of a replay, or a pattern is malformed.
        BagError: a bag cannot be read completely.
    """
    judge = Judge(tolerance or Tolerance(), volatile)
    comparison = Comparison(judge.compared)
    _check(new, "new")
    partial = new / ".differences.json.partial"
    try:
        with partial.open("w") as file:
            file.write('{"differences": [')
            for number, difference in enumerate(differences(new, golden, judge)):
                comparison.add(difference)
                file.write(",\n" if number else "\n")
                file.write(json.dumps(difference.to_json(), allow_nan=False))
            rest = {"counts": comparison.by_place(), "compared": dict(sorted(judge.compared.items()))}
            file.write("\n], " + json.dumps(rest)[1:] + "\n")
        os.replace(partial, new / "differences.json")
    finally:
        partial.unlink(missing_ok=True)
    return comparison


def differences(new: Path, golden: Path, judge: Judge) -> Iterator[Difference]:
    """Yield every difference of two runs; errors as in `compare_runs`."""
    _check(golden, "golden")
    _check(new, "new")
    yield from _metrics(new, golden, judge)
    yield from _ledgers(new, golden, judge)
    yield from compare_bags(new / BAG, golden / BAG, judge)


def _check(folder: Path, name: str) -> None:
    for part in (BAG, LEDGER, METRICS):
        if not (folder / part).exists():
            raise ConfigError(
                f"{name}={folder}: contains no {part}; give the output folder of `perception-rt replay`"
            )


def _ledgers(new: Path, golden: Path, judge: Judge) -> Iterator[Difference]:
    with (new / LEDGER).open(newline="") as mine, (golden / LEDGER).open(newline="") as other:
        for row, model in matched(_rows(mine, new), _rows(other, golden)):
            there = row or model
            judge.compared[LEDGER] += 1
            outcomes = [side and side["outcome"] for side in (row, model)]
            name = f"{there['node']}: {there['topic']}[{there['number']}].outcome"
            if outcomes[0] != outcomes[1] and not judge.ignores(LEDGER, name):
                log_ns, stamp_ns = _int(there["ended_ns"]), _int(there["stamp_ns"])
                note = next((side["reason"] for side in (row, model) if side and side["reason"]), "")
                yield Difference("outcome", LEDGER, name, outcomes[0], outcomes[1], log_ns, stamp_ns, note)


def _rows(file: TextIO, folder: Path) -> Iterator[Item]:
    reader = csv.DictReader(file)
    # Up to version 0.3.0 the column had another name.
    renamed = {"fate": "outcome"}  # words: ok
    reader.fieldnames = [renamed.get(name, name) for name in reader.fieldnames or ()]
    lacking = _COLUMNS - set(reader.fieldnames or ())
    if lacking:
        raise ConfigError(
            f"{folder / LEDGER}: not a ledger of a replay: no column {', '.join(sorted(lacking))}"
        )
    numbering, time_ns = Numbering(), 0
    for row in reader:
        try:
            time_ns = next((int(row[column]) for column in _TIMES if row[column]), time_ns)
        except ValueError as error:
            raise ConfigError(f"{folder / LEDGER}: line {reader.line_num}: {error}") from error
        kind = (row["node"], row["topic"], row["number"])
        yield Item(time_ns, (*kind, numbering.number(kind, time_ns)), row)


def _int(text: str) -> int | None:
    return int(text) if text else None


def _metrics(new: Path, golden: Path, judge: Judge) -> Iterator[Difference]:
    """Yield differences in states, unreadable messages and scores, which do not depend on timing."""
    mine, other = _read_metrics(new), _read_metrics(golden)
    for part in mine:
        judge.compared[METRICS] += 1
        for leaf in judge.leaves(METRICS, mine[part], other[part], part):
            yield Difference("metric", METRICS, leaf.path, leaf.new, leaf.golden, note=leaf.note)


def _read_metrics(folder: Path) -> dict[str, dict]:
    try:
        whole = json.loads((folder / METRICS).read_text())
        streams = whole["streams"].items()
        return {
            "streams": {stream: {name: row[name] for name in _STREAM_METRICS} for stream, row in streams},
            "bag": {name: whole["bag"][name] for name in _BAG_METRICS},
            "scores": whole["scores"],
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{folder / METRICS}: not the metrics of a replay: {error!r}") from error
