"""The folder of a training: its options, so that it can be resumed, and whether it is finished."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception_rt.types import ConfigError

RUNS = Path("out", "train")
RUN_FILE = "run.json"
UNSTORED = ("run", "run_folder", "resume", "command")
HARDWARE = ("device", "devices", "nodes", "strategy", "workers")


def is_first_process() -> bool:
    """Whether this is the process that tells and saves, of those of several devices.

    Raises:
        ConfigError: PyTorch Lightning is not installed.
    """
    try:
        from pytorch_lightning.utilities import rank_zero_only
    except ModuleNotFoundError as error:
        raise ConfigError(f"train: {error}; install it with `pip install 'perception_rt[train]'`") from error

    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def resumed(args: argparse.Namespace) -> argparse.Namespace:
    """The options of an earlier run; those of the hardware may be others."""
    stored = _read(args.resume).get("options")
    if not isinstance(stored, dict):
        raise ConfigError(f"--resume={args.resume}: holds no run that can be resumed ({RUN_FILE})")
    if changed := sorted(stored.keys() ^ (vars(args).keys() - set(UNSTORED))):
        raise ConfigError(
            f"--resume={args.resume}: the run is of another version of perception_rt, whose options differ "
            f"in {', '.join(changed)}: train again, in another --run"
        )
    kept = {name: getattr(args, name) for name in (*UNSTORED, *HARDWARE)}
    paths = {name: Path(stored[name]) for name in ("data", "out") if stored.get(name)}
    return argparse.Namespace(**{**vars(args), **stored, **paths, **kept, "run_folder": args.resume})


def _read(folder: Path) -> dict[str, Any]:
    """What is written about a run; empty where nothing is."""
    try:
        record = json.loads((folder / RUN_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


@contextmanager
def run_folder(args: argparse.Namespace, out: Path, state: dict[str, Any]) -> Iterator[Path]:
    """The folder of a run, with what it takes to resume it; marked as finished where nothing goes wrong.

    Args:
        args: the options.
        out: the bundle that is made.
        state: what must not change before it is resumed.

    Raises:
        ConfigError: it holds another run that is not finished, or the data changed.
    """
    folder = args.run_folder or RUNS / out.stem
    file, first = folder / RUN_FILE, is_first_process()
    options = {name: value for name, value in vars(args).items() if name not in UNSTORED}
    for name in ("data", "val", "weights", "teacher"):  # a run may be resumed from another folder
        if options[name] and Path(options[name]).exists():
            options[name] = Path(options[name]).absolute()
    options["out"] = out.absolute()
    record = {"options": options, "state": state, "finished": False}

    def write() -> None:
        if first:
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(record, indent=1, default=str) + "\n")
            partial.replace(file)

    if first and args.resume:
        if _read(folder).get("state") != json.loads(json.dumps(state)):
            raise ConfigError(f"--resume={folder}: the data or the weights are no longer those of the run")
    elif first and folder.exists():
        _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write()
    try:
        yield folder
    except KeyboardInterrupt:
        if first:
            print(f"saved; go on with: perception-rt train --resume {folder}", file=sys.stderr)
        raise
    record["finished"] = True
    write()


def _clear(folder: Path) -> None:
    """Make room for another run."""
    record = _read(folder)
    if not record and any(folder.iterdir()):
        raise ConfigError(f"--run={folder}: is not empty, and holds no run")
    if record and not record.get("finished"):
        raise ConfigError(
            f"--run={folder}: holds an unfinished run: --resume {folder}, take another --run, or remove it"
        )
    shutil.rmtree(folder)
