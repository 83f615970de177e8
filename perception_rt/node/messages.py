"""Message types by their names."""

from __future__ import annotations

import importlib


def message_class(message_type: str) -> type | None:
    """The Python class of `package/msg/Name`, or None where its package is not installed."""
    package, kind, name = message_type.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name, None)
    except ImportError:
        return None
