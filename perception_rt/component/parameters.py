"""Parameters declared once: name, default, bounds, description."""

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
        default: the default; its type is the parameter's type.
        bounds: least and greatest value of a number.
        choices: the allowed texts, if only some are.
        live: may be set while the node is configured.
    """

    name: str
    default: Value
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def check(self, value: Any) -> None:
        """Refuse what `declare` and the ranges of ROS cannot.

        Raises:
            ConfigError: names the parameter, the value and what is allowed.
        """
        if self.bounds and not self.bounds[0] <= value <= self.bounds[1]:
            raise ConfigError(f"{self.name}={value}: must be within {self.bounds[0]} and {self.bounds[1]}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name}={value!r}: must be one of {', '.join(self.choices)}")

    def accept(self, value: Any) -> Any:
        """Return a checked value as nodes use it: a frame without the leading slash that tf2 refuses.

        Raises:
            ConfigError: as `check`.
        """
        self.check(value)
        return value.removeprefix("/") if self.name.endswith(("_frame", "frame_id")) else value

    def check_type(self, value: object) -> None:
        """Refuse a value of another type than the default's, as ROS does: it tells 1 and 1.0 apart.

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
        "Cores for the threads of this node and of its model, like 2-3; empty: all.",
    ),
    Parameter(
        "thread_priority",
        0,
        "SCHED_FIFO priority of the model's threads; that of messages and diagnostics is one lower. 0: none.",
        (0, 99),
    ),
    Parameter("lock_memory", False, "Keep the memory of the process in RAM (mlockall)."),
)
"""Of every node; a replay ignores them. Named as in ros2_control's controller_manager."""


def check_names(table: Sequence[Parameter], names: Iterable[str]) -> None:
    """Refuse names that a node does not declare; those of every ROS node pass.

    Raises:
        ConfigError: lists the names, each with the nearest ones that exist.
    """
    known = list(dict.fromkeys(parameter.name for parameter in (*NODE_PARAMETERS, *table)))
    unknown = [name for name in map(str, names) if name not in known and not name.startswith(ROS_NAMES)]
    if unknown:
        raise ConfigError("; ".join(_hint(name, [*known, *ROS_NAMES]) for name in unknown))


def check_inherited(nodes: Iterable[tuple[Sequence[Parameter], Iterable[str]]]) -> None:
    """Refuse names of wildcard entries (`/**`) that none of the nodes declares.

    Args:
        nodes: of each, its table and the names that wildcard entries give it.

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
    "How long a message waits for the transform at its stamp, ms.",
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


def resolve(table: Sequence[Parameter], given: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of a node without ROS: its defaults, and what is given for names that it declares.

    Raises:
        ConfigError: a value has another type, or is outside of what its parameter allows.
    """
    values = {}
    for parameter in table:
        value = given.get(parameter.name, parameter.default)
        parameter.check_type(value)
        values[parameter.name] = parameter.accept(value)
    return values
