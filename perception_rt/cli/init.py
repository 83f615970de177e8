"""Write a parameter file for a recording or a running graph.

Finds cameras, lidars, CameraInfo, odometry, IMU, fixes and frames, with rates, QoS and mounting by /tf. Open
questions are written as comments. The file works with `replay --config` and `up`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from perception_rt.types import ConfigError

EXAMPLES = """\
  perception-rt init drive1 --out my_car.yaml
  perception-rt init live --seconds 10 --out my_car.yaml"""

LONGEST_S = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `init`."""
    parser.add_argument("source", metavar="BAG|live", help="a recording, or `live` for the running graph")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: standard output)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to listen to a graph (5)")


def run(args: argparse.Namespace) -> int:
    """Write the file.

    Raises:
        ConfigError: the file exists. BagError: the recording cannot be read.
    """
    if not 0 < args.seconds <= LONGEST_S:
        raise ConfigError(f"--seconds={args.seconds}: must be above 0 and at most {LONGEST_S:g}")
    if args.out is not None and args.out.exists() and not args.force:
        raise ConfigError(f"--out={args.out}: exists; --force replaces it")
    text = _of_graph(args.seconds) if args.source == "live" else _of_bag(Path(args.source))
    if args.out is None:
        print(text, end="")
    else:
        args.out.write_text(text)
        print(f"{args.out}: {sum(line.lstrip().startswith('#') for line in text.splitlines())} comments")
    return 0


def _of_bag(path: Path) -> str:
    from perception_rt.replay.bag import Bag
    from perception_rt.replay.parameter_file import parameter_file
    from perception_rt.replay.survey import survey_bag
    from perception_rt.replay.time_base import AUTO, choose_time_base
    from perception_rt.replay.warnings import clock_warnings

    with Bag(path, salvage=True) as bag:
        survey = survey_bag(bag)
        survey.faults += dict.fromkeys(damage.reason for damage in bag.damage)
        survey.faults += clock_warnings(choose_time_base(bag, list(bag.topics), AUTO).summary())
    return parameter_file(survey, str(path), True, {"bag": os.path.abspath(path)})


def _of_graph(seconds: float) -> str:
    from perception_rt.node.survey import survey_graph
    from perception_rt.replay.parameter_file import parameter_file

    survey, simulated = survey_graph(seconds)
    return parameter_file(survey, "the running graph", simulated, {})
