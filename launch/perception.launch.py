"""Start the nodes that a parameter file names, with their parameters; start them again when they die.

ros2 launch perception_rt perception.launch.py params_file:=config/kitti.yaml
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from perception_rt.cli.respawn import RESTARTS, Backoff
from perception_rt.component.graph import GraphNode, read_graph, with_sensor_health
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
                "sensor_health",
                default_value="false",
                choices=["true", "false"],
                description="watch the detectors' sensors with a sensor_health node",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="put before all nodes' namespaces"
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="debug, info, warn, error or fatal"
            ),
            DeclareLaunchArgument(
                "restarts",
                default_value=str(RESTARTS),
                description="restarts in a row of a node that dies, ever more slowly; 0: none",
            ),
            DeclareLaunchArgument(
                "enclaves",
                default_value="",
                description="put before a node's full name, names its SROS 2 enclave, as /car; empty: none",
            ),
            *(SetEnvironmentVariable(name, value) for name, value in transport_environment().items()),
            OpaqueFunction(function=make_nodes),
        ]
    )


def make_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = {
        name: LaunchConfiguration(name).perform(context)
        for name in ("params_file", "use_sim_time", "namespace", "log_level", "enclaves")
    }
    pushed = context.launch_configurations.get("ros_namespace", "")  # by PushRosNamespace
    nodes = read_graph(arguments["params_file"])
    if context.launch_configurations.get("sensor_health") == "true":
        nodes = with_sensor_health(nodes)
    most = int(LaunchConfiguration("restarts").perform(context))
    return [start(partial(make_node, node, pushed=pushed, **arguments), Backoff(most)) for node in nodes]


def start(make: Callable[..., Node], backoff: Backoff) -> Node:
    """A node that is made and started again when its process dies; launch's `respawn` knows no back-off."""
    began_s = time.monotonic()

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        delay_s = None if context.is_shutdown else backoff.after(event.returncode, time.monotonic() - began_s)
        if delay_s is None:
            return []
        count = f"restart {backoff.restarts} of {backoff.most}"
        text = f"{event.process_name} ended with exit code {event.returncode}: {count} in {delay_s:g} s"
        again = OpaqueFunction(function=lambda _: [start(make, backoff)])
        return [LogInfo(msg=text), TimerAction(period=delay_s, actions=[again])]

    return make(on_exit=on_exit)


def make_node(
    node: GraphNode,
    params_file: str,
    use_sim_time: str,
    namespace: str,
    log_level: str,
    enclaves: str,
    on_exit: Callable,
    pushed: str = "",
) -> Node:
    own = [level for level in (*namespace.split("/"), *node.namespace.split("/")) if level]
    whole = [*(level for level in pushed.split("/") if level), *own]
    parameters: list = [params_file]
    values = {**node.inherited, **node.parameters}  # wildcards, too, match other names below a namespace
    # Those of an added sensor_health are in no file.
    if values and (namespace or pushed or node.name == "sensor_health"):
        parameters.append(write_parameters("/" + "/".join([*whole, node.name]), values))
    if use_sim_time:
        parameters.append({"use_sim_time": use_sim_time == "true"})
    enclave = "/".join(["", *enclaves.strip("/").split("/"), *whole, node.name])
    return Node(
        package="perception_rt",
        executable=node.name,
        name=node.name,
        namespace="/".join(own),  # relative: an absolute one would leave PushRosNamespace out
        parameters=parameters,
        ros_arguments=["--log-level", log_level, *(["--enclave", enclave] if enclaves else [])],
        on_exit=on_exit,
        output="screen",
    )


def write_parameters(node_path: str, parameters: dict) -> str:
    """Write a node's entry again under its full name, as rcl matches whole names."""
    with NamedTemporaryFile("w", prefix="perception_rt_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump({node_path: {"ros__parameters": parameters}}, file)
    atexit.register(Path(file.name).unlink, missing_ok=True)  # a node that is started again reads it, too
    return file.name
