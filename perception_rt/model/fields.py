"""Checks of the fields of a JSON object; each returns the value to keep, or raises ValueError."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from perception_rt.types.errors import BundleError

MAX_TEXT = 1000
MAX_ITEMS = 100_000


def shortened(value: object) -> str:
    """Return the value as one line of text with at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def field(data: dict[str, Any], name: str, check: Callable[[Any], Any], prefix: str = "") -> Any:
    """Return a checked field of a manifest; BundleError names the field and its value."""
    if name not in data:
        raise BundleError(f"manifest {prefix}{name} is missing")
    try:
        return check(data[name])
    except ValueError as error:
        raise BundleError(f"manifest {prefix}{name}={shortened(data[name])}: {error}") from error


def no_others(data: dict[str, Any], kind: type[Any], prefix: str) -> None:
    """Raise BundleError for a field that `kind` does not have."""
    for name in data:
        if name not in kind.__dataclass_fields__:
            raise BundleError(f"manifest {prefix}{name}={shortened(data[name])}: not a field of this schema")


def nonempty_text(value: Any) -> str:
    """Check a text that is not empty and can be encoded as UTF-8, as messages require."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a non-empty text")
    if len(value) > MAX_TEXT:
        raise ValueError(f"must have at most {MAX_TEXT} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode (it holds a lone surrogate)") from error
    return value


def truth(value: Any) -> bool:
    """Check true or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a check for null or a value that passes `check`."""
    return lambda value: None if value is None else check(value)


def mapping_of(check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    """Return a check for an object whose values pass `check`."""

    def check_mapping(value: Any) -> dict[str, Any]:
        return {nonempty_text(key): check(item) for key, item in json_object(value).items()}

    return check_mapping


def json_object(value: Any) -> dict[str, Any]:
    """Check a JSON object."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


def hex_sha256(value: Any) -> str:
    """Check 64 lower-case hex digits."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("must be 64 lower-case hex digits")
    return value


def one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    """Return a check for one of several texts."""

    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return check


def file_name(value: Any) -> str:
    """Check the name of an archive member: no folder, and no character with a meaning in a shell or path."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", value):
        raise ValueError("must be a plain file name")
    return value


def integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    """Return a check for an integer from `low` to `high`."""

    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be an integer")
        if value < low or (high is not None and value > high):
            raise ValueError(f"must be >= {low}" + ("" if high is None else f" and <= {high}"))
        return value

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Callable[[Any], float]:
    """Return a check for a finite number from `low` to `high`."""

    def check(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError("must be a finite number")
        try:
            value = float(value)
        except OverflowError as error:
            raise ValueError("must be a finite number") from error
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        if not low <= value <= high:
            raise ValueError(f"must be in [{low:g}, {high:g}]")
        return value

    return check


def list_of(check: Callable[[Any], Any], length: int | None = None) -> Callable[[Any], tuple]:
    """Return a check for a list of values that pass `check`; it returns a tuple."""

    def check_list(value: Any) -> tuple:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise ValueError("must be a list" + ("" if length is None else f" of {length}"))
        if len(value) > MAX_ITEMS:
            raise ValueError(f"must have at most {MAX_ITEMS} items")
        return tuple(check(item) for item in value)

    return check_list
