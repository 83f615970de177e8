"""Run processes and restart them when they die, with increasing delays."""

from __future__ import annotations

import ctypes
import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

FIRST_S = 0.5  # before the first restart; doubles with each further one
LONGEST_S = 30.0
DOUBLINGS = 10  # more than it takes to the longest delay
HEALTHY_S = 30.0  # longer than a start takes; a process that ran this long resets its count
RESTARTS = 10
END_S = 5.0  # from a signal until running processes are killed
PR_SET_PDEATHSIG = 1
WATCHED = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGCHLD))


class Backoff:
    """The delay before a dead process is restarted.

    Args:
        most: maximum number of restarts in a row.
    """

    def __init__(self, most: int = RESTARTS) -> None:
        self.most = most
        self.restarts = 0
        self._came_up = False

    def after(self, code: int, lived_s: float) -> float | None:
        """Return the seconds to wait before the next start; None for no restart.

        Args:
            code: exit code, negative for a signal. 0 is a normal end; 2, or 1 at the first start, means
                unusable input.
            lived_s: lifetime of the process, s.
        """
        if lived_s >= HEALTHY_S:
            self.restarts = 0
        if code in (0, 2) or (code == 1 and not self._came_up) or self.restarts >= self.most:
            return None
        self._came_up = True
        self.restarts += 1
        return min(FIRST_S * 2 ** min(self.restarts - 1, DOUBLINGS), LONGEST_S)


@dataclass
class _Process:
    name: str
    command: Sequence[str]
    backoff: Backoff
    popen: subprocess.Popen | None = None
    began_s: float = 0.0
    due_s: float | None = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start; where the system has no room for a process, try again later: others must not end for it."""
        self.began_s, self.due_s = time.monotonic(), None
        try:
            self.popen = subprocess.Popen(self.command, preexec_fn=_end_with_parent)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM):
                raise
            self.due_s = self.began_s + FIRST_S
            print(f"{self.name} cannot be started: {error.strerror}: again in {FIRST_S:g} s", file=sys.stderr)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)


def supervise(commands: Mapping[str, Sequence[str]], restarts: int, ends_all: Callable[[str], bool]) -> int:
    """Run processes until SIGINT, SIGTERM or the end of one that ends all; restart processes that die.

    Args:
        commands: by name.
        restarts: maximum number of restarts of a process in a row.
        ends_all: returns whether the run ends when the process of this name exits with 0.

    Returns:
        0, or the first exit code of a process that was not restarted.
    """
    processes = [_Process(name, command, Backoff(restarts)) for name, command in commands.items()]
    failed, deadline_s = 0, None
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    while True:
        now = time.monotonic()
        for process in processes:
            if process.due_s is not None and process.due_s <= now:
                process.start()
        running = [process for process in processes if process.popen is not None]
        due = [process.due_s for process in processes if process.due_s is not None]
        if not running and not due:
            return failed
        waits = [*due, *([deadline_s] if deadline_s is not None else [])]
        info = signal.sigtimedwait(WATCHED, max(min(waits, default=now + 1.0) - now, 0.0))
        stop = info is not None and info.si_signo != signal.SIGCHLD
        for process in running:
            assert process.popen is not None
            code = process.popen.poll()
            if code is None:
                continue
            process.popen = None
            if deadline_s is not None:
                continue  # it was asked to exit
            delay = process.backoff.after(code, time.monotonic() - process.began_s)
            _say(process, code, delay)
            if delay is not None:
                process.due_s = time.monotonic() + delay
            else:
                failed = failed or code
                stop = stop or (code == 0 and ends_all(process.name))
        if stop and deadline_s is None:
            deadline_s = time.monotonic() + END_S
            for process in processes:
                process.due_s = None
                if process.popen is not None:
                    process.popen.send_signal(signal.SIGINT)
        elif deadline_s is not None and time.monotonic() > deadline_s:
            for process in processes:
                if process.popen is not None:
                    process.popen.kill()


def _say(process: _Process, code: int, delay: float | None) -> None:
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    if delay is not None:
        count = f"restart {process.backoff.restarts} of {process.backoff.most}"
        print(f"{process.name} ended with {how}: {count} in {delay:g} s", file=sys.stderr, flush=True)
    elif code not in (0, 2):  # 2: it named the mistake
        print(f"{process.name} ended with {how}", file=sys.stderr, flush=True)
