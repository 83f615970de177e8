"""Declare a component's parameters on a ROS node."""

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
    """Return the descriptor that `ros2 param describe` shows."""
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
    """Declare every parameter of `table` on `node`; log unknown names among the given ones.

    Unknown names are not an error: an entry for all nodes (`/**`) may be for another node.

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
    """Return the current values, checked.

    Raises:
        ConfigError: a value is not allowed.
    """
    return {parameter.name: parameter.accept(node.get_parameter(parameter.name).value) for parameter in table}


def check_set(
    table: Sequence[Parameter], changes: Sequence[RclParameter], configured: bool, configuring: bool
) -> SetParametersResult:
    """Return whether `changes` may be applied now, without applying them."""
    known = {parameter.name: parameter for parameter in table}
    for change in changes:
        parameter = known.get(change.name)
        if parameter is None:
            continue
        if configuring:
            return SetParametersResult(
                successful=False,
                reason=f"{change.name} cannot be set while the node is being configured: set it after that",
            )
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
