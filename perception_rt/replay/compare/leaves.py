"""Two values, field by field: messages of any type, and JSON."""

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
    """How far two floats may lie apart: ``|new - golden| <= absolute + relative * |golden|``.

    The default lets through what another order of summation does to a float32 (about a hundred roundings of
    1e-7), as another CPU may, and nothing that a user of the value would see; integers and texts are exact.

    Raises:
        ConfigError: one is negative or not finite.
    """

    absolute: float = 1e-6
    relative: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("absolute", "relative"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"tolerance {name}={value}: must be a number >= 0")

    def close(self, new: np.ndarray, golden: np.ndarray) -> np.ndarray:
        """Elementwise, bool; NaN is like NaN."""
        return np.isclose(new, golden, rtol=self.relative, atol=self.absolute, equal_nan=True)


class Leaf(NamedTuple):
    """One field that differs.

    Attributes:
        path: as ``detections[2].bbox.center.position.x``; an element that has a key or a name tells it:
            ``status[0].values[3:device].value``.
        new, golden: both values; of an array, those of the element that differs most.
        note: what else there is to say.
    """

    path: str
    new: Any
    golden: Any
    note: str = ""


def ignore_paths(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Whether a field is named as volatile: a function of where it is (a topic, or a file) and its path.

    Args:
        patterns: ``WHERE:PATH``; ``*`` stands for any text, as a field for any fields or none, a list without
            an index for all of its elements, a field for what lies below it too:
            ``/diagnostics:status.values[*:device].value``.

    Raises:
        ConfigError: a pattern without a colon.
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
    # A field that is only `*` may be an element, which a path tells in brackets: status.*.values.
    below = "".join(
        r"((\[[^\]]*\])?\..*)?" if field == ".*" else rf"(\[[^\]]*\])?\.{field}" for field in fields
    )
    return re.escape(where).replace(r"\*", ".*") + ":" + first + below + r"([.\[].*)?"


def differing(
    new: Any, golden: Any, tolerance: Tolerance, ignored: Callable[[str], bool], path: str = ""
) -> Iterator[Leaf]:
    """Walk two values in step.

    Args:
        new, golden: message objects of rosbags, or what JSON holds.
        tolerance: of floats.
        ignored: whether a path is not looked at.
        path: of these values.

    Yields:
        What differs; a list of another length is one difference, its elements are not compared.
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
            note = "only in the golden one" if key in golden else "only in the new one"
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
        return bool(tolerance.close(np.float64(new), np.float64(golden)))
    return type(new) is type(golden) and new == golden


def _fields(message: Any) -> dict[str, Any]:
    return {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name != "__msgtype__"}


def _label(element: Any) -> str:
    for name in _LABELS:
        text = getattr(element, name, None)
        if isinstance(text, str):
            return f":{text}"
    return ""
