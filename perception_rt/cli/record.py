"""Record topics of the running graph to a rosbag2 (mcap), until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import datetime
from pathlib import Path

from perception_rt.types import ConfigError

EXAMPLES = """\
  perception-rt record --all --output drive1
  perception-rt record /camera/image_raw /lidar/points /tf /tf_static --seconds 30"""
LONGEST_S = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `record`."""
    parser.add_argument("topics", nargs="*", help="topics to record")
    parser.add_argument("-a", "--all", action="store_true", help="record every topic")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to create (default: rosbag2_<date>)"
    )
    parser.add_argument("--seconds", type=float, default=LONGEST_S, help="stop after this time")
    parser.add_argument("--count", type=int, default=0, help="stop after this number of messages")
    parser.add_argument("--json", action="store_true", help="print the message counts as JSON")


def run(args: argparse.Namespace) -> int:
    """Record; return 1 if no message arrived.

    Raises:
        ConfigError: no topics were given, or one is not in the graph. BagError: the folder exists.
    """
    if bool(args.topics) == args.all:
        raise ConfigError("name topics, or --all")
    if not 0 < args.seconds <= LONGEST_S or args.count < 0:
        raise ConfigError(f"--seconds={args.seconds}, --count={args.count}: must be positive")
    folder = args.output or Path(f"rosbag2_{datetime.now():%Y_%m_%d-%H_%M_%S}")
    from perception_rt.node.graph_client import graph_client, record, recordable

    with graph_client() as client:
        topics = client.topics() if args.all else dict(client.topic(name) for name in args.topics)
        chosen = recordable(topics)
        for name in sorted(set(topics) - set(chosen)):
            print(f"not recorded: {name}: {topics[name]} is not known here", file=sys.stderr)
        if not chosen:
            raise ConfigError("there is no topic to record")
        end = time.monotonic() + args.seconds
        counts = record(
            client, chosen, str(folder), lambda count: time.monotonic() >= end or 0 < args.count <= count
        )
    if args.json:
        print(json.dumps({"folder": str(folder), "messages": counts}))
    else:
        for name, count in counts.items():
            print(f"{name}: {count}")
        print(folder)
    return 0 if any(counts.values()) else 1
