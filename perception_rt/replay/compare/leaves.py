"""Compare two values field by field: messages of any type, or JSON."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from perception_rt.types import ConfigError

_LABELS = ("key", "name")  # of diagnostic_msgs KeyValue and DiagnosticStatus


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The tolerance for floats: ``|new - golden| <= absolute + relative * |golden|``.

    The default allows for another order of summation in float32 (about a hundred roundings of 1e-7), as on
    another CPU. Integers and texts are compared exactly.

    Raises:
        ConfigError: a tolerance is negative or not finite.
    """

    absolute: float = 1e-6
    relative: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("absolute", "relative"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"tolerance {name}={value}: must be a number >= 0")

    def close(self, new: np.ndarray | float, golden: np.ndarray | float) -> np.ndarray | np.bool_:
        """Return elementwise whether the values are close; NaN equals NaN."""
        return np.isclose(new, golden, rtol=self.relative, atol=self.absolute, equal_nan=True)


class Leaf(NamedTuple):
    """One field that differs.

    Attributes:
        path: as ``detections[2].bbox.center.position.x``; with an element's key or name:
            ``status[0].values[3:device].value``.
        new, golden: both values; for an array, those of the element that differs most.
        note: further details.
    """

    path: str
    new: Any
    golden: Any
    note: str = ""


def ignore_paths(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Return a function of a topic or file and a field's path: whether the field is volatile.

    Args:
        patterns: ``WHERE:PATH``, for example ``/diagnostics:status.values[*:device].value``. ``*`` matches
            any text; as a whole field it matches any number of fields. A list without an index matches
            all of its elements. A field includes all fields below it.

    Raises:
        ConfigError: a pattern has no colon.
    """
    for pattern in patterns:
        if ":" not in pattern:
            raise ConfigError(f"volatile={pattern!r}: write it as TOPIC:FIELD.PATH, e.g. /diagnostics:status")
    if not patterns:
        return lambda where, path: False
    whole = re.compile("|".join(_expression(pattern) for pattern in patterns))
    return lambda where, path: whole.fullmatch(f"{where}:{path}") is not None


def _expression(pattern: str) -> str:
    where, _, path = pattern.partition(":")
    first, *fields = [re.escape(field).replace(r"\*", ".*") for field in path.split(".")]
    # A field `*` may also match an element, which a path writes in brackets: status.*.values.
    below = "".join(
        r"((\[[^\]]*\])?\..*)?" if field == ".*" else rf"(\[[^\]]*\])?\.{field}" for field in fields
    )
    return re.escape(where).replace(r"\*", ".*") + ":" + first + below + r"([.\[].*)?"


def differing(
    new: Any, golden: Any, tolerance: Tolerance, ignored: Callable[[str], bool], path: str = ""
) -> Iterator[Leaf]:
    """Yield the leaves that differ between two values.

    Args:
        new, golden: message objects of rosbags, or JSON values.
        tolerance: for floats.
        ignored: returns whether to skip a path.
        path: of the two values.

    Yields:
        The leaves that differ; lists of different length are one difference.
    """
    if path and ignored(path):
        return
    if isinstance(golden, np.ndarray) and isinstance(new, np.ndarray):
        yield from _arrays(new, golden, tolerance, path)
    elif isinstance(golden, Mapping) and isinstance(new, Mapping):
        yield from _mappings(new, golden, tolerance, ignored, path)
    elif isinstance(golden, list | tuple) and isinstance(new, list | tuple):
        if len(new) != len(golden):
            yield Leaf(path, len(new), len(golden), "lengths")
            return
        for number, pair in enumerate(zip(new, golden, strict=True)):
            label = f"{path}[{number}{_label(pair[1])}]"
            yield from differing(*pair, tolerance, ignored, label)
    elif dataclasses.is_dataclass(golden) and type(new).__name__ == type(golden).__name__:
        yield from _mappings(_fields(new), _fields(golden), tolerance, ignored, path)
    elif not _same(new, golden, tolerance):
        yield Leaf(path, new, golden)


def _mappings(
    new: Mapping, golden: Mapping, tolerance: Tolerance, ignored: Callable[[str], bool], path: str
) -> Iterator[Leaf]:
    for key in dict.fromkeys((*golden, *new)):
        inner = f"{path}.{key}" if path else str(key)
        if key in new and key in golden:
            yield from differing(new[key], golden[key], tolerance, ignored, inner)
        elif not ignored(inner):
            note = "only in golden" if key in golden else "only in new"
            yield Leaf(inner, new.get(key), golden.get(key), note)


def _arrays(new: np.ndarray, golden: np.ndarray, tolerance: Tolerance, path: str) -> Iterator[Leaf]:
    if new.shape != golden.shape:
        yield Leaf(path, new.size, golden.size, "lengths")
        return
    if np.issubdtype(golden.dtype, np.floating):
        unlike = ~tolerance.close(new, golden)
        apart = np.abs(new.astype(np.float64) - golden.astype(np.float64))
    else:
        unlike = new != golden
        apart = unlike
    if unlike.any():
        worst = int(np.argmax(np.where(unlike, np.nan_to_num(apart, nan=np.inf), -1)))
        note = f"{int(unlike.sum())} of {unlike.size} elements"
        yield Leaf(f"{path}[{worst}]", new.flat[worst].item(), golden.flat[worst].item(), note)


def _same(new: Any, golden: Any, tolerance: Tolerance) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (new, golden))
    if numbers and float in (type(new), type(golden)):
        return bool(tolerance.close(float(new), float(golden)))
    return type(new) is type(golden) and new == golden


def _fields(message: Any) -> dict[str, Any]:
    return {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name != "__msgtype__"}


def _label(element: Any) -> str:
    for name in _LABELS:
        text = getattr(element, name, None)
        if isinstance(text, str):
            return f":{text}"
    return ""
