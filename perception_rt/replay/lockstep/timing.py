"""The duration of inference in virtual time: measured, fixed, or from a trace."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from perception_rt.types import ConfigError

Timing = Callable[[str, int], int]
"""Maps a node's absolute name and the newest stamp of a batch, ns, to the compute time, ns."""

COLUMNS = ("node", "stamp_ns", "infer_ms")
BUSY = ("decode_ms", "infer_ms", "publish_ms")
LONGEST_NS = 3600 * 10**9


class Inference(NamedTuple):
    """The parsed option `--inference`.

    Attributes:
        text: the option as given.
        timing: duration of inference; None to measure it.
    """

    text: str
    timing: Timing | None


def parse_inference(text: str) -> Inference:
    """Parse ``measured``, ``fixed:MS`` or ``trace:FILE``.

    A trace is a CSV file with the columns node, stamp_ns and infer_ms, such as the ledger.csv of a replay.
    The columns decode_ms and publish_ms are optional and are added to infer_ms. A frame that is not in the
    trace takes as long as the frame before it.

    Raises:
        ConfigError: the text has another form, or the file is not a trace.
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
        raise ConfigError(f"--inference={text}: MS must be a number of milliseconds, for example fixed:20")
    return lambda node, stamp_ns: took_ns


def _trace(path: Path) -> Timing:
    times = _read_trace(path)

    def timing(node: str, stamp_ns: int) -> int:
        if node not in times:
            raise ConfigError(
                f"--inference=trace:{path}: has no inference times of {node}, only of {sorted(times)}"
            )
        stamps, took = times[node]
        return took[max(bisect_right(stamps, stamp_ns) - 1, 0)]

    return timing


def _read_trace(path: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Return the sorted stamps and the compute times, ns, by node."""
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
                        raise ValueError(f"line {reader.line_num}: {took_ms} ms is no valid inference time")
                    rows.setdefault(row["node"], {})[int(row["stamp_ns"])] = round(took_ms * 1e6)
    except OSError as error:
        raise ConfigError(f"--inference=trace:{path}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--inference=trace:{path}: {error}") from error
    if not rows:
        raise ConfigError(f"--inference=trace:{path}: has no inference times")
    return {node: (sorted(took), [took[stamp] for stamp in sorted(took)]) for node, took in rows.items()}
