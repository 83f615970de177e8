"""Replay many bags: skip completed ones, run the others and collect the results."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perception_rt.realtime.cores import available_cores
from perception_rt.replay.batch.bags import name_bags
from perception_rt.replay.batch.unit import (
    REFUSED,
    Unit,
    UnitResult,
    attempt,
    completed,
    identify,
    prepare,
)
from perception_rt.replay.batch.watch import BatchProgress
from perception_rt.types import ConfigError

# Not `-m`, which imports from the working folder first: a checkout of this package there has its name.
_MAIN = (
    f"import sys; sys.path = [*filter(None, sys.path), {str(Path(__file__).resolve().parents[3])!r}]; "
    "from perception_rt.cli.main import main; sys.exit(main())"
)
REPLAY = (sys.executable, "-c", _MAIN, "replay")
_WORST_FIRST = (REFUSED, 1, 3, 0)
_MEANING = {
    1: "a comparison or a budget failed",
    3: "a part could not be read, or a topic that a node wants is missing",
}


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How to distribute the replays.

    Attributes:
        jobs: number of parallel replays on this machine; each gets an equal share of its cores.
        ray: a Ray cluster's address, ``""`` for a Ray of this machine, None for none. A bag then takes the
            same share of cores, and Ray decides how many run at once. Bags, output and arguments' files must
            lie at the same paths on all its machines, and perception_rt be installed there.
        retries: how often a bag whose process was killed is restarted.

    Raises:
        ConfigError: a number is too small.
    """

    jobs: int = 1
    ray: str | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        for name, least in (("jobs", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be >= {least}")


def run_batch(
    bags: Sequence[Path],
    out: Path,
    arguments: Callable[[str], Sequence[str]],
    plan: BatchPlan,
    console: Console | None = None,
    program: Sequence[str] = REPLAY,
) -> list[UnitResult]:
    """Replay every bag into `out`/<name> in its own process, with the log in `out`/<name>.log.

    A bag that was completed before with the same arguments, recording and files is skipped. An incomplete one
    is replayed again. A bag that fails does not stop the others.

    Args:
        bags: from `find_bags`. out: output folder; created if needed.
        arguments: of the single replay, by the bag's name; without bag, `--out` and `--progress`.
        plan: how to distribute the replays.
        console: for the progress bars; None for standard error.
        program: the command that takes one bag, these arguments, `--out` and `--progress json`.

    Returns:
        The result of each bag, in the order of `bags`.

    Raises:
        ConfigError: an output folder has other content, or Ray is not available.
    """
    cores = max(1, available_cores() // plan.jobs)
    units = _units(bags, out, arguments, program, cores)
    outcomes = {unit.name: done for unit in units if (done := completed(unit)) is not None}
    open_units = [unit for unit in units if unit.name not in outcomes]
    for unit in open_units:
        prepare(unit)
    with BatchProgress(open_units, console or Console(stderr=True)) as progress:
        for outcome in outcomes.values():
            progress.ended(outcome)

        def ended(outcome: UnitResult) -> None:
            outcomes[outcome.name] = outcome
            progress.ended(outcome)

        if plan.ray is None:
            run_here(open_units, plan, ended)
        elif open_units:
            from perception_rt.replay.batch.on_ray import run_on_ray  # optional, and slow to import

            run_on_ray(open_units, plan.ray, plan.retries, ended)
    return [outcomes[unit.name] for unit in units]


def run_here(units: Sequence[Unit], plan: BatchPlan, ended: Callable[[UnitResult], None]) -> None:
    """Run units on this machine, `plan.jobs` at a time; `ended` is called from here."""
    stop = threading.Event()

    def work(unit: Unit) -> UnitResult:
        while True:
            outcome = attempt(unit, stop)
            if not outcome.killed or outcome.attempts > plan.retries or stop.is_set():
                return outcome

    with ThreadPoolExecutor(plan.jobs) as pool:
        futures = [pool.submit(work, unit) for unit in units]
        try:
            for future in as_completed(futures):
                ended(future.result())
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def exit_code(outcomes: Sequence[UnitResult]) -> int:
    """The worst of the bags' own: 2 (no result) before 1 (a check failed) before 3 (damaged) before 0.

    A bag that failed, however, has no result.
    """
    codes = {REFUSED if outcome.state == "failed" else outcome.exit_code for outcome in outcomes}
    return next(code for code in _WORST_FIRST if code in codes or code == 0)


def batch_table(outcomes: Sequence[UnitResult]) -> Table:
    """Return a table with one row per bag."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("bag", overflow="fold")
    table.add_column("state")
    for heading in ("exit code", "attempts"):
        table.add_column(heading, justify="right")
    table.add_column("why", overflow="fold")
    for outcome in outcomes:
        code = "-" if outcome.exit_code is None else str(outcome.exit_code)
        tried = str(outcome.attempts) if outcome.attempts else "-"
        meaning = "" if outcome.exit_code is None else _MEANING.get(outcome.exit_code, "")
        why = outcome.reason or meaning
        table.add_row(escape(outcome.name), outcome.state, code, tried, escape(why))
    return table


def _units(
    bags: Sequence[Path],
    out: Path,
    arguments: Callable[[str], Sequence[str]],
    program: Sequence[str],
    cores: int,
) -> list[Unit]:
    units = []
    for bag, name in zip(bags, name_bags(bags), strict=True):
        folder, given = out.resolve() / name, [str(argument) for argument in arguments(name)]
        command = (*program, str(bag.resolve()), *given, "--out", str(folder), "--progress", "json")
        units.append(Unit(name, bag.resolve(), folder, command, identify(bag, given), cores, Path.cwd()))
    return units
