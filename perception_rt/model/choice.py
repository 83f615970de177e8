"""Choose the fastest engine on this machine that reproduces a bundle's golden output."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from perception_rt.model.archive import Archive
from perception_rt.model.engine import Choice, EngineOptions, engine_names, find_engine
from perception_rt.model.engine.cache import cache_folder, hardware
from perception_rt.model.golden import read_golden
from perception_rt.model.runtime import open_archive
from perception_rt.types.errors import BundleError, ConfigError, ModelError

TRIAL_S = 2.0  # all rounds together, once every candidate is loaded and warm
LONGEST_S = 8.0  # no round after the first goes on after it, even if ROUNDS[0] are not done
ROUNDS = (3, 20)  # least and most
# A candidate whose shortest call takes so many times the shortest of all is not called again; processor time
# counts too, as waiting for a processor is not its fault.
HOPELESS = 1.5
# Of the time on fewer threads, what one on more must take at most: each call waits for the slowest of them,
# as its core is shared with another process.
MORE_THREADS = 0.9
# A trial is quiet if of each candidate the median call takes at most SPREAD times its shortest, and its calls
# have a processor for BUSY of their time: where another process has the core, they wait for it.
SPREAD = 1.25
BUSY = 0.9
TRIALS = 3  # so many starts try; where each was disturbed, the shortest calls of all of them decide
TRIAL_VERSION = 3  # choices of another kind of trial are not taken from the cache
DISTURBED = "other processes disturbed the trial: the next start repeats it"
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
    """Time the candidates; return the fastest, on more threads only where that is worth it.

    The next start takes the choice if nothing disturbed the trial, or if this was the last of TRIALS: a
    computer that is always busy does not try for ever. All candidates are in memory until it ends.
    """
    data = read_golden(archive.manifest.golden, archive.members)
    runtimes: dict[str, Any] = {}
    failed: dict[str, BundleError | ModelError] = {}
    for choice in found:
        try:
            runtimes[_name(choice)] = _checked(archive, choice)
        except BundleError as error:
            failed[_name(choice)] = error
    calls = _rounds(runtimes, data, failed)
    if not calls:
        raise next(iter(failed.values()))
    earlier, disturbed = _disturbed(key)
    took = {
        name: min(min(wall for wall, _ in times) * 1e3, earlier.get(name, float("inf")))
        for name, times in calls.items()
    }
    fastest: dict[int, str] = {}  # by number of threads
    for name in sorted(took, key=lambda name: took[name]):
        fastest.setdefault(runtimes[name].choice.options.threads, name)
    chosen, *more = (fastest[count] for count in sorted(fastest))
    for name in more:
        if took[name] < MORE_THREADS * took[chosen]:
            chosen = name
    others: dict[str, float | str] = {name: ms for name, ms in took.items() if name != chosen}
    others |= {name: f"left out: {error}" for name, error in failed.items()}
    quiet = all(_quiet(times, runtimes[name].choice.options.device) for name, times in calls.items())
    best = runtimes[chosen]
    disturbed = 0 if quiet else disturbed + 1
    note = DISTURBED if 0 < disturbed < TRIALS else ""
    best.choice = replace(best.choice, ms=took[chosen], others=others, note=note)
    _remember(key, best.choice, disturbed)
    return best


def _rounds(
    runtimes: Mapping[str, Any], data: Any, failed: dict[str, BundleError | ModelError]
) -> dict[str, list[tuple[float, float]]]:
    """Call the candidates in turns, so that a disturbance meets all of them.

    Args:
        runtimes: by name, warm.
        data: the golden input.
        failed: takes up those whose call fails.

    Returns:
        By name, of each call how long it took and the processor time of this process meanwhile, s.
    """
    calls: dict[str, list[tuple[float, float]]] = {name: [] for name in runtimes}
    running = list(runtimes)
    least, most = ROUNDS
    began = time.perf_counter()
    for done in range(most):
        for name in running:
            if done and time.perf_counter() - began > (TRIAL_S if done >= least else LONGEST_S):
                return calls
            torch.set_num_threads(runtimes[name].choice.torch_threads)
            started, processor = time.perf_counter(), time.process_time()
            try:
                runtimes[name](data)
            except ModelError as error:
                failed[name] = error
                del calls[name]
                continue
            calls[name].append((time.perf_counter() - started, time.process_time() - processor))
        running = [name for name in running if name in calls]
        if done:
            limit = HOPELESS * min((wall for name in running for wall, _ in calls[name]), default=0.0)
            threads = {name: runtimes[name].choice.options.threads for name in running}
            running = [n for n in running if min(min(w, u / threads[n]) for w, u in calls[n]) <= limit]
    return calls


def _quiet(times: list[tuple[float, float]], device: str) -> bool:
    """Whether nothing else took the processor from most of these calls, of wall and processor time each."""
    walls = sorted(wall for wall, _ in times)
    steady = walls[len(walls) // 2] <= SPREAD * walls[0]
    # While a GPU computes, the processor may rest.
    return steady and (device != "cpu" or sum(used for _, used in times) >= BUSY * sum(walls))


def _name(choice: Choice) -> str:
    """Return a name that is unique among the candidates of a bundle."""
    return f"{choice.engine}/{choice.program.precision}/{choice.options.threads}"


# --- stored choices ----------------------------------------------------------------------------


def _key(archive: Archive, engine: str, options: EngineOptions) -> str:
    text = json.dumps([TRIAL_VERSION, hardware(), archive.manifest.sha256, engine, asdict(options)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _cache() -> dict[str, Any]:
    """Return the stored choices; empty if the file is missing or damaged."""
    try:
        data = json.loads((cache_folder() / CACHE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _entry(key: str) -> dict[str, Any] | None:
    """Return what is stored under a key; None if there is nothing, or if it is damaged."""
    entry = _cache().get(key)
    kinds = {"name": str, "program": str, "ms": float, "others": dict, "disturbed": int}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(k), kind) for k, kind in kinds.items()):
        return None
    return entry


def _remembered(key: str, found: list[Choice]) -> Choice | None:
    """Return the candidate to take without a trial; None if there is none."""
    kept = _entry(key)
    if kept is None or 0 < kept["disturbed"] < TRIALS:
        return None
    for choice in found:
        if _name(choice) == kept["name"] and choice.program.sha256 == kept["program"]:
            return replace(choice, ms=kept["ms"], others=kept["others"])
    return None


def _disturbed(key: str) -> tuple[dict[str, float], int]:
    """Return the shortest call of each candidate so far, ms, and how many trials were disturbed."""
    kept = _entry(key)
    if kept is None or kept["disturbed"] == 0:
        return {}, 0
    calls = {kept["name"]: kept["ms"], **kept["others"]}
    return {name: ms for name, ms in calls.items() if isinstance(ms, float)}, kept["disturbed"]


def _remember(key: str, choice: Choice, disturbed: int) -> None:
    """Store a choice; if the folder is not writable, the next start repeats the trial.

    Args:
        key: of the bundle, engine and options on this machine.
        choice: the candidate.
        disturbed: how many trials in turn were disturbed.
    """
    entry = {
        "name": _name(choice),
        "program": choice.program.sha256,
        "ms": choice.ms,
        "others": dict(choice.others),
        "disturbed": disturbed,
    }
    folder = cache_folder()
    temporary = folder / f".{CACHE_FILE}.{os.getpid()}.tmp"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_cache(), key: entry}, indent=1))
        os.replace(temporary, folder / CACHE_FILE)
