"""Find the rates that this machine sustains: time every detector while the others run too.

Run as a program, it times one bundle: ``python -m perception_rt.cli.demo.rates BUNDLE DEVICE THREADS``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perception_rt.cli.demo.sensors import SIMULATED
from perception_rt.model.task import DETECT2D, DETECT3D, TASKS
from perception_rt.realtime.cores import available_cores
from perception_rt.sim.drive import Drive
from perception_rt.types import PerceptionError

if TYPE_CHECKING:
    from perception_rt.model.runtime import Runtime

TRIAL_S = 2.0
LOAD_TIMEOUT_S = 180.0
# Of the time between two frames; the rest is for receiving, tracking, fusion and other processes.
SHARE = 0.6
ANSWERED = 0.9  # of the frames of a detector: with fewer, the machine does not sustain the rate
# Hz; few, so that a rendered drive can be reused.
STEPS = (60, 50, 40, 30, 25, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2, 1)


class Load(NamedTuple):
    """A detector to time: its bundle and the node's parameters `device` and `threads`."""

    bundle: str
    device: str
    threads: int

    @classmethod
    def of(cls, parameters: Mapping[str, Any], default: str) -> Load:
        """Return the load of a detector node with these parameters."""
        threads = int(parameters.get("threads", 0)) or max(1, available_cores() - 1)
        return cls(
            str(parameters.get("bundle", default)), str(parameters.get("device", "auto")), int(threads)
        )


def measure(loads: Mapping[str, Load]) -> dict[str, float]:
    """Time a forward pass of each bundle, all at the same time.

    Returns:
        90th percentile of the forward time by name, s.

    Raises:
        PerceptionError: a bundle cannot be loaded or timed.
    """
    runs = {
        name: subprocess.Popen(
            [sys.executable, "-m", __name__, load.bundle, load.device, str(load.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, load in loads.items()
    }
    try:
        for name, run in runs.items():
            assert run.stdout is not None
            if run.stdout.readline().strip() != "ready":
                raise _failed(name, loads[name], run.communicate(timeout=10)[1])
        for run in runs.values():
            assert run.stdin is not None
            run.stdin.write("go\n")
            run.stdin.flush()
        found = {}
        for name, run in runs.items():
            out, err = run.communicate(timeout=LOAD_TIMEOUT_S)
            if run.returncode:
                raise _failed(name, loads[name], err)
            found[name] = float(out)
        return found
    finally:
        for run in runs.values():
            if run.poll() is None:
                run.kill()
                run.wait()


def _failed(name: str, load: Load, log: str) -> PerceptionError:
    last = (log.strip().splitlines() or ["it ended without a word"])[-1]
    return PerceptionError(f"{name}: bundle={load.bundle}: {last}")


def sustained(asked: Mapping[str, float], seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the rates, Hz, that detectors sustain, at most the requested ones.

    Args:
        asked: requested rates by node. seconds: forward time by node; a missing node is not limited.

    The camera's rate is a multiple of the lidar's if possible, as fusion needs frames of the same time.
    """
    return _steps(asked, {name: SHARE / took for name, took in seconds.items() if took > 0})


def reduced(used: Mapping[str, float], answered: Mapping[str, float]) -> dict[str, float] | None:
    """Return lower rates, Hz, after a run in which a detector answered too few frames; None if all kept up.

    Args:
        used: rates of the run by node. answered: share of the frames with an answer by node, 0 to 1.
    """
    slow = {name: share for name, share in answered.items() if name in used and share < ANSWERED}
    if not slow:
        return None
    lower = _steps(used, {name: ANSWERED * share * used[name] for name, share in slow.items()})
    return lower if lower != dict(used) else None


def _steps(asked: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Return the highest rates within the limits, Hz; a rate without a limit stays."""
    used = {}
    for name, rate in asked.items():
        limit = limits.get(name, np.inf)
        step = next((step for step in STEPS if step <= limit), None)
        used[name] = rate if limit >= rate else step or max(0.1, np.floor(limit * 10) / 10)
    camera, lidar = (used.get(task.node, 0.0) for task in (DETECT2D, DETECT3D))
    if camera and lidar and camera < asked[DETECT2D.node]:
        used[DETECT2D.node] = lidar * np.floor(camera / lidar) if camera >= lidar else camera
    return {name: float(rate) for name, rate in used.items()}


def trial(bundle: str, device: str, threads: int) -> None:
    """Load a bundle, print ``ready``, wait for a line, and print the forward time, s."""
    from perception_rt.model.runtime import Runtime

    runtime = Runtime.open(bundle, device=device, threads=threads)
    frame = _frame(runtime)
    for _ in range(3):
        runtime(frame)
    print("ready", flush=True)
    sys.stdin.readline()
    times: list[float] = []
    end = time.perf_counter() + TRIAL_S
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 10_000):
        began = time.perf_counter()
        runtime(frame)
        times.append(time.perf_counter() - began)
    print(float(np.quantile(times, 0.9)))


def _frame(runtime: Runtime) -> np.ndarray:
    task = runtime.manifest.task
    return TASKS[task].sensor_data(SIMULATED[task].frame(Drive(1), 1.0, 0))


if __name__ == "__main__":
    trial(sys.argv[1], sys.argv[2], int(sys.argv[3]))
