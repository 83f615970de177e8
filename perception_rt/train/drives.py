"""Simulated drives for training and for evaluation, rendered on all cores.

Drive seeds are split by construction: evaluation takes them from 1 000 000 up, training with seed S takes
them from 10 000 000 + 100 000 S up. Demos and tests use smaller seeds, which are never used for training.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import numpy as np

EVALUATION_SEED = 1_000_000
EVALUATION_DRIVES = 125
DRIVE_SECONDS = 60.0

Made = TypeVar("Made")


def training_seeds(seed: int, drives: int) -> list[int]:
    """Return the drive seeds for training with `seed`."""
    return [10_000_000 + 100_000 * seed + i for i in range(drives)]


def evaluation_seeds(drives: int) -> list[int]:
    """Return drive seeds that no training uses."""
    return [EVALUATION_SEED + i for i in range(drives)]


def moments(seed: int, count: int) -> list[float]:
    """Return `count` random times, spread over the first minute of a drive, s."""
    jitter = np.random.default_rng(seed).uniform(size=count)
    return ((np.arange(count) + jitter) * (DRIVE_SECONDS / count)).tolist()


def shares(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` integers of nearly equal size."""
    return np.diff(np.arange(parts + 1) * total // parts).tolist()


def over_drives(
    make: Callable[[int, int], Made], seeds: Sequence[int], counts: Sequence[int], workers: int | None = None
) -> Iterator[Made]:
    """Return the results of `make(seed, count)` for each drive, in order.

    Args:
        make: a function at module level, so that it can be pickled.
        seeds: of the drives.
        counts: frames of each.
        workers: processes; None for one per core, 0 for this process, which simulates a single drive, too.
    """
    if workers == 0 or len(seeds) == 1:
        yield from map(make, seeds, counts)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not work after a fork
    # Ctrl-C ends them at once and without a traceback.
    at_once = signal.SIGINT, signal.SIG_DFL
    with ProcessPoolExecutor(workers or os.cpu_count(), context, signal.signal, at_once) as pool:
        yield from pool.map(make, seeds, counts)
