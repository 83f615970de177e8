"""Run the nodes of a parameter file until Ctrl-C or the end of the recording; restart nodes that die.

Runs the same nodes as `ros2 launch perception_rt perception.launch.py params_file:=FILE`, on machines that
have no ros2 launch. The keys of the file are the nodes. They run in one process, or with --separate in one
process each. A process that crashes, is killed, whose executor breaks (exit code 70), or that messages no
longer reach (exit code 75) is restarted after 0.5 s; the delay doubles each time, up to 30 s.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from perception_rt.cli.overrides import parse_parameters
from perception_rt.cli.respawn import RESTARTS, supervise
from perception_rt.component.graph import GraphNode, read_graph, sends_images, with_sensor_health
from perception_rt.node.transport import check_rmw
from perception_rt.types import ConfigError
from perception_rt.types.executables import SOURCES

EXAMPLES = """\
  perception-rt up config/demo.yaml
  perception-rt up config/demo.yaml -p rate_hz:=15.0
  perception-rt up my_car.yaml --separate
  perception-rt up my_car.yaml --only /front/camera_detector --restarts 0
  perception-rt up my_car.yaml --sensor-health
  perception-rt up my_car.yaml --live foxglove
  perception-rt up my_car.yaml --ros-args -r image_raw:=/front/image_raw"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `up`."""
    parser.add_argument("params_file", type=Path, help="ROS parameter file; its keys are the nodes to run")
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="[NODE:]NAME:=VALUE",
        help="override a parameter",
    )
    parser.add_argument("--separate", action="store_true", help="run each node in its own process")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NODE",
        help="run only this node of the file: /name",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=RESTARTS,
        metavar="N",
        help=f"restarts in a row of a process that dies (default {RESTARTS})",
    )
    parser.add_argument(
        "--sensor-health", action="store_true", help="add a sensor_health node for the detectors' sensors"
    )
    parser.add_argument(
        "--live",
        metavar="VIEWER",
        help="foxglove[:[HOST:]PORT] or rerun[:FILE.rrd|HOST:PORT]",
    )
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], help="further ROS arguments, like remappings"
    )


def run(args: argparse.Namespace) -> int:
    """Start the graph and wait for its end.

    Raises:
        ConfigError: the file or an override is invalid.
    """
    graph = read_graph(args.params_file)
    if args.sensor_health:
        graph = with_sensor_health(graph)
    parse_parameters(args.param)  # rcl would raise a traceback
    if args.restarts < 0:
        raise ConfigError(f"--restarts={args.restarts}: must be >= 0")
    if unknown := set(args.only) - {node.path for node in graph}:
        raise ConfigError(f"--only={min(unknown)}: not in {args.params_file}")
    check_rmw()
    graph = [node for node in graph if not args.only or node.path in args.only]
    ros_args = ["--ros-args", "--params-file", str(args.params_file)]
    added = [node for node in graph if args.sensor_health and node.name == "sensor_health"]
    values = [(node.name, *value) for node in added for value in node.parameters.items()]
    given = [f"{name}:{key}:={json.dumps(value)}" for name, key, value in values]
    for override in (*given, *args.param):
        ros_args += ["-p", override]
    if args.restarts or args.separate:
        groups = {node.path: [node] for node in graph} if args.separate else {"the graph": graph}
        commands = {name: _command(args, nodes) for name, nodes in groups.items()}
        # In one process, the nodes end together.
        with _live(args.live):
            return supervise(
                commands, args.restarts, lambda name: not args.separate or name.rpartition("/")[2] in SOURCES
            )
    from perception_rt.node.run import check_names_of, node_factory  # imports rclpy: only for a valid file
    from perception_rt.node.run import run as run_nodes

    whole = read_graph(args.params_file)
    whole = with_sensor_health(whole) if args.sensor_health else whole
    check_names_of(whole, graph, parse_parameters(args.param))
    words = [*ros_args, *args.ros_args]
    images = sends_images(graph) or any("image_topic" in word for word in words)
    with _live(args.live):
        return run_nodes([node_factory(spec) for spec in graph], words, images)


def _live(viewer: str | None) -> AbstractContextManager[None]:
    if viewer is None:
        return nullcontext()
    from perception_rt.node.live_view import live_view

    return live_view(viewer)


def _command(args: argparse.Namespace, nodes: Sequence[GraphNode]) -> list[str]:
    """Return the command that runs these nodes without supervision."""
    command = [sys.executable, "-m", "perception_rt.cli.main", "up", str(args.params_file), "--restarts", "0"]
    for node in nodes:
        command += ["--only", node.path]
    command += ["--sensor-health"] * args.sensor_health
    for override in args.param:
        command += ["-p", override]
    return [*command, *(["--ros-args", *args.ros_args] if args.ros_args else [])]
