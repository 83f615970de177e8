"""Parameters declared once: name, default, bounds, description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter as RclParameter

from perception_rt.types import ConfigError

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

    def check(self, value: Value) -> None:
        """Refuse what `declare` and the ranges of ROS cannot.

        Raises:
            ConfigError: names the parameter, the value and what is allowed.
        """
        if self.bounds and not self.bounds[0] <= value <= self.bounds[1]:
            raise ConfigError(f"{self.name}={value}: must be within {self.bounds[0]} and {self.bounds[1]}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name}={value!r}: must be one of {', '.join(self.choices)}")

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(description=self.description)
        if self.choices:
            descriptor.additional_constraints = "one of " + ", ".join(self.choices)
        if self.bounds and isinstance(self.default, float):
            low, high = map(float, self.bounds)
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.bounds:
            low, high = map(int, self.bounds)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


def declare(node: Node, table: Sequence[Parameter]) -> None:
    """Declare every parameter of `table` on `node`.

    Raises:
        ConfigError: a value given at start has another type or lies out of range.
    """
    for parameter in table:
        try:
            node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
        except ParameterException as error:
            raise ConfigError(str(error)) from error


def read(node: Node, table: Sequence[Parameter]) -> dict[str, Any]:
    """The present values, checked.

    Raises:
        ConfigError: a value is outside of what its parameter allows.
    """
    values = {parameter.name: node.get_parameter(parameter.name).value for parameter in table}
    for parameter in table:
        parameter.check(values[parameter.name])
    return values


def check_set(
    table: Sequence[Parameter], changes: Sequence[RclParameter], configured: bool
) -> SetParametersResult:
    """Whether `changes` may be applied now: nothing is applied here."""
    known = {parameter.name: parameter for parameter in table}
    for change in changes:
        parameter = known.get(change.name)
        if parameter is None:
            continue
        if configured and not parameter.live:
            return SetParametersResult(
                successful=False,
                reason=f"{change.name} cannot be set while the node is configured: clean it up first",
            )
        try:
            parameter.check(change.value)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
