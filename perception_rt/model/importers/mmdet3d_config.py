"""Read configurations of mmdetection3d as data.

A Python file is parsed and its expressions are evaluated here; nothing in it is executed. Supported are
names, literals, ``dict(...)`` and a few functions of numbers, arithmetic, subscripts, ``_base_`` files with
``_delete_`` and ``{{_base_.name}}``. Anything else is an error with its line. JSON and YAML files that
mmengine wrote are read, too.
"""

from __future__ import annotations

import ast
import copy
import json
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from perception_rt.model.importers.lidar import MAX_CONFIG
from perception_rt.types.bounded_yaml import load_yaml
from perception_rt.types.errors import BundleError, first_line

MAX_FILES = 50  # _base_ files of _base_ files and so on
MAX_NUMBER = 1e18
MAX_ITEMS = 100_000  # of a list or characters of a text that an expression makes
BASE = "_base_"
_IN_TEXT = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")


def _power(base: float, exponent: float) -> Any:
    if abs(base) > 1000 or abs(exponent) > 64:
        raise ValueError("too large a power")
    return base**exponent


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "float": float,
    "int": int,
    "len": len,
    "list": list,
    "max": max,
    "min": min,
    "round": round,
    "sum": sum,
    "tuple": tuple,
}


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration file and its base files.

    Raises:
        BundleError: it cannot be read, or contains more than data; the message has file and line.
    """
    return _read(path, [0], ())


def parse_config(text: str, what: str) -> dict[str, Any]:
    """Parse a configuration from Python text, as checkpoints contain it; `what` is its name in errors."""
    values = _evaluate(text, what, lambda names: {})
    return {key: value for key, value in values.items() if key != BASE}


def _read(path: Path, files: list[int], chain: tuple[Path, ...]) -> dict[str, Any]:
    what = f"config={str(path)!r}"
    files[0] += 1
    if files[0] > MAX_FILES or path.resolve() in chain:
        raise BundleError(f"{what}: is based on itself, or on more than {MAX_FILES} files")
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise BundleError(f"{what}: over {MAX_CONFIG} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{what}: cannot be read: {error}") from error

    def bases(names: Any) -> dict[str, Any]:
        listed = [names] if isinstance(names, str) else names
        if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
            raise BundleError(f"{what}: _base_={str(names)[:80]}: must be file names")
        merged: dict[str, Any] = {}
        for name in listed:
            found = _read(path.parent / name, files, (*chain, path.resolve()))
            if twice := sorted(found.keys() & merged.keys()):
                raise BundleError(f"{what}: {twice[0]}: two of _base_ set it")
            merged |= found
        return merged

    if path.suffix.lower() == ".py":
        own = _evaluate(text, what, bases)
        base = own.pop(BASE, {})
    else:
        own = _parsed(text, path, what)
        base = bases(own.pop(BASE)) if BASE in own else {}
        own = _filled(own, base, what)
    return _merged(base, own, what)


def _parsed(text: str, path: Path, what: str) -> dict[str, Any]:
    """Parse a JSON or YAML file."""
    try:
        if path.suffix.lower() == ".json":
            data = json.loads(text)
        else:
            data = load_yaml(text.replace("!!python/tuple", "!!seq"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BundleError(f"{what}: cannot be parsed: {first_line(error)}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{what}: holds no configuration, but a {type(data).__name__}")
    return data


def _filled(value: Any, base: Mapping[str, Any], what: str) -> Any:
    """Replace ``{{_base_.name}}`` in texts."""
    if isinstance(value, dict):
        return {key: _filled(item, base, what) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, base, what) for item in value]
    if not isinstance(value, str):
        return value
    if whole := _IN_TEXT.fullmatch(value):
        return copy.deepcopy(_looked_up(base, whole[1].split("."), what))
    return _IN_TEXT.sub(lambda found: str(_looked_up(base, found[1].split("."), what)), value)


def _looked_up(base: Any, names: list[str], what: str) -> Any:
    for name in names:
        if not isinstance(base, Mapping) or name not in base:
            raise BundleError(f"{what}: _base_.{'.'.join(names)}: the files that it is based on set none")
        base = base[name]
    return base


def _merged(base: dict[str, Any], own: dict[str, Any], what: str) -> dict[str, Any]:
    """Merge `own` into `base`; an object with ``_delete_`` replaces the base's."""
    both = dict(base)
    for key, value in own.items():
        under = both.get(key)
        if not isinstance(value, dict):
            both[key] = value
            continue
        value = dict(value)
        if value.pop("_delete_", False) or not isinstance(under, dict):
            if isinstance(under, list | tuple) and under:
                raise BundleError(f"{what}: {key}: an object over a list: write the whole list")
            under = {}
        both[key] = _merged(under, value, what)
    return both


def _evaluate(text: str, what: str, bases: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Return the names that a Python file sets; `BASE` has those of its ``_base_`` files."""
    try:
        values: dict[str, Any] = {}
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a comment in quotes
            names = [
                target.id for target in getattr(statement, "targets", ()) if isinstance(target, ast.Name)
            ]
            if not isinstance(statement, ast.Assign) or len(names) < len(statement.targets):
                raise _refusal(statement, what)
            value = _Expression(values, what).value(statement.value)
            for name in names:
                values[name] = bases(value) if name == BASE else value
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BundleError(f"{what}: is no Python: {first_line(error)}") from error
    return values


def _refusal(node: ast.AST, what: str) -> BundleError:
    """Return the error for code that is not data."""
    found = first_line(ValueError(ast.unparse(node)))[:60]
    return BundleError(
        f"{what}: line {getattr(node, 'lineno', '?')}: {found}: is code, and code is not run: give the file "
        "that mmdetection3d wrote to work_dirs, or one that `cfg.dump('config.json')` wrote"
    )


class _Expression:
    """Evaluates expressions of literals and of the names in `values`."""

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        self.values, self.what = values, what

    def value(self, node: ast.expr) -> Any:
        """Return the value of a node; BundleError if it is more than data."""
        try:
            result = self._value(node)
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError) as error:
            line = f"{self.what}: line {node.lineno}: {ast.unparse(node)[:60]}"
            raise BundleError(f"{line}: {first_line(error)}") from error
        if isinstance(result, int | float) and abs(result) > MAX_NUMBER:
            raise BundleError(
                f"{self.what}: line {node.lineno}: {ast.unparse(node)[:60]}: too large a number"
            )
        return result

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and not isinstance(node.value, bytes | complex):
            return self._text(node.value) if isinstance(node.value, str) else node.value
        if isinstance(node, ast.List):
            return [self.value(item) for item in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple(self.value(item) for item in node.elts)
        if isinstance(node, ast.Dict):
            return self._dict(node)
        if isinstance(node, ast.Set):
            return self._from_base(node)
        if isinstance(node, ast.Name) and node.id in self.values:
            return copy.deepcopy(self.values[node.id])
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return _UNARY[type(node.op)](self.value(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return self._binary(node)
        if isinstance(node, ast.Subscript):
            return self.value(node.value)[self._index(node.slice)]
        if isinstance(node, ast.Call):
            return self._call(node)
        raise _refusal(node, self.what)

    def _text(self, text: str) -> Any:
        base = self.values.get(BASE, {})
        return _filled(text, base, self.what) if "{{" in text else text

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            result |= self.value(item) if key is None else {self.value(key): self.value(item)}
        return result

    def _from_base(self, node: ast.Set) -> Any:
        """``{{_base_.name}}``, which parses as a set in a set."""
        inner = node.elts[0]
        if len(node.elts) == 1 and isinstance(inner, ast.Set) and len(inner.elts) == 1:
            return self.value(inner.elts[0])
        raise _refusal(node, self.what)

    def _attribute(self, node: ast.Attribute) -> Any:
        """``_base_.name.name``."""
        names, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            names.insert(0, root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id != BASE:
            raise _refusal(node, self.what)
        return copy.deepcopy(_looked_up(self.values.get(BASE, {}), names, self.what))

    def _binary(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        times = right if sizes and isinstance(right, int) else left if isinstance(left, int) else 1
        if sizes and sum(sizes) * max(1, times) > MAX_ITEMS:
            raise ValueError("too long")
        if isinstance(left, str) and isinstance(node.op, ast.Mod):
            raise _refusal(node, self.what)
        return _BINARY[type(node.op)](left, right)

    def _index(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            ends = (node.lower, node.upper, node.step)
            return slice(*(None if end is None else self.value(end) for end in ends))
        return self.value(node)

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
            raise _refusal(node, self.what)
        if any(isinstance(item, ast.Starred) for item in node.args):
            raise _refusal(node, self.what)
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            item = self.value(keyword.value)
            named |= item if keyword.arg is None else {keyword.arg: item}
        return _FUNCTIONS[node.func.id](*(self.value(item) for item in node.args), **named)
