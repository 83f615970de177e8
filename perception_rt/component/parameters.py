"""Declaration of parameters: name, default, bounds, description."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perception_rt.types import ConfigError

ROS_NAMES = ("use_sim_time", "qos_overrides", "start_type_description_service")
Value = bool | int | float | str | list


@dataclass(frozen=True)
class Parameter:
    """One parameter of a node.

    Attributes:
        default: default value; its type is the parameter's type.
        bounds: minimum and maximum of a number.
        choices: allowed strings; empty for any.
        live: can be set while the node is configured.
    """

    name: str
    default: Value
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def check(self, value: Any) -> None:
        """Check what the ranges of ROS cannot express.

        Raises:
            ConfigError: names the parameter, the value and what is allowed.
        """
        if self.bounds and not self.bounds[0] <= value <= self.bounds[1]:
            raise ConfigError(f"{self.name}={value}: must be within {self.bounds[0]} and {self.bounds[1]}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name}={value!r}: must be one of {', '.join(self.choices)}")

    def accept(self, value: Any) -> Any:
        """Return a checked value; a frame loses the leading slash, which tf2 refuses.

        Raises:
            ConfigError: as `check`.
        """
        self.check(value)
        return value.removeprefix("/") if self.name.endswith(("_frame", "frame_id")) else value

    def check_type(self, value: object) -> None:
        """Refuse a value whose type differs from the default's; as in ROS, 1 and 1.0 differ.

        Raises:
            ConfigError: names the parameter, the value and its type.
        """
        kinds = {type(one) for one in value} if isinstance(value, list) else set()
        wanted = {type(one) for one in self.default} if isinstance(self.default, list) else set()
        if type(value) is not type(self.default) or kinds - wanted:
            kind = type(self.default).__name__
            kind += f" of {', '.join(sorted(one.__name__ for one in wanted))}" if wanted else ""
            hint = f": write {float(value)}" if type(value) is int and kind == "float" else ""
            raise ConfigError(f"{self.name}={value!r}: must be of type {kind}{hint}")


NODE_PARAMETERS = (
    Parameter("autostart", True, "Configure and activate at start, without a lifecycle manager."),
    Parameter(
        "cpu_affinity",
        "",
        "CPU cores for the threads of this node and its model, like 2-3; empty: all.",
    ),
    Parameter(
        "thread_priority",
        0,
        "SCHED_FIFO priority of the model's threads; messages and diagnostics get one less. 0: none.",
        (0, 99),
    ),
    Parameter("lock_memory", False, "Lock the memory of the process in RAM (mlockall)."),
)
"""Parameters of every node; a replay ignores them. Named as in ros2_control's controller_manager."""


def check_names(table: Sequence[Parameter], names: Iterable[str]) -> None:
    """Refuse names that a node does not declare, except those of every ROS node.

    Raises:
        ConfigError: lists the names, each with the nearest ones that exist.
    """
    known = list(dict.fromkeys(parameter.name for parameter in (*NODE_PARAMETERS, *table)))
    unknown = [name for name in map(str, names) if name not in known and not name.startswith(ROS_NAMES)]
    if unknown:
        raise ConfigError("; ".join(_hint(name, [*known, *ROS_NAMES]) for name in unknown))


def check_inherited(nodes: Iterable[tuple[Sequence[Parameter], Iterable[str]]]) -> None:
    """Refuse names in wildcard entries (`/**`) that no node declares.

    Args:
        nodes: table of each node, and the names that wildcard entries set for it.

    Raises:
        ConfigError: lists the names, each with the nearest ones that exist.
    """
    tables: list[Parameter] = []
    given: dict[str, None] = {}
    for table, names in nodes:
        tables += table
        given |= dict.fromkeys(names)
    try:
        check_names(tables, given)
    except ConfigError as error:
        raise ConfigError(f"/**: {error}") from error


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 2)
    return f"no parameter {name!r}" + (f": did you mean {' or '.join(close)}?" if close else "")


TRANSFORM_WAIT = Parameter(
    "transform_wait_ms",
    200.0,
    "Maximum wait of a message for the transform at its stamp, ms.",
    (0.0, 1e4),
    live=True,
)
"""Of every component that looks up transforms."""
RELIABILITY = Parameter(
    "reliability",
    "best_effort",
    "Reliability requested from publishers; adapts to what they offer.",
    choices=("best_effort", "reliable"),
)
"""Of every component that subscribes to sensors."""
MAX_IMAGE_MB = Parameter(
    "max_image_mb", 64.0, "Maximum size of an image, MB; larger ones are refused.", (0.1, 1024.0)
)
SIGNIFICANT_BITS = Parameter(
    "significant_bits", 16, "Used bits of 16-bit pixels, from the lowest: 12 for a 12-bit camera.", (8, 16)
)
"""Of every component that reads images of cameras, as `MAX_IMAGE_MB`."""


def resolve(table: Sequence[Parameter], given: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of a node without ROS: the given ones, and defaults for the others.

    Raises:
        ConfigError: a value has another type, or is not allowed.
    """
    values = {}
    for parameter in table:
        value = given.get(parameter.name, parameter.default)
        parameter.check_type(value)
        values[parameter.name] = parameter.accept(value)
    return values
