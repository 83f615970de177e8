"""Show progress bars of a batch, from the logs of its units."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from perception_rt.replay.batch.progress import read_progress
from perception_rt.replay.batch.unit import Unit, UnitResult

_EVERY_S = 0.5


class BatchProgress:
    """A context manager that shows a bar for the batch and each running bag, and a line per finished bag."""

    def __init__(self, units: Sequence[Unit], console: Console) -> None:
        self._waiting = {unit.name: unit for unit in units}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._bars: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def __enter__(self) -> BatchProgress:
        self._progress.start()
        self._whole = self._progress.add_task("bags", total=len(self._waiting))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.stop()

    def ended(self, outcome: UnitResult) -> None:
        """Print the result of a bag and remove its bar."""
        with self._lock:
            if self._waiting.pop(outcome.name, None) is not None:
                self._progress.advance(self._whole)
            bar = self._bars.pop(outcome.name, None)
            if bar is not None:
                self._progress.remove_task(bar)
        self._progress.console.print(escape(_describe(outcome)), highlight=False)

    def _follow(self) -> None:
        while not self._stop.wait(_EVERY_S):
            with self._lock:
                units = list(self._waiting.values())
            for unit in units:
                self._update(unit)

    def _update(self, unit: Unit) -> None:
        progress = read_progress(unit.log)
        if progress is None:
            return
        with self._lock:
            if unit.name not in self._waiting:
                return
            if unit.name not in self._bars:
                self._bars[unit.name] = self._progress.add_task(escape(unit.name), total=None)
            self._progress.update(self._bars[unit.name], completed=progress.done_s, total=progress.total_s)


def _describe(outcome: UnitResult) -> str:
    if outcome.state == "failed":
        tried = f" in {outcome.attempts} attempts" if outcome.attempts > 1 else ""
        return f"{outcome.name}: failed{tried}: {outcome.reason}"
    before = " before, skipped" if outcome.state == "skipped" else ""
    again = f" at attempt {outcome.attempts}" if outcome.attempts > 1 else ""
    return f"{outcome.name}: done{before}{again}, exit code {outcome.exit_code}"
