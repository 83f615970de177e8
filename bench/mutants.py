"""A seeded sample of one-line mutations, and how many of them the unit tests kill.

    python -m bench.mutants                                # the whole sample, some minutes on one core
    python -m bench.mutants --only perception_rt/realtime  # the part of the same sample that lies in a folder
    python -m bench.mutants --only perception_rt/codec --list
    python -m bench.mutants --minutes 30                   # the first of the sample, as far as that goes

Each mutant changes one expression or statement: a comparison, an arithmetic or boolean operator, a
constant, `min` and `max`, a returned value, a call or assignment that is left out. The sample takes the
mutants with the lowest hash of seed, file and change, so an edit elsewhere does not move it. First the tests
of `test/unit` that import the folders run once, and the lines that each test executes are recorded. A mutant
then runs in a forked process against the tests that execute its lines, the fastest first, until one fails; a
run of more than five times the usual time counts as killed. Leave the source files alone while it runs, or
run it in a second checkout.

Prints the survivors with their change and writes `{"killed": int, "total": int, "survivors": [...]}` to
`out/mutants.json`. `bench/equivalent_mutants.json` gives the reason of survivors that change nothing
observable, as `{"path: changed line": reason}`; they still count as survivors.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.abc
import importlib.util
import itertools
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("perception_rt/realtime", "perception_rt/stage/tracking", "perception_rt/codec")
COUNT, SEED = 300, 1
OUT = ROOT / "out/mutants.json"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
SLOWER, GRACE_S = 5.0, 30.0  # maximum time of a mutant's tests, relative to the usual one

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One change: `source` is the whole file with it, `before` and `after` the changed lines."""

    path: str
    line: int
    end: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n  - {self.before}\n  + {self.after}"


def replacements(node: ast.AST) -> Iterator[str]:
    """Yield the replacements of a node, as text."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        yield f"({ast.unparse(ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators))})"
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield f"({ast.unparse(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))})"
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"({ast.unparse(ast.BoolOp(other, node.values))})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield str(node.value + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
        yield ast.unparse(ast.Call(ast.Name(SWAPPED[node.func.id]), node.args, node.keywords))
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return None"
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "pass"


def mutable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below one that affect behaviour: no types, no texts, no interfaces."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.JoinedStr | ast.Import):
                continue
            if isinstance(child, ast.ClassDef) and any("Protocol" in ast.unparse(b) for b in child.bases):
                continue
            yield child
            yield from mutable(child)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of a file, and changes without effect."""
    source = path.read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for node in mutable(ast.parse(source)):
        for text in replacements(node):
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            changed = source[:begin] + text.encode() + source[end:]
            first, last = starts[node.lineno - 1], starts[node.end_lineno]
            before, after = source[first:last], changed[first : last + len(changed) - len(source)]
            shown = (" ".join(part.decode().split()) for part in (before, after))
            yield Mutant(str(path.relative_to(ROOT)), node.lineno, node.end_lineno, *shown, changed.decode())


def sample(count: int, seed: int) -> list[Mutant]:
    """The sampled mutants of all folders, in order of their hash: the first are a sample too."""

    def rank(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed}:{mutant.path}:{mutant.before}:{mutant.after}".encode()).digest()

    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = sorted((m for path in files for m in mutants_of(path)), key=rank)
    return list(itertools.islice((mutant for mutant in found if has_effect(mutant)), count))


def has_effect(mutant: Mutant) -> bool:
    """Return whether the changed file is another program."""
    source = ROOT.joinpath(mutant.path).read_text()
    return ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(source))


def module_of(path: str) -> str:
    """`perception_rt/codec/cdr.py` as `perception_rt.codec.cdr`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_files() -> list[str]:
    """Return the files of unit tests that import one of the folders."""
    names = [module_of(folder) for folder in FOLDERS]
    files = sorted((ROOT / "test/unit").glob("test_*.py"))
    return [str(file) for file in files if any(name in file.read_text() for name in names)]


class Coverage:
    """A pytest plugin that records the duration of each test and the lines that it executes.

    Attributes:
        lines: for each test, the lines by file.
        took_s: duration of each test.
        failed: tests that fail while they are traced; they judge no mutant.
    """

    def __init__(self) -> None:
        self.lines: dict[str, dict[str, set[int]]] = {}
        self.took_s: dict[str, float] = {}
        self.failed: set[str] = set()
        self._prefixes = tuple(str(ROOT / folder) for folder in FOLDERS)
        self._now: dict[str, set[int]] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Start to trace."""
        self._now = self.lines[nodeid] = {}
        self.took_s[nodeid] = time.monotonic()
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Stop to trace."""
        sys.settrace(None)
        threading.settrace(None)
        self.took_s[nodeid] = time.monotonic() - self.took_s[nodeid]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failure."""
        if report.failed:
            self.failed.add(report.nodeid)

    def _trace(self, frame: Any, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(self._prefixes):
            return None
        seen = self._now.setdefault(str(Path(file).relative_to(ROOT)), set())
        seen.add(frame.f_lineno)

        def lines(frame: Any, event: str, _: Any) -> Any:
            seen.add(frame.f_lineno)
            return lines

        return lines

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that execute a mutant's lines, else those that execute its file; fastest first."""
        wanted = set(range(mutant.line, mutant.end + 1))
        touching = {
            test: files[mutant.path]
            for test, files in self.lines.items()
            if mutant.path in files and test not in self.failed
        }
        own = [test for test, lines in touching.items() if lines & wanted] or list(touching)
        return sorted(own, key=self.took_s.__getitem__)


def record_coverage() -> Coverage:
    """Run all tests once in a forked process and return what they execute."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        coverage = Coverage()
        _run_pytest(None, test_files(), [coverage], ["--maxfail=20"])
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump((coverage.lines, coverage.took_s, coverage.failed), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines, took_s, failed = pickle.load(pipe)
    os.waitpid(child, 0)
    coverage = Coverage()
    coverage.lines, coverage.took_s, coverage.failed = lines, took_s, failed
    print(f"{len(lines)} tests; left out, as they fail while they are traced: {sorted(failed) or 'none'}")
    return coverage


class MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a text instead of its file."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """The spec of the one module."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: Any) -> None:
        """Run the text."""
        exec(compile(self._source, str(self._path), "exec"), module.__dict__)


def run_tests(mutant: Mutant | None, tests: Sequence[str], timeout_s: float) -> tuple[str, float]:
    """Run tests in a forked process; `passed`, `failed` or `slow`, and how long it took, s."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_child(mutant, tests)
    while time.monotonic() - began < timeout_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            passed = os.waitstatus_to_exitcode(status) == 0
            return ("passed" if passed else "failed"), time.monotonic() - began
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "slow", time.monotonic() - began


def _run_child(mutant: Mutant | None, tests: Sequence[str]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        code = _run_pytest(mutant, tests, [], ["-x"])
    finally:
        os._exit(code)


def _run_pytest(
    mutant: Mutant | None, tests: Sequence[str], plugins: Sequence[object], more: Sequence[str]
) -> int:
    import pytest

    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    if mutant is not None:
        sys.meta_path.insert(0, MutantFinder(module_of(mutant.path), ROOT / mutant.path, mutant.source))
    options = [*more, "-q", "-p", "no:cacheprovider", "-p", "no:launch_testing", "-p", "no:xdist"]
    return int(pytest.main([*options, "--hypothesis-profile=mutants", *tests], plugins=list(plugins)))


def prepare() -> None:
    """Import the modules that every forked process needs, except those of the package."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    for name in ("pytest", "hypothesis.strategies", "numpy", "scipy.optimize", "torch", "cv2", "yaml"):
        importlib.import_module(name)
    from hypothesis import settings

    settings.register_profile("mutants", derandomize=True, database=None, deadline=None)


def judge(mutants: Sequence[Mutant], coverage: Coverage, stop_s: float) -> tuple[int, list[Mutant]]:
    """Run the tests on every mutant until a monotonic time; return the number judged, and the survivors."""
    number, survivors = 0, []
    for number, mutant in enumerate(mutants, 1):
        tests = coverage.tests_of(mutant)
        usual_s = sum(coverage.took_s[test] for test in tests)
        outcome, took_s = run_tests(mutant, tests, usual_s * SLOWER + GRACE_S) if tests else ("passed", 0.0)
        print(
            f"{number:4}/{len(mutants)} {outcome:6} {took_s:5.1f} s, {len(tests)} tests  "
            f"{mutant.path}:{mutant.line}",
            flush=True,
        )
        if outcome == "passed":
            survivors.append(mutant)
            print(mutant, flush=True)
        if time.monotonic() > stop_s:
            break
    return number, survivors


def main() -> int:
    """Judge the sample."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=COUNT, help="size of the whole sample")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--only", default="", metavar="PATH", help="file or folder; default: the whole sample"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant after this time")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    args = parser.parse_args()
    stop_s = time.monotonic() + 60 * args.minutes
    mutants = [mutant for mutant in sample(args.count, args.seed) if mutant.path.startswith(args.only)]
    if args.list:
        print(*mutants, sep="\n")
        return 0
    prepare()
    reasons = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    print(f"tests without a mutation, traced: {len(test_files())} files", flush=True)
    coverage = record_coverage()
    judged, survivors = judge(mutants, coverage, stop_s)
    told = [{**s._asdict(), "reason": reasons.get(f"{s.path}: {s.after}", "")} for s in survivors]
    for one in told:
        del one["source"]
    killed = judged - len(survivors)
    result = {"killed": killed, "total": judged, "survivors": told}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{killed} of {judged} mutants killed; survivors in {OUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
