"""Message types by their names."""

from __future__ import annotations

import importlib

from perception_rt.types import ConfigError


def message_class(message_type: str) -> type | None:
    """The Python class of `package/msg/Name`, or None where its package is not installed."""
    package, kind, name = message_type.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name, None)
    except ImportError:
        return None


def installed_class(message_type: str) -> type:
    """Return the class of a message.

    Raises:
        ConfigError: its package is not installed.
    """
    found = message_class(message_type)
    if found is None:
        raise ConfigError(f"{message_type}: its package is not installed")
    return found
