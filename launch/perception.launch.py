"""Start the nodes that a parameter file names, with their parameters.

ros2 launch perception_rt perception.launch.py params_file:=config/kitti.yaml
"""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from perception_rt.component.graph import GraphNode, read_graph
from perception_rt.node.transport import transport_environment

CONFIG = Path(get_package_share_directory("perception_rt"), "config")


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(CONFIG / "camera.yaml"),
                description="ROS parameter file; the nodes that it names are started",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="",
                choices=["", "true", "false"],
                description="take time from /clock; empty: as the parameter file says",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="put before all nodes' namespaces"
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="debug, info, warn, error or fatal"
            ),
            *(SetEnvironmentVariable(name, value) for name, value in transport_environment().items()),
            OpaqueFunction(function=make_nodes),
        ]
    )


def make_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = {
        name: LaunchConfiguration(name).perform(context)
        for name in ("params_file", "use_sim_time", "namespace", "log_level")
    }
    pushed = context.launch_configurations.get("ros_namespace", "")  # by PushRosNamespace
    return [make_node(node, pushed=pushed, **arguments) for node in read_graph(arguments["params_file"])]


def make_node(
    node: GraphNode, params_file: str, use_sim_time: str, namespace: str, log_level: str, pushed: str = ""
) -> Node:
    own = [level for level in (*namespace.split("/"), *node.namespace.split("/")) if level]
    whole = [*(level for level in pushed.split("/") if level), *own]
    parameters: list = [params_file]
    values = {**node.inherited, **node.parameters}  # wildcards, too, match other names below a namespace
    if (namespace or pushed) and values:
        parameters.append(write_parameters("/" + "/".join([*whole, node.name]), values))
    if use_sim_time:
        parameters.append({"use_sim_time": use_sim_time == "true"})
    return Node(
        package="perception_rt",
        executable=node.name,
        name=node.name,
        namespace="/".join(own),  # relative: an absolute one would leave PushRosNamespace out
        parameters=parameters,
        ros_arguments=["--log-level", log_level],
        output="screen",
    )


def write_parameters(node_path: str, parameters: dict) -> str:
    """Write a node's entry again under its full name, as rcl matches whole names."""
    with NamedTemporaryFile("w", prefix="perception_rt_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump({node_path: {"ros__parameters": parameters}}, file)
    return file.name
