"""ROS domains for tests: none is used twice at a time on one machine."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

DOMAINS = range(1, 100)  # above 101 the ports meet Linux's ephemeral ones


def claim_domain():
    """A domain that no other test of this machine uses, and the lock that says so."""
    for domain in DOMAINS:
        lock = open(Path(tempfile.gettempdir(), f"perception_rt_test_domain_{domain}"), "w")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError(f"every domain of {DOMAINS} is in use")
