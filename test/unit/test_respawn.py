"""Dead processes are started again, ever more slowly; those that end are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from perception_rt.cli.respawn import FIRST_S, HEALTHY_S, LONGEST_S, Backoff

FEW = """
import sys
from perception_rt.cli import respawn
respawn.FIRST_S, respawn.END_S = .05, 1.
commands = {name: [sys.executable, "-c", code] for name, code in zip("ab", sys.argv[2:])}
sys.exit(respawn.supervise(commands, int(sys.argv[1]), lambda name: name == "a"))
"""
TELLS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def supervise():
    """Run programs `a` and `b` under a supervisor that waits shortly; ended with the test."""
    processes = []

    def run(restarts: int, *programs: str) -> subprocess.Popen:
        command = [sys.executable, "-c", FEW, str(restarts), *programs]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, start_new_session=True, **pipes))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_the_delay_doubles_to_a_limit_and_the_restarts_are_counted():
    backoff = Backoff(10)
    delays = [backoff.after(-9, 1.0) for _ in range(11)]
    assert delays[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert delays[9] == LONGEST_S
    assert delays[10] is None
    endless = Backoff(10**6)
    assert [endless.after(-9, 1.0) for _ in range(2000)][-1] == LONGEST_S


def test_what_came_up_and_was_healthy_may_fail_to_come_up_again():
    backoff = Backoff()
    assert backoff.after(-9, 1.0) is not None
    assert backoff.after(1, HEALTHY_S) == FIRST_S  # a slow start that failed


def test_a_process_that_was_healthy_begins_anew():
    backoff = Backoff(2)
    assert [backoff.after(70, 1.0), backoff.after(70, 1.0)] == [FIRST_S, 2 * FIRST_S]
    assert backoff.after(-11, HEALTHY_S) == FIRST_S


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (1, False), (2, False), (70, True), (-9, True), (3, True)]
)
def test_only_a_death_is_followed_by_a_start(code, again):
    assert (Backoff().after(code, 1.0) is not None) == again


def test_what_came_up_once_may_fail_to_come_up_again():
    backoff = Backoff()
    backoff.after(-9, 1.0)
    assert backoff.after(1, 1.0) is not None
    assert backoff.after(2, 1.0) is None


def test_a_killed_process_is_started_again_until_the_limit(supervise, tmp_path):
    log = tmp_path / "log"
    process = supervise(3, f"import os; open({str(log)!r}, 'a').write('x') and os.kill(os.getpid(), 9)")
    _, said = process.communicate(timeout=60)
    assert log.read_text() == "xxxx"
    assert process.returncode == 256 - signal.SIGKILL
    assert "a ended with SIGKILL: restart 1 of 3 in 0.05 s" in said
    assert said.splitlines()[-1] == "a ended with SIGKILL"


def test_the_end_of_a_source_ends_the_others(supervise):
    process = supervise(3, "input", TELLS)
    assert process.communicate(timeout=60)[1].splitlines()[-1:] in ([], ["KeyboardInterrupt"])
    assert process.returncode == 0


def test_the_end_of_another_leaves_the_rest_running(supervise):
    process = supervise(3, TELLS, "pass")
    assert process.stdout.readline()
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_process_that_ignores_the_end_is_killed(supervise):
    process = supervise(3, f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {TELLS}")
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_nothing_outlives_its_supervisor(supervise):
    process = supervise(3, TELLS)
    child = int(process.stdout.readline())
    process.kill()
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{child}")
