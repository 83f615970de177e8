"""Run the units of a batch as Ray tasks (https://docs.ray.io), on this machine or a cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from perception_rt.realtime.cores import available_cores
from perception_rt.replay.batch.unit import Unit, UnitResult, attempt, attempts
from perception_rt.types import ConfigError, PerceptionError

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as missing:
    raise ConfigError(
        f"--ray: {missing}; install it with `pip install 'perception_rt[ray]'`, or leave --ray out"
    ) from missing

_LOCAL_STORE_BYTES = 100 << 20  # the only objects are results
_WAIT_S = 0.5
_REACH_S = 10.0


class Killed(PerceptionError):
    """The command was killed; another attempt may succeed."""

    def __init__(self, outcome: UnitResult) -> None:
        self.outcome = outcome
        super().__init__(f"{outcome.name}: {outcome.reason}")

    def __reduce__(self) -> tuple:
        return Killed, (self.outcome,)


def run_on_ray(
    units: Sequence[Unit], address: str, retries: int, ended: Callable[[UnitResult], None]
) -> None:
    """Run units as Ray tasks of `unit.cores` CPUs each; Ray starts those whose worker was killed again.

    Args:
        units: prepared; their paths must exist on every machine of the cluster.
        address: of the cluster; empty for a local Ray that stops with the batch.
        retries: how often a unit is restarted.
        ended: called with every result.

    Raises:
        ConfigError: no cluster answers, or none of its machines has enough CPUs.
    """
    _connect(address)
    try:
        _check_cpus(units)
        work = ray.remote(_work)
        options = {"max_retries": retries, "retry_exceptions": [Killed]}
        waiting = {
            work.options(name=unit.name, num_cpus=unit.cores, **options).remote(unit): unit for unit in units
        }
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=_WAIT_S)
            for reference in ready:
                ended(_outcome(reference, waiting.pop(reference)))
    finally:
        ray.shutdown()  # kills the workers of this batch, which end their commands


def _work(unit: Unit) -> UnitResult:
    outcome = attempt(unit)
    if outcome.killed:
        raise Killed(outcome)
    return outcome


def _outcome(reference: ray.ObjectRef, unit: Unit) -> UnitResult:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, Killed):
            return error.cause.outcome
        reason = f"{type(error.cause).__name__}: {error.cause}"
    except RayError as error:  # the worker, its machine or its memory was lost
        reason = " ".join(str(error).split()) or type(error).__name__
    return UnitResult(unit.name, unit.bag, "failed", None, attempts(unit), reason[:300])


def _connect(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            _reach(address)
            ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise ConfigError(
                f"--ray {address}: no cluster answers, or it wants another RAY_AUTH_TOKEN: {error}"
            ) from error
        return
    cores = available_cores()
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        object_store_memory=_LOCAL_STORE_BYTES,
        **quiet,
    )


def _reach(address: str) -> None:
    """Raise OSError where no server answers at ``[ray://]HOST:PORT``; Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), _REACH_S).close()


def _check_cpus(units: Sequence[Unit]) -> None:
    most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    wanted = max(unit.cores for unit in units)
    if wanted > most:
        raise ConfigError(
            f"--ray: a bag takes {wanted} CPUs, the cluster's machines have {most:g}; raise --jobs"
        )
