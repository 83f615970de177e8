"""A seeded sample of one-line mutations, and how many of them the unit tests kill.

    python -m bench.mutants                                # the whole sample, half an hour on one core
    python -m bench.mutants --only perception_rt/realtime  # the part of the same sample that lies in a folder
    python -m bench.mutants --only perception_rt/codec --list
    python -m bench.mutants --minutes 30                   # the first of the sample, as far as that goes

Each mutant changes one expression or statement: a comparison, an arithmetic or boolean operator, a
constant, `min` and `max`, a returned value, a call or assignment that is left out. The sample takes the
mutants with the lowest hash of seed, file and change, so an edit elsewhere does not move it. First the
tests of `test/unit` that import the folders are imported and run once, and the lines that each executes are
recorded. For a mutant, a forked process gives the imported functions their changed code and runs the tests
that execute the changed lines, the fastest first, until one fails; a change outside functions is imported
anew with its tests. A test of more than five times the usual time, and ten seconds, counts as failed. Leave
the source files alone while it runs, or run it in a second checkout.

Prints the survivors with their change and writes `{"killed": int, "total": int, "survivors": [...]}` to
`out/mutants.json`. `bench/equivalent_mutants.json` gives the reason of survivors that change nothing
observable, as `{"path: changed line": reason}`; they still count as survivors.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import gc
import hashlib
import importlib.abc
import importlib.util
import inspect
import itertools
import json
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("perception_rt/realtime", "perception_rt/stage/tracking", "perception_rt/codec")
COUNT, SEED = 300, 1
OUT = ROOT / "out/mutants.json"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
SLOWER, GRACE_S = 5.0, 10.0  # maximum time of a test, relative to the usual one
LONGEST_S = 120.0  # maximum time of a traced test, and of the imports
MEMORY_BYTES = 4 << 30  # what the tests of a mutant may take: a mutated size can ask for anything

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

    found = sorted((m for path in source_files() for m in mutants_of(path)), key=rank)
    return list(itertools.islice((mutant for mutant in found if has_effect(mutant)), count))


def source_files() -> list[Path]:
    """Return the files of all folders."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def has_effect(mutant: Mutant) -> bool:
    """Return whether the changed file is another program."""
    return ast.dump(ast.parse(mutant.source)) != ast.dump(parsed(mutant.path))


def module_of(path: str) -> str:
    """`perception_rt/codec/cdr.py` as `perception_rt.codec.cdr`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_files() -> list[str]:
    """Return the files of unit tests that import one of the folders."""
    names = tuple(module_of(folder) for folder in FOLDERS)

    def imports(file: Path) -> bool:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                found += [f"{node.module}.{alias.name}" for alias in node.names]
        return any(name.startswith(names) for name in found)

    return [str(file) for file in sorted((ROOT / "test/unit").glob("test_*.py")) if imports(file)]


class Lines:
    """The lines of the folders that this process executes between `start` and `stop`."""

    _prefixes = tuple(f"{ROOT / folder}{os.sep}" for folder in FOLDERS)

    def start(self) -> None:
        """Trace this thread and those that it starts."""
        self._seen: set[tuple[str, int]] = set()
        threading.settrace(self._call)
        sys.settrace(self._call)

    def stop(self) -> dict[str, set[int]]:
        """Stop to trace and return the lines by file."""
        sys.settrace(None)
        threading.settrace(None)
        lines: dict[str, set[int]] = {}
        for file, line in list(self._seen):
            lines.setdefault(os.path.relpath(file, ROOT), set()).add(line)
        return lines

    def _call(self, frame: Any, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._prefixes) else None

    def _line(self, frame: Any, event: str, _: Any) -> Any:
        self._seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


@dataclass
class Coverage:
    """What the tests execute.

    Attributes:
        imported: the lines that run when the tests are imported, by file.
        lines: for each test, the lines by file.
        took_s: duration of each test, traced.
        failed: tests that fail while they are traced, or end their process; they judge no mutant.
    """

    imported: dict[str, set[int]]
    lines: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Return the tests that execute the narrowest scope of a mutant that any executes; fastest first."""
        for scope in scopes(mutant):
            found = [test for test in self.lines if test not in self.failed and self._runs(test, scope)]
            if found:
                return sorted(found, key=self.took_s.__getitem__)
        return []

    def _runs(self, test: str, scope: dict[str, set[int]]) -> bool:
        return any(not lines.isdisjoint(self.lines[test].get(path, ())) for path, lines in scope.items())


def scopes(mutant: Mutant) -> Iterator[dict[str, set[int]]]:
    """Yield lines by file: a mutant's, its function's, those that use the constant it changes, its file's."""
    yield {mutant.path: set(range(mutant.line, mutant.end + 1))}
    tree = parsed(mutant.path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    around = [node for node in functions if node.lineno <= mutant.line <= node.end_lineno]
    for node in reversed(around):
        yield {mutant.path: set(range(node.lineno, node.end_lineno + 1))}
    if not around:
        yield uses(mutant)
    yield {mutant.path: set(range(1, len(mutant.source)))}


def uses(mutant: Mutant) -> dict[str, set[int]]:
    """Return the lines of all folders that name the constant or field that a mutant changes, by file.

    A constant that is made of another one counts as well.
    """
    trees = {str(path.relative_to(ROOT)): parsed(str(path.relative_to(ROOT))) for path in source_files()}
    names: set[str] = set()
    before = None
    while names != before:
        before = set(names)
        for path, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    own = path == mutant.path and node.lineno <= mutant.line <= node.end_lineno
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    if own or (node.col_offset == 0 and names & named(node.value)):
                        names |= {name for target in targets for name in named(target)}
    return {
        path: {node.lineno for node in ast.walk(tree) if named_by(node) in names}
        for path, tree in trees.items()
    }


def named_by(node: ast.AST) -> str | None:
    """Return the name that a node itself mentions: a variable's or an attribute's."""
    return getattr(node, "id", None) or getattr(node, "attr", None)


def named(tree: ast.AST | None) -> set[str]:
    """Return the names that an expression mentions."""
    return {name for node in ast.walk(tree) if (name := named_by(node))} if tree else set()


@functools.cache
def parsed(path: str) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(ROOT.joinpath(path).read_text())


class Unpatchable(Exception):
    """The mutant changes more than the code of functions that exist already."""


def functions_of(code: CodeType) -> list[CodeType]:
    """Return the code of a module's functions and methods, in order; not of functions within them."""
    found = []
    for one in code.co_consts:
        if isinstance(one, CodeType):
            found += [one] if one.co_flags & inspect.CO_OPTIMIZED else functions_of(one)
    return found


def last_line(code: CodeType) -> int:
    """Return the last line of a function, with the functions in it."""
    inner = [last_line(one) for one in code.co_consts if isinstance(one, CodeType)]
    return max([line for *_, line in code.co_lines() if line] + inner)


def outside_functions(code: CodeType) -> list[object]:
    """Return what a module or class body itself does, without line numbers."""
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    bodies = [outside_functions(one) for one in inner if not one.co_flags & inspect.CO_OPTIMIZED]
    constants = [repr(one) for one in code.co_consts if not isinstance(one, CodeType)]
    return [code.co_code, code.co_names, constants, [one.co_name for one in inner], bodies]


def patches(mutant: Mutant, live: dict[tuple[str, CodeType], list[Any]]) -> list[tuple[Any, CodeType]]:
    """Return the imported functions of a mutant's file with their changed code.

    Raises:
        Unpatchable: when the module has to be imported anew.
    """
    file = str(ROOT / mutant.path)
    old = compile(ROOT.joinpath(mutant.path).read_text(), file, "exec", dont_inherit=True)
    new = compile(mutant.source, file, "exec", dont_inherit=True)
    if outside_functions(old) != outside_functions(new):
        raise Unpatchable
    pairs = []
    for before, after in zip(functions_of(old), functions_of(new), strict=True):
        found = live.get((file, before), [])
        changed = before.co_firstlineno <= mutant.line <= last_line(before)
        if before.co_freevars != after.co_freevars or (changed and not found):
            raise Unpatchable
        pairs += [(function, after) for function in found]
    return pairs


def forked(limit_s: float) -> int | None:
    """Fork and return None in the new process; in this one, wait for it and return its exit code.

    The new process ends after `limit_s` unless it sets the timer again; what it has started ends with it.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return None
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status)


class Limits:
    """A pytest plugin: a test that takes far longer than usual ends its process, as does the last test."""

    def __init__(self) -> None:
        self.usual_s: dict[str, float] | None = None

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Set the timer."""
        if self.usual_s is not None:
            signal.setitimer(signal.ITIMER_REAL, SLOWER * self.usual_s.get(nodeid, 0.0) + GRACE_S)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """End without a report."""
        if self.usual_s is not None:
            os._exit(int(exitstatus))


class CollectedTests(Limits):
    """A pytest plugin that holds the collected tests and runs them in forked processes.

    Everything is imported once. A process of a mutant gives the functions of one file their changed code.

    Args:
        pipe: where requests come from, `(mutant, tests)`, and where the coverage and exit codes go.
        scratch: folder for the records of traced tests.
        lines: the trace of all imports, already running.
    """

    def __init__(self, pipe: Connection, scratch: Path, lines: Lines) -> None:
        super().__init__()
        self._pipe, self._record, self._lines = pipe, scratch / "record", lines
        self._traced = False
        self._live: dict[tuple[str, CodeType], list[Any]] = {}  # functions by file and code

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Return None in a forked process, where pytest then runs what is left in `session.items`."""
        self.coverage = Coverage(self._lines.stop())
        for one in gc.get_objects():
            if isinstance(one, FunctionType):
                self._live.setdefault((one.__code__.co_filename, one.__code__), []).append(one)
        gc.collect()
        gc.freeze()
        return None if self._trace(session) or self._serve(session) else True

    def _trace(self, session: pytest.Session) -> bool:
        """Record every test; True in the forked process."""
        coverage, left = self.coverage, list(session.items)
        while left:
            if forked(LONGEST_S) is None:
                self.usual_s = dict.fromkeys((item.nodeid for item in left), LONGEST_S / SLOWER)
                self._traced, session.config.option.maxfail = True, 0
                session.items[:] = left
                return True
            if self._record.exists():
                with self._record.open("rb") as file:
                    while record := file.peek(1) and pickle.load(file):
                        test, coverage.took_s[test], coverage.lines[test], failed = record
                        coverage.failed |= {test} if failed else set()
            left = [item for item in session.items if item.nodeid not in coverage.took_s]
            for item in left[:1]:  # it has ended the process
                coverage.failed.add(item.nodeid)
                coverage.took_s[item.nodeid] = LONGEST_S
            left = left[1:]
        self._pipe.send(coverage)
        return False

    def _serve(self, session: pytest.Session) -> bool:
        """Run the tests that are asked for, until there is no more request; True in a forked process."""
        items = {item.nodeid: item for item in session.items}
        while request := self._pipe.recv():
            mutant, tests = request
            try:
                changed = patches(mutant, self._live)
            except Unpatchable:
                self._pipe.send(None)
                continue
            code = forked(GRACE_S)
            if code is None:
                self.usual_s = self.coverage.took_s
                for function, after in changed:
                    function.__code__ = after
                session.items[:] = [items[test] for test in tests]
                return True
            self._pipe.send(code)
        return False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Set the timer, and start to trace."""
        super().pytest_runtest_logstart(nodeid)
        self._failed, self._began_s = False, time.monotonic()
        if self._traced:
            self._lines.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure."""
        self._failed |= report.failed

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Append a traced test to the record."""
        if self._traced:
            record = (nodeid, time.monotonic() - self._began_s, self._lines.stop(), self._failed)
            with self._record.open("ab", buffering=0) as file:
                file.write(pickle.dumps(record))  # whole or not at all


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
        exec(compile(self._source, str(self._path), "exec", dont_inherit=True), module.__dict__)


def run_pytest(tests: Sequence[str], plugin: Limits, scratch: Path) -> NoReturn:
    """Run pytest in this forked process, then end it."""
    code = 1
    try:
        log = os.open(scratch / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        options = ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist"]
        options += [f"--basetemp={scratch / 'pytest'}", "--hypothesis-profile=mutants"]
        code = int(pytest.main([*options, *tests], plugins=[plugin]))
    finally:
        sys.stdout.flush()
        os._exit(code)


class Judge:
    """Runs the tests of mutants, by `CollectedTests` where it can, else with everything imported anew.

    Args:
        scratch: a folder of its own.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._pipe, pipe = multiprocessing.Pipe()
        if os.fork() == 0:
            self._pipe.close()
            lines = Lines()
            lines.start()
            run_pytest(test_files(), CollectedTests(pipe, scratch, lines), scratch)
        pipe.close()
        try:
            self.coverage: Coverage = self._pipe.recv()
        except EOFError:
            print((scratch / "pytest.log").read_text())
            raise SystemExit("pytest cannot collect the tests") from None

    def outcome(self, mutant: Mutant, tests: Sequence[str]) -> str:
        """Run tests until one fails; `passed`, `failed` or `slow`."""
        code = None
        if self.coverage.imported.get(mutant.path, set()).isdisjoint(range(mutant.line, mutant.end + 1)):
            self._pipe.send((mutant, tests))
            code = self._pipe.recv()
        if code is None:
            code = self._anew(mutant, tests)
        return {0: "passed", -signal.SIGALRM: "slow"}.get(code, "failed")

    def _anew(self, mutant: Mutant, tests: Sequence[str]) -> int:
        code = forked(LONGEST_S)
        if code is None:
            finder = MutantFinder(module_of(mutant.path), ROOT / mutant.path, mutant.source)
            sys.meta_path.insert(0, finder)
            limits = Limits()
            limits.usual_s = self.coverage.took_s
            run_pytest(tests, limits, self._scratch)
        return code

    def close(self) -> None:
        """End the process that holds the tests."""
        self._pipe.send(None)
        os.wait()


def prepare() -> None:
    """Import the modules that every forked process needs, except those of the package."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for name in (
        "cv2", "hypothesis.strategies", "matplotlib.pyplot", "numpy", "onnxruntime", "pandas", "PIL.Image",
        "rosbags.rosbag1", "scipy.optimize", "torch", "torchvision", "yaml",
    ):  # fmt: skip
        importlib.import_module(name)
    from hypothesis import Phase, settings

    # The first failing example decides: no smaller one is looked for.
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutants", derandomize=True, database=None, deadline=None, phases=phases)


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
    began_s = time.monotonic()
    mutants = [mutant for mutant in sample(args.count, args.seed) if mutant.path.startswith(args.only)]
    if args.list:
        print(*mutants, sep="\n")
        return 0
    prepare()
    reasons = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    survivors: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        judge = Judge(Path(scratch))
        coverage = judge.coverage
        print(f"{time.monotonic() - began_s:.0f} s: {len(coverage.lines)} tests traced; left out, ", end="")
        print(f"as they fail then: {sorted(coverage.failed) or 'none'}", flush=True)
        for number, mutant in enumerate(mutants, 1):
            if time.monotonic() - began_s > 60 * args.minutes:
                break
            tests, start_s = coverage.tests_of(mutant), time.monotonic()
            outcome = judge.outcome(mutant, tests) if tests else "passed"
            print(
                f"{number:4}/{len(mutants)} {outcome:6} {time.monotonic() - start_s:5.1f} s, "
                f"{len(tests)} tests  {mutant.path}:{mutant.line}",
                flush=True,
            )
            if outcome == "passed":
                told = mutant._asdict() | {"reason": reasons.get(f"{mutant.path}: {mutant.after}", "")}
                del told["source"]
                survivors.append(told)
                print(mutant, flush=True)
            result = {"killed": number - len(survivors), "total": number, "survivors": survivors}
            OUT.write_text(json.dumps(result, indent=1) + "\n")
        judge.close()
    print(
        f"{result['killed']} of {result['total']} mutants killed in {time.monotonic() - began_s:.0f} s; "
        f"survivors in {OUT.relative_to(ROOT)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
