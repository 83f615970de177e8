"""Cores, priorities and locked memory: what the kernel grants a process and its threads."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from perception_rt.types import ConfigError

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_MAX_CORES = 4096


def available_cores() -> int:
    """Return how many cores this thread may run on, affinity included where the system knows it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_cores(text: str) -> frozenset[int]:
    """Return the cores of a list as `taskset` takes it: ``0-2,5``; empty for an empty text.

    Raises:
        ConfigError: another form, or none of the cores may be used by this process.
    """
    cores: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < _MAX_CORES):
            raise ConfigError(f"cpu_affinity={text!r}: must be a list of cores like 0-2,5")
        cores.update(range(int(first), int(last) + 1))
    if cores and hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(threading.main_thread().native_id or 0)
        if not cores & allowed:
            raise ConfigError(f"cpu_affinity={text!r}: this process may use the cores {sorted(allowed)} only")
    return frozenset(cores)


def schedule_thread(thread: int, cores: Collection[int], priority: int) -> list[str]:
    """Put a thread on cores, and under SCHED_FIFO.

    Args:
        thread: its native id; 0 for the calling one.
        cores: which it may use; empty leaves them as they are.
        priority: 1 to 99 of SCHED_FIFO; 0 leaves the policy as it is.

    Returns:
        What the system refused, and how to allow it.
    """
    refused = []
    if sys.platform != "linux":
        return ["cpu_affinity and thread_priority are of Linux"] if cores or priority else []
    try:
        if cores:
            os.sched_setaffinity(thread, cores)
    except OSError as error:
        refused.append(f"cpu_affinity: {error.strerror}")
    try:
        if priority:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        refused.append(
            f"thread_priority={priority}: {error.strerror}: allow it with `rtprio {priority}` in "
            "/etc/security/limits.conf, or in a container with --cap-add=sys_nice --ulimit rtprio=99"
        )
    return refused


@contextmanager
def scheduled(cores: Collection[int], priority: int, warn: Callable[[str], object]) -> Iterator[None]:
    """Run the calling thread so within the block; threads that begin in it keep cores and priority.

    Args:
        cores, priority: as of `schedule_thread`.
        warn: called with what the system refused.
    """
    if sys.platform != "linux" or not (cores or priority):
        yield
        return
    before = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0)
    for reason in schedule_thread(0, cores, priority):
        warn(reason)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before[0])
        os.sched_setscheduler(0, *before[1:])


def use_normal_priority() -> None:
    """Take the calling thread out of SCHED_FIFO."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def lock_memory() -> str:
    """Keep all memory of this process in RAM, now and later; returns what the system refused, or nothing."""
    mlockall = getattr(ctypes.CDLL(None, use_errno=True), "mlockall", None)
    if mlockall is None:
        return "lock_memory: the C library has no mlockall"
    if mlockall(_MCL_CURRENT | _MCL_FUTURE):
        reason = os.strerror(ctypes.get_errno())
        return f"lock_memory: {reason}: allow it with `memlock unlimited` in /etc/security/limits.conf"
    return ""
