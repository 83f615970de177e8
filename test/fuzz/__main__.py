"""Run readers on mutated inputs, each target in a process of its own with a limit on time and memory.

`python -m test.fuzz` runs all, `python -m test.fuzz image -n 100000` one; `--atheris` lets atheris choose the
inputs by coverage, where it is installed (`pip install atheris`). What fails is kept in out/fuzz; put
it, small, into test/fuzz/corpus/TARGET, where it is tried from then on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bench.record import OUT
from bench.rows import row, table_of, write_rows

from .mutate import mutate
from .targets import ALLOWED, TARGETS, Target, place_of

LIMIT_S = 2.0  # of processor time, for one input
LIMIT_BYTES = 1 << 30  # more than the process has at the start
KEPT = 400  # inputs that did something new
CORPUS = Path(__file__).with_name("corpus")
FOLDER = OUT / "fuzz"


class TooLong(BaseException):
    """An input took longer than `LIMIT_S`; no reader catches this."""


def attempt(target: Target, data: bytes) -> tuple[str, BaseException | None]:
    """Read one input; where it ended, and what it raised that it must not."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        ends = target.read(data)
    except ALLOWED as error:
        return place_of(error), None
    except (Exception, TooLong) as error:  # noqa: BLE001 - what is looked for
        return "failed", error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return " ".join(ends) if isinstance(ends, tuple) else "read", None


def corpus(name: str) -> list[bytes]:
    """What failed once."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def fuzz(name: str, pool: list[bytes], runs: int, seed: int, current: mmap.mmap | None = None) -> dict:
    """Read the inputs of `pool` and mutations of them; those that end somewhere new are mutated further.

    Returns:
        ``runs``, ``places`` (different ends), ``failures`` ((input, error) each of another kind).
    """
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    places, failures, done = set(), {}, 0
    queue = list(pool)
    while done < runs:
        data = queue.pop() if queue else mutate(rng, rng.choice(pool), pool, target.most)
        if current is not None:
            current[:8] = len(data).to_bytes(8, "little")
            current[8 : 8 + len(data)] = data
        place, error = attempt(target, data)
        done += 1
        if error is not None:
            kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1]}"
            failures.setdefault(kind, (data, error))
        elif place not in places:
            places.add(place)
            if len(pool) < KEPT:
                pool.append(data)
    return {"runs": done, "places": len(places), "failures": list(failures.values())}


def child(name: str, runs: int, seed: int) -> int:
    """Fuzz one target in this process; print the result as JSON."""

    def stop(*_: object) -> None:
        raise TooLong(f"longer than {LIMIT_S} s")

    signal.signal(signal.SIGPROF, stop)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.current"
    path.write_bytes(bytes(8 + (1 << 22)))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as current:
        pool = [*TARGETS[name].seeds(), *corpus(name)]
        now = Path("/proc/self/statm").read_text().split()[0]
        resource.setrlimit(resource.RLIMIT_AS, (int(now) * mmap.PAGESIZE + LIMIT_BYTES, -1))
        said = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg and libpng say much
        began = time.monotonic()
        found = fuzz(name, pool, runs, seed, current)
        found["seconds"] = round(time.monotonic() - began, 1)
        os.dup2(said, 2)
    for number, (data, error) in enumerate(found.pop("failures")):
        (FOLDER / f"{name}.{number}").write_bytes(data)
        traceback.print_exception(error, limit=-4)
        found["failed"] = number + 1
    path.unlink()
    print(json.dumps(found))
    return 0


def by_atheris(name: str, runs: int) -> int:
    """Let atheris choose the inputs."""
    atheris = importlib.import_module("atheris")  # no dependency: who asks for it installs it

    target = TARGETS[name]
    FOLDER.joinpath(f"{name}.corpus").mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*target.seeds(), *corpus(name)]):
        FOLDER.joinpath(f"{name}.corpus", f"seed{number}").write_bytes(data)

    def one(data: bytes) -> None:
        try:
            target.read(data)
        except ALLOWED:
            return

    atheris.instrument_all()
    options = [f"-runs={runs}", f"-max_len={target.most}", f"-timeout={int(LIMIT_S)}", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *options, str(FOLDER / f"{name}.corpus")], one)
    atheris.Fuzz()
    return 0


def main() -> int:
    """Run the targets, print and write the rows."""
    parser = argparse.ArgumentParser(prog="python -m test.fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)"
    )
    parser.add_argument(
        "-n", "--runs", type=int, help="inputs of each target; of all: at most (default: a million in all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="inputs by coverage; one target")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.targets) - TARGETS.keys():
        parser.error(f"no target {min(unknown)}")
    names = args.targets or list(TARGETS)
    if args.atheris:
        return by_atheris(names[0], args.runs or TARGETS[names[0]].runs)
    if args.child:
        return child(names[0], args.runs, args.seed)
    rows, total, failed = [], 0, 0
    for name in names:
        runs = args.runs if args.runs and args.targets else min(args.runs or sys.maxsize, TARGETS[name].runs)
        command = [
            sys.executable,
            "-m",
            "test.fuzz",
            name,
            "-n",
            str(runs),
            "--seed",
            str(args.seed),
            "--child",
        ]
        with tempfile.TemporaryDirectory(
            prefix="fuzz_"
        ) as scratch:  # a process that is killed leaves its own
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OPENCV_LOG_LEVEL": "OFF", "TMPDIR": scratch},
            )
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": 1, "runs": 0}
        if done.returncode:
            print(f"{name}: the process ended with {done.returncode} at {FOLDER / name}.current")
        print(name, found, flush=True)
        total, failed = total + found["runs"], failed + found.get("failed", 0)
        rows += [
            row(
                f"fuzz/runs/{name}",
                found["runs"],
                "inputs",
                f">= {1000 if name in ('onnx', 'archive') else 10_000}",
            ),
            row(f"fuzz/failures/{name}", found.get("failed", 0), "kinds", "<= 0"),
            row(f"fuzz/places/{name}", found.get("places"), "ends"),
        ]
        whole = [
            row("fuzz/all/runs", total, "inputs", ">= 1000000"),
            row("fuzz/all/failures", failed, "kinds", "<= 0"),
        ]
        shown = sorted([*rows, *whole], key=lambda entry: entry.name.rpartition("/")[0])
        write_rows(OUT / "bench" / "fuzz.json", shown)  # keep the results if the run is stopped
    from rich.console import Console

    Console().print(table_of(shown))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
