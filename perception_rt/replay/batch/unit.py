"""A unit of work: the replay of one bag as a command in its own process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from perception_rt import __version__
from perception_rt.replay.batch.pinned import pinned
from perception_rt.replay.batch.progress import parse_progress, tail
from perception_rt.types import ConfigError
from perception_rt.types.bounded_yaml import load_yaml

RUN = "run.json"
COMPLETE_CODES = (0, 1, 3)
REFUSED = 2
_ATTEMPT = "perception-rt: attempt"
_GRACE_S = 10.0
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Unit:
    """One bag to replay.

    Attributes:
        name: unique name of the bag.
        bag: the recording. folder: output of the command. command: to run.
        identity: everything that determines the result; equal identities have equal results.
        cores: number of CPU cores for the command. working_folder: where it runs.
    """

    name: str
    bag: Path
    folder: Path
    command: tuple[str, ...]
    identity: dict[str, Any]
    cores: int
    working_folder: Path

    @property
    def log(self) -> Path:
        """The log of the command, next to its output folder."""
        return self.folder.with_name(f"{self.name}.log")

    @property
    def record(self) -> Path:
        """The record of the completed unit, for the next batch."""
        return self.folder.with_name(f"{self.name}.unit.json")


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The result of a unit.

    Attributes:
        state: ``done``, ``skipped`` (done before), or ``failed``.
        exit_code: of the command; None if it has none.
        attempts: how often it was started. reason: why it failed.
        killed: whether it ended by a signal, so that another attempt may succeed.
    """

    name: str
    bag: Path
    state: str
    exit_code: int | None
    attempts: int
    reason: str = ""
    killed: bool = False


def identify(bag: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Return everything that determines the result of replaying a bag.

    The bag's files by size and time of change; the arguments; and what lies at the paths that they, or the
    YAML files among them, name (parameter files, bundles, labels): files by content, folders like the bag.
    """
    named = list(_paths(arguments))
    for path in [path for path in named if path.suffix in (".yaml", ".yml")]:
        named += _paths(_texts(path))
    return {
        "version": __version__,
        "arguments": list(arguments),
        "bag": _listing(bag),
        "inputs": {str(path): _content(path) for path in sorted({*named})},
    }


def completed(unit: Unit) -> UnitResult | None:
    """Return the result of a unit that was completed before with the same identity; else None."""
    try:
        before = json.loads(unit.record.read_text())
        code = int(json.loads((unit.folder / RUN).read_text())["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if before != _record(unit) or code not in COMPLETE_CODES:
        return None
    return UnitResult(unit.name, unit.bag, "skipped", code, 0)


def prepare(unit: Unit) -> None:
    """Prepare the output folder of a unit; the next attempt removes earlier output.

    Raises:
        ConfigError: the folder has other content.
    """
    folder, bag = unit.folder.resolve(), unit.bag.resolve()
    if folder == bag or folder in bag.parents or bag in folder.parents:
        raise ConfigError(f"{unit.folder}: is where the recording {unit.bag} is; choose another --out")
    ours = unit.log.is_file() and unit.log.read_text(errors="replace")[: len(_ATTEMPT)] in ("", _ATTEMPT)
    for path in (unit.folder, unit.log):
        if path.exists() and not ours:
            raise ConfigError(f"{path}: exists and is not from a batch; move it, or choose another --out")
    unit.folder.parent.mkdir(parents=True, exist_ok=True)
    unit.log.write_text("")


def attempt(unit: Unit, stop: threading.Event | None = None) -> UnitResult:
    """Run the command once with an empty output folder; `stop` ends it."""
    if unit.folder.exists():
        shutil.rmtree(unit.folder)
    number = attempts(unit) + 1
    with unit.log.open("a") as log:
        print(f"{_ATTEMPT} {number}", file=log, flush=True)
        process = subprocess.Popen(
            pinned(unit.command, unit.cores),
            cwd=unit.working_folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is handled by `stop`
        )
        try:
            while process.poll() is None:
                if stop is not None and stop.is_set():
                    return UnitResult(unit.name, unit.bag, "failed", 130, number, "interrupted")
                time.sleep(0.05)
        finally:
            _end(process)
    return _outcome(unit, process.returncode, number)


def attempts(unit: Unit) -> int:
    """Return how often a unit was started, from its log, as a killed worker cannot report it."""
    with unit.log.open(errors="replace") as log:
        return sum(line.startswith(_ATTEMPT) for line in log)


def _outcome(unit: Unit, code: int, number: int) -> UnitResult:
    if code in COMPLETE_CODES and (unit.folder / RUN).is_file():
        unit.record.write_text(json.dumps(_record(unit), indent=1) + "\n")
        return UnitResult(unit.name, unit.bag, "done", code, number)
    if code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
        return UnitResult(unit.name, unit.bag, "failed", None, number, reason, killed=True)
    said = [line.strip() for line in tail(unit.log) if line.strip() and parse_progress(line) is None]
    reason = said[-1] if said and not said[-1].startswith(_ATTEMPT) else f"exit code {code}, no {RUN}"
    return UnitResult(unit.name, unit.bag, "failed", code, number, reason[-_LONGEST_REASON:])


def _record(unit: Unit) -> dict[str, Any]:
    """The unit and the run that is its result: another run into the same folder is another result."""
    return {"unit": unit.identity, "run": _content(unit.folder / RUN)}


def _end(process: subprocess.Popen) -> None:
    """End a running command: with SIGINT, so that it can clean up, then by force."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _paths(texts: Sequence[str]) -> Iterator[Path]:
    """The paths that are there among some texts, also as the value of ``name:=value`` or ``--name=value``."""
    for text in texts:
        for candidate in (text, text.rpartition("=")[2]):
            if candidate and len(candidate) < 4096 and os.path.exists(candidate):
                yield Path(candidate)


def _texts(path: Path) -> list[str]:
    """Return every text in a YAML file; none if it is not YAML, which the command reports."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from walk(item)

    try:
        return list(walk(load_yaml(path.read_text())))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []


def _content(path: Path) -> Any:
    if path.is_dir():
        return _listing(path)
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _listing(path: Path) -> dict[str, list[int]]:
    """Size and time of change, ns, by path, of a file or of all in a folder."""
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    stats = [(str(file.relative_to(path.parent)), file.stat()) for file in files]
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats}
