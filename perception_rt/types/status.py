"""What a node says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True, slots=True)
class Status:
    """A diagnostic_msgs/DiagnosticStatus.

    Attributes:
        values: anything by key; told as text.
    """

    name: str
    level: Level
    message: str
    hardware_id: str
    values: Mapping[str, object]

    def texts(self) -> dict[str, str]:
        """The values as they are told: floats with two decimals, None as empty."""
        return {key: _text(value) for key, value in self.values.items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
