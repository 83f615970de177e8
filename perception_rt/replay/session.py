"""Run a complete replay: play, score, compare, check the budgets and write the report."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from perception_rt.component.graph import read_graph
from perception_rt.replay.bag import Bag
from perception_rt.replay.budget import Budget, BudgetResult, check_budgets
from perception_rt.replay.compare import Comparison, Tolerance, compare_runs
from perception_rt.replay.environment import machine, versions
from perception_rt.replay.explain import explain_run
from perception_rt.replay.lockstep.runner import MAX_GAP_S, Run, replay
from perception_rt.replay.lockstep.timing import parse_inference
from perception_rt.replay.report import findings_of, write_report
from perception_rt.replay.report.explanations import EXPLAIN
from perception_rt.replay.score import Places, load_truth, score
from perception_rt.replay.time_base import AUTO
from perception_rt.types import ConfigError

GOOD, FAILED, INCOMPLETE = 0, 1, 3
"""Exit codes: success; a comparison or budget failed; part of the recording could not be used."""
RUN, METRICS, LEDGER = "run.json", "metrics.json", "ledger.csv"
BAG = "bag"
WRITTEN = (RUN, METRICS, "differences.json", "report.html", "report.png", BAG, LEDGER, "mined", EXPLAIN)
PARTS = (*(f"{name}.part" for name in WRITTEN), ".differences.json.partial")
"""Incomplete files that an interrupted replay may leave behind."""


@dataclass(frozen=True)
class Session:
    """The options of `perception-rt replay`.

    Attributes:
        bag: the rosbag2 recording. config: the parameter file. out: the output folder.
        inference: see `parse_inference`.
        overrides, remaps, speed, time, max_gap_s: see `Run`.
        truths: sources of ground truth; see `load_truth`.
        golden: an earlier run to compare with. tolerance, volatile: see `compare_runs`.
        budgets: limits to check.
        report: whether to write a report.
        explain: detections of each detector's sensor to explain with heat maps.
        arguments: the arguments that determine the result, for run.json.
    """

    bag: Path
    config: Path
    out: Path
    inference: str = "measured"
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remaps: Mapping[str, str] = field(default_factory=dict)
    speed: float | None = None
    time: str = AUTO
    max_gap_s: float = MAX_GAP_S
    truths: Sequence[str] = ()
    golden: Path | None = None
    tolerance: Tolerance | None = None
    volatile: Sequence[str] = ()
    budgets: Sequence[Budget] = ()
    report: bool = True
    explain: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay.

    Attributes:
        code: exit code of the command.
        metrics: content of metrics.json.
        checks: results of the budgets and of the comparison.
        comparison: differences from an earlier run; None if not requested.
        run: content of run.json.
    """

    code: int
    metrics: dict[str, Any]
    checks: list[BudgetResult]
    comparison: Comparison | None
    run: dict[str, Any]


def run_session(
    session: Session, live: Any = None, progress: Callable[[float, float], None] = lambda done, total: None
) -> ReplayResult:
    """Run a session; run.json is written last, so that its presence marks a complete folder.

    Raises:
        PerceptionError: an input cannot be used; the message is one line.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    inference = parse_inference(session.inference)
    run = Run(
        read_graph(session.config),
        inference,
        session.overrides,
        session.remaps,
        session.speed,
        session.time,
        session.max_gap_s,
    )
    out = session.out
    with Bag(session.bag, salvage=True) as bag:
        # Check all inputs before an earlier run is overwritten.
        _check_folders(session)
        truths = [truth for source in session.truths for truth in load_truth(source, bag)]
        places = Places.of(bag) if truths else None

        def report_progress(done_s: float) -> None:
            progress(done_s, bag.duration_s)

        began_s = time.monotonic()
        metrics = replay(run, bag, out, live, report_progress, begin=lambda: _begin(out))
        replayed_s = time.monotonic() - began_s
        bag_s = metrics["bag"]["duration_s"]
    metrics["scores"] = {} if places is None else score(out / BAG, truths, metrics, places)
    _write_json(out / METRICS, metrics)
    comparison, checks = _check_results(session, metrics)
    code = _code(metrics, checks)
    about = {
        "arguments": dict(session.arguments),
        "bag": str(session.bag),
        "config": str(session.config),
        "inference": session.inference,
        "started": started,
        "wall_s": round(replayed_s, 3),
        "bag_s": round(bag_s, 3),
        "speed": round(bag_s / replayed_s, 3),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions(),
        "exit_code": code,
        "findings": findings_of(out, metrics),
    }
    if session.explain:
        with Bag(session.bag, salvage=True) as bag:
            bag.retime(metrics["bag"].get("clock", {}).get("behind_ns", {}))
            explain_run(out, session.config, session.overrides, bag, metrics, session.explain)
    if session.report:
        write_report(out, session.bag, about, checks, truths, session.golden)
    _write_json(out / RUN, about)
    return ReplayResult(code, metrics, checks, comparison, about)


def _check_folders(session: Session) -> None:
    """Create the output folder, and make sure that only an earlier replay is overwritten.

    Raises:
        ConfigError: the folder has other content, is also an input, or cannot be written.
    """
    out, bag, golden = session.out, session.bag.resolve(), session.golden
    where = out.resolve()
    if where == bag or bag in where.parents:
        raise ConfigError(f"--out={out}: is inside the recording: choose another folder")
    if where / BAG in (bag, *bag.parents):
        raise ConfigError(f"--out={out}: its {BAG}/ is the recording: choose another folder")
    if golden is not None:
        if golden.resolve() == where:
            raise ConfigError(f"--compare={golden}: is the same folder as --out")
        for name in (BAG, LEDGER, METRICS):
            if not (golden / name).exists():
                raise ConfigError(
                    f"--compare={golden}: contains no {name}; give the output folder of a replay"
                )
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
    except OSError as error:
        raise ConfigError(f"--out={out}: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"--out={out}: no permission to write")
    strange = sorted(names - {*WRITTEN, *PARTS}) or sorted(names) * (not _wrote(out))
    if strange:
        raise ConfigError(
            f"--out={out}: contains {strange[0]}, which is not from a replay: choose another folder"
        )


def _wrote(out: Path) -> bool:
    """Return whether a replay wrote a folder: it has run.json, or run.json.part after an interruption."""
    for name in (RUN, f"{RUN}.part"):
        try:
            if "perception_rt" in json.loads((out / name).read_text())["versions"]:
                return True
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return False


def _begin(out: Path) -> None:
    """Remove the files of an earlier replay, and mark the folder as the output of a replay."""
    marks = (RUN, f"{RUN}.part")  # the files that mark the folder go last
    for path in (out / name for name in (*sorted({*WRITTEN, *PARTS} - {*marks}), *marks)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (out / f"{RUN}.part").write_text(json.dumps({"versions": versions()}))


def _check_results(session: Session, metrics: dict[str, Any]) -> tuple[Comparison | None, list[BudgetResult]]:
    """Return the comparison and the result of every check."""
    checks = check_budgets(session.budgets, metrics)
    if session.golden is None:
        return None, checks
    comparison = compare_runs(session.out, session.golden, session.tolerance, session.volatile)
    found = sum(comparison.counts.values())
    checks.append(BudgetResult(f"differences from {session.golden.name}", found, "<= 0", comparison.same))
    return comparison, checks


def _code(metrics: dict[str, Any], checks: Sequence[BudgetResult]) -> int:
    if not all(check.holds for check in checks):
        return FAILED
    bag = metrics["bag"]
    return INCOMPLETE if bag["missing_topics"] or bag["unreadable"]["reasons"] else GOOD


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(part, path)
