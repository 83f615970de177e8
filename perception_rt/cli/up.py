"""Run the nodes of a parameter file in one process, until Ctrl-C or the end of the recording.

Runs the same nodes as `ros2 launch perception_rt perception.launch.py params_file:=FILE`, on machines that
have no ros2 launch. The keys of the file are the nodes to run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception_rt.cli.overrides import parse_parameters
from perception_rt.component.graph import read_graph

EXAMPLES = """\
  perception-rt up config/demo.yaml
  perception-rt up config/demo.yaml -p rate_hz:=15.0
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
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], help="further ROS arguments, e.g. remappings"
    )


def run(args: argparse.Namespace) -> int:
    """Bring the graph up and wait for its end.

    Raises:
        ConfigError: the file or an override cannot be used.
    """
    graph = read_graph(args.params_file)
    parse_parameters(args.param)  # rcl would end in a traceback
    from perception_rt.node.run import node_factory  # rclpy only when the file is sound
    from perception_rt.node.run import run as run_nodes

    ros_args = ["--ros-args", "--params-file", str(args.params_file)]
    for override in args.param:
        ros_args += ["-p", override]
    return run_nodes([node_factory(spec) for spec in graph], [*ros_args, *args.ros_args])
