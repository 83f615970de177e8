"""Run a command on its own CPU cores and end it with its parent process; a program, see `pinned`.

A worker that is killed cannot end its child; if the child went on, it would write into the folder of the
worker that takes over. So the child asks the kernel to be killed with its parent (prctl(2),
PR_SET_PDEATHSIG).

A model takes as many threads as its process has cores. So that several processes do not get in each other's
way, each takes cores that no other has, by locking a file for each; a lock ends with the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def pinned(command: tuple[str, ...], cores: int) -> list[str]:
    """Return the command line that runs `command` this way, on at most `cores` cores."""
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(cores), str(os.getpid()), *command]


def take_cores(wanted: int) -> set[int]:
    """Lock up to `wanted` cores until the process ends; return all cores, unlocked, if none is free."""
    import fcntl  # not on Windows; imported here so that the package can be imported there

    folder = Path(tempfile.gettempdir()) / f"perception_rt_cores_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    allowed = os.sched_getaffinity(0)
    taken: set[int] = set()
    for core in sorted(allowed):
        if len(taken) == wanted:
            break
        handle = os.open(folder / str(core), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        os.set_inheritable(handle, True)  # the command keeps it
        taken.add(core)
    return taken or allowed


def main() -> None:
    """Replace this process by the command."""
    cores, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # the parent ended before the call
        sys.exit(1)
    os.sched_setaffinity(0, take_cores(cores))
    os.environ["OMP_NUM_THREADS"] = str(cores)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
