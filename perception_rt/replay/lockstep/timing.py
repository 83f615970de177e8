"""How long inference takes in virtual time: as measured here, always the same, or as it was elsewhere."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from perception_rt.types import ConfigError

Timing = Callable[[str, int], int]
"""Absolute name of the node and newest stamp of the batch, ns, to how long it takes to compute, ns."""

COLUMNS = ("node", "stamp_ns", "infer_ms")
BUSY = ("decode_ms", "infer_ms", "publish_ms")
LONGEST_NS = 3600 * 10**9


class Inference(NamedTuple):
    """What `--inference` asks for.

    Attributes:
        text: as it was given.
        timing: None where time is measured.
    """

    text: str
    timing: Timing | None


def parse_inference(text: str) -> Inference:
    """``measured``, ``fixed:MS`` or ``trace:FILE``.

    A trace is a CSV file with the columns node, stamp_ns and infer_ms (decode_ms and publish_ms are added
    where there are some), as the ledger.csv of a replay. A frame that is not in it takes as long as the one
    before it.

    Raises:
        ConfigError: of another form, or a file that is no trace.
    """
    kind, _, value = text.partition(":")
    if text == "measured":
        return Inference(text, None)
    if kind == "fixed":
        return Inference(text, _fixed(text, value))
    if kind == "trace" and value:
        return Inference(text, _trace(Path(value)))
    raise ConfigError(f"--inference={text}: must be measured, fixed:MS (fixed:20) or trace:FILE")


def _fixed(text: str, value: str) -> Timing:
    try:
        took_ns = round(float(value) * 1e6)
    except (ValueError, OverflowError):
        took_ns = -1
    if not 0 <= took_ns <= LONGEST_NS:
        raise ConfigError(f"--inference={text}: MS must be a number of milliseconds, as fixed:20")
    return lambda node, stamp_ns: took_ns


def _trace(path: Path) -> Timing:
    times = _read_trace(path)

    def timing(node: str, stamp_ns: int) -> int:
        if node not in times:
            raise ConfigError(f"--inference=trace:{path}: holds no inference of {node}; of: {sorted(times)}")
        stamps, took = times[node]
        return took[max(bisect_right(stamps, stamp_ns) - 1, 0)]

    return timing


def _read_trace(path: Path) -> dict[str, tuple[list[int], list[int]]]:
    """By node, the stamps in order and how long each took, ns."""
    rows: dict[str, dict[int, int]] = {}
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(f"--inference=trace:{path}: has no column {', '.join(missing)}")
            for row in reader:
                if row["infer_ms"] and row["stamp_ns"]:
                    took_ms = sum(float(row.get(name) or 0) for name in BUSY)
                    if not 0 <= took_ms * 1e6 <= LONGEST_NS:
                        raise ValueError(f"line {reader.line_num}: {took_ms} ms is no time of inference")
                    rows.setdefault(row["node"], {})[int(row["stamp_ns"])] = round(took_ms * 1e6)
    except OSError as error:
        raise ConfigError(f"--inference=trace:{path}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--inference=trace:{path}: {error}") from error
    if not rows:
        raise ConfigError(f"--inference=trace:{path}: holds no inference")
    return {node: tuple(map(list, zip(*sorted(took.items()), strict=True))) for node, took in rows.items()}
