"""YAML from files and command lines, bounded in depth and size, aliases included."""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 50
MAX_NODES = 200_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlLimitError(yaml.YAMLError):
    """The text is YAML, but nested too deeply, too large, or an alias contains itself."""


def load_yaml(text: str) -> Any:
    """Parse a YAML document as `yaml.safe_load` does.

    Raises:
        yaml.YAMLError: it is not YAML, deeper than `MAX_DEPTH`, or has more than `MAX_NODES` values once its
            aliases are expanded.
    """
    _check(text)
    try:
        return yaml.load(text, _LOADER)
    except (ValueError, OverflowError) as error:  # a value of the form of a date or number that is none
        raise yaml.YAMLError(str(error)) from error


def _check(text: str) -> None:
    """Walk the parser's events, which needs no recursion, and count the values that they stand for."""
    sizes: dict[str, int] = {}
    stack: list[tuple[str | None, int]] = []  # anchor of each open collection, and the count before it
    count = 0
    for event in yaml.parse(text, _LOADER):
        where = f"line {event.start_mark.line + 1}" if event.start_mark else "YAML"
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in stack):
                raise YamlLimitError(f"{where}: *{event.anchor} contains itself")
            count += sizes.get(str(event.anchor), 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(stack) >= MAX_DEPTH:
                raise YamlLimitError(f"{where}: nested deeper than {MAX_DEPTH} levels")
            stack.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = stack.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if count > MAX_NODES:
            raise YamlLimitError(f"{where}: more than {MAX_NODES} values")
