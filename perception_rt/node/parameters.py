"""Parameters of a component as those of a ROS node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter as RclParameter

from perception_rt.component.parameters import Parameter, check_names
from perception_rt.types import ConfigError


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` shows."""
    shown = ParameterDescriptor(description=parameter.description)
    if parameter.choices:
        shown.additional_constraints = "one of " + ", ".join(parameter.choices)
    if parameter.bounds and isinstance(parameter.default, float):
        low, high = map(float, parameter.bounds)
        shown.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif parameter.bounds:
        low, high = map(int, parameter.bounds)
        shown.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return shown


def declare(node: Node, table: Sequence[Parameter]) -> None:
    """Declare every parameter of `table` on `node`; unknown names that were given are logged.

    They are not refused here: an entry for all nodes (`/**`) may be for another one.

    Raises:
        ConfigError: a value given at start has another type or lies out of range.
    """
    for parameter in table:
        try:
            node.declare_parameter(parameter.name, parameter.default, descriptor(parameter))
        except ParameterException as error:
            raise ConfigError(str(error)) from error
    try:
        check_names(table, node._parameter_overrides)
    except ConfigError as error:
        node.get_logger().warning(str(error))


def read(node: Node, table: Sequence[Parameter]) -> dict[str, Any]:
    """The present values, checked.

    Raises:
        ConfigError: a value is outside of what its parameter allows.
    """
    return {parameter.name: parameter.accept(node.get_parameter(parameter.name).value) for parameter in table}


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
