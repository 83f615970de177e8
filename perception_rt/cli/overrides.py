"""Parse overrides of parameters and topics in ROS command line syntax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from perception_rt.types import ConfigError
from perception_rt.types.bounded_yaml import load_yaml


def parse_parameters(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse ``[NODE:]NAME:=VALUE`` to values by node and name; the node "" means every node.

    Raises:
        ConfigError: a text is not of that form.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        left, sign, right = text.partition(":=")
        node, _, name = left.rpartition(":")
        if not sign or not name:
            raise ConfigError(f"-p {text}: must be NAME:=VALUE or NODE:NAME:=VALUE")
        try:
            value = load_yaml(right)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, as 2024-13-01
            raise ConfigError(f"-p {text}: the value is not YAML: {' '.join(str(error).split())}") from error
        found.setdefault(node, {})[name] = value
    return found


def parse_remaps(texts: Sequence[str]) -> dict[str, str]:
    """Parse ``FROM:=TO`` to the topics to use, by the names that they replace; both absolute.

    Raises:
        ConfigError: a text is not of that form.
    """
    found = {}
    for text in texts:
        left, sign, right = text.partition(":=")
        if not (sign and left and right):
            raise ConfigError(f"-r {text}: must be FROM:=TO")
        found["/" + left.lstrip("/")] = "/" + right.lstrip("/")
    return found
