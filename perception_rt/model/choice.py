"""Choose the fastest engine on this machine that reproduces a bundle's golden output."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from perception_rt.model.archive import Archive
from perception_rt.model.engine import Choice, EngineOptions, engine_names, find_engine
from perception_rt.model.engine.cache import cache_folder, hardware
from perception_rt.model.golden import read_golden
from perception_rt.model.runtime import open_archive
from perception_rt.types.errors import BundleError, ConfigError, ModelError

TRIAL_S = 0.25  # of one candidate, once it is warm
TRIAL_CALLS = (3, 30)  # least and most
# Of the time on fewer threads, what one on more must take at most: each call waits for the slowest of them,
# as its core is shared with another process.
MORE_THREADS = 0.9
CACHE_FILE = "engines.json"


def choose(archive: Archive, engine: str, options: EngineOptions) -> Any:
    """Open a bundle with the requested engine, or with the fastest.

    Args:
        archive: the bundle.
        engine: a name; ``auto`` for the fastest; ``reference`` for the first program without a trial, which
            is the same on every machine.
        options: device and precision; `threads` is the maximum.

    Returns:
        The runtime, after its golden output was checked.

    Raises:
        BundleError: no engine reproduces the golden output.
        ConfigError: the engine is unknown or not available.
    """
    found = candidates(archive, "auto" if engine == "reference" else engine, options)
    if len(found) == 1 or engine == "reference":
        return _checked(archive, found[0])
    key = _key(archive, engine, options)
    kept = _remembered(key, found)
    if kept is not None:
        with contextlib.suppress(BundleError):  # what was chosen once may have been taken away since
            return _checked(archive, kept)
    return _trial(archive, found, key)


def candidates(archive: Archive, engine: str, options: EngineOptions) -> list[Choice]:
    """Return what can run the bundle on this machine, the reference first.

    Raises:
        BundleError: no engine can run it.
        ConfigError: the engine is unknown or not available.
    """
    names = engine_names() if engine == "auto" else (engine,)
    found, reasons = [], {}
    for program in archive.manifest.programs:
        for name in names:
            kind = find_engine(name)
            if program.kind not in kind.KINDS:
                continue
            # Only torch has the operators of a program that takes sensor data.
            if archive.manifest.decoder is None and name != "torchscript":
                continue
            if (why := kind.available(options)) is not None:
                reasons[name] = why
                continue
            found += [Choice(name, program, with_threads) for with_threads in _threads(options)]
    if found:
        return found
    kinds = ", ".join(sorted({program.kind for program in archive.manifest.programs}))
    text = "; ".join(f"{name}: {why}" for name, why in reasons.items())
    if engine == "auto":
        raise BundleError(f"{archive.path}: no engine here runs {kinds} ({text or 'none known'})")
    raise ConfigError(
        f"engine={engine!r}: {text or f'does not run {kinds}, which is what this bundle holds'}"
    )


def _threads(options: EngineOptions) -> Iterator[EngineOptions]:
    """Return the thread counts to try: one, and the maximum that is allowed."""
    if options.device != "cpu":
        yield options
        return
    for count in sorted({1, options.threads}, reverse=True):
        yield replace(options, threads=count)


def _checked(archive: Archive, choice: Choice) -> Any:
    """Return a runtime after checking that it reproduces the golden output."""
    torch.set_num_threads(choice.torch_threads)
    options = choice.options
    device = torch.device(options.device)
    runtime = open_archive(archive, device, options.half, options.threads, choice.program, choice.engine)
    runtime.check_golden(archive.path)
    runtime.choice = choice
    return runtime


def _trial(archive: Archive, found: list[Choice], key: str) -> Any:
    """Time each candidate, and store and return the fastest; more threads are used only if they pay off."""
    data = read_golden(archive.manifest.golden, archive.members)
    fastest: dict[int, Any] = {}  # by number of threads
    took: dict[str, float] = {}
    failed: dict[str, BundleError | ModelError] = {}
    for choice in found:
        name = _name(choice)
        try:
            runtime = _checked(archive, choice)
            took[name] = _milliseconds(runtime, data)
        except (BundleError, ModelError) as error:
            failed[name] = error
            continue
        rival = fastest.get(choice.options.threads)
        if rival is None or took[name] < took[_name(rival.choice)]:
            fastest[choice.options.threads] = runtime
    if not fastest:
        raise next(iter(failed.values()))
    best, *more = (fastest[count] for count in sorted(fastest))
    for runtime in more:
        if took[_name(runtime.choice)] < MORE_THREADS * took[_name(best.choice)]:
            best = runtime
    chosen = _name(best.choice)
    others: dict[str, float | str] = {name: ms for name, ms in took.items() if name != chosen}
    others |= {name: f"left out: {error}" for name, error in failed.items()}
    best.choice = replace(best.choice, ms=took[chosen], others=others)
    _remember(key, best.choice)
    return best


def _name(choice: Choice) -> str:
    """Return a name that is unique among the candidates of a bundle."""
    return f"{choice.engine}/{choice.program.precision}/{choice.options.threads}"


def _milliseconds(runtime: Any, data: Any) -> float:
    """Return the median time of several calls."""
    runtime(data)
    least, most = TRIAL_CALLS
    times: list[float] = []
    while len(times) < least or (sum(times) < TRIAL_S and len(times) < most):
        started = time.perf_counter()
        runtime(data)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] * 1e3


# --- stored choices ----------------------------------------------------------------------------


def _key(archive: Archive, engine: str, options: EngineOptions) -> str:
    text = json.dumps([hardware(), archive.manifest.sha256, engine, asdict(options)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _cache() -> dict[str, Any]:
    """Return the stored choices; empty if the file is missing or damaged."""
    try:
        data = json.loads((cache_folder() / CACHE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _remembered(key: str, found: list[Choice]) -> Choice | None:
    """Return the candidate that was chosen before; None if it is no longer a candidate."""
    kept = _cache().get(key)
    if not isinstance(kept, dict):
        return None
    for choice in found:
        if _name(choice) == kept.get("name") and choice.program.sha256 == kept.get("program"):
            others = kept.get("others")
            return replace(
                choice, ms=float(kept.get("ms", "nan")), others=others if isinstance(others, dict) else {}
            )
    return None


def _remember(key: str, choice: Choice) -> None:
    """Store a choice; if the folder is not writable, the next start repeats the trial."""
    entry = {
        "name": _name(choice),
        "program": choice.program.sha256,
        "ms": choice.ms,
        "others": dict(choice.others),
    }
    folder = cache_folder()
    temporary = folder / f".{CACHE_FILE}.{os.getpid()}.tmp"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_cache(), key: entry}, indent=1))
        os.replace(temporary, folder / CACHE_FILE)
