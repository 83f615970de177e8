"""Commands of the set-up: run with a live status line, their output in a log."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from machine import SetupError


def child_environment() -> dict:
    """Return the environment for pip and CMake: without what other environments' Pythons left in it."""
    # The ROS wheels' start-up hook does nothing in a child that inherits its guard from another environment.
    return {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONPATH", "PYTHONHOME", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    }


def run_logged(title: str, command: list, log_file: Path, env: dict) -> None:
    """Run a command with a live status line, its output in the log.

    Raises:
        SetupError: it failed; with the errors from its output and the place of the log.
    """
    started, lines = time.monotonic(), [""]
    process = subprocess.Popen(
        [str(word) for word in command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )

    def collect() -> None:
        for line in process.stdout:
            lines.append(line.strip() or lines[-1])
            # On a full disk the command reports the error; it must not block on a pipe that is not read.
            with contextlib.suppress(OSError), log_file.open("a") as log:
                log.write(line)

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        watch(title, started, process, lines)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    reader.join()
    print(
        ("\r\033[K" if sys.stdout.isatty() else "") + f"{title}: {time.monotonic() - started:.0f} s",
        flush=True,
    )
    if process.returncode and any("No space left on device" in line for line in lines):
        raise SetupError(
            f"{title} failed: no space left on the disk of {log_file.parent}; free some and run again"
        )
    if process.returncode:
        errors = [line for line in lines if "error" in line.lower()][:5] or lines[-3:]
        raise SetupError(f"{title} failed: {' | '.join(errors)} (all of it in {log_file})")


def watch(title: str, started: float, process: subprocess.Popen, lines: list) -> None:
    """Show a command's last line of output until it ends: in place on a terminal, else twice a minute."""
    terminal = sys.stdout.isatty()
    if not terminal:
        print(f"{title} ...", flush=True)
    shown = started
    while True:
        try:
            process.wait(timeout=0.25)
            return
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        status = f"{title}: {now - started:.0f} s  {lines[-1]}"
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{status[:width]}", end="", flush=True)
        elif now - shown >= 30:
            shown = now
            print(status[:110], flush=True)
