"""Check the arguments of a demo quickly, without torch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_rt.types.errors import BagError, ConfigError

if TYPE_CHECKING:
    from perception_rt.replay.bag import Bag

SHARE = Path(sys.prefix, "share", "perception_rt", "config")


def check(args: argparse.Namespace) -> None:
    """Refuse invalid arguments before anything is removed or computed.

    Raises:
        PerceptionError: one line with the reason.
    """
    _check_folder(args.out)
    if args.realtime and args.video is None:
        raise ConfigError("--realtime: is for --video; a bag and the simulator always play in real time")
    if not 0 < args.seconds <= 3600:
        raise ConfigError(f"--seconds={args.seconds}: must be above 0 and at most 3600")
    if args.topic and args.bag is None:
        raise ConfigError("--topic: is for --bag")
    if args.config and (args.bag or args.video is not None):
        raise ConfigError("--config: is for the simulator; a bag or a video makes a graph of its own")
    _check_source(args)
    for option, bundle in (("--bundle", args.bundle), ("--lidar-bundle", args.lidar_bundle)):
        path = Path(bundle or "")  # a bare name may be a shipped or downloaded bundle
        if bundle is not None and (not bundle or path.suffix or len(path.parts) > 1) and not path.is_file():
            raise ConfigError(f"{option}={bundle}: no such file")


def _check_source(args: argparse.Namespace) -> None:
    """Refuse sources that cannot be played."""
    if args.video is not None:
        from perception_rt.codec.video import check_source, is_live, read_video

        check_source(args.video)
        if is_live(args.video):
            if args.realtime:
                raise ConfigError("--realtime: a camera is always played as its pictures come")
            next(read_video(args.video))  # the device may exist without giving pictures
    elif args.bag is None:
        simulated_graph(args.config)
    elif not args.bag.exists():
        raise ConfigError(f"--bag={args.bag}: no such file or folder")
    else:
        from perception_rt.replay.bag import Bag  # imports OpenCV: only for valid arguments

        with Bag(args.bag) as bag:
            chosen = bag_topics(bag, args)
            cameras = [topic for topic in chosen if bag.topics[topic][0] in _sensor_types(0)]
        if cameras and not args.bundle:
            raise ConfigError(
                "--bundle: name the detector for this bag's cameras (`perception-rt bundle export` makes one)"
            )


def _check_folder(folder: Path) -> None:
    """Refuse a result folder that cannot be created or written."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"--out={folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out={folder}: {there} cannot be written")


def simulated_graph(config: Path | None) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Return the parameter file of the simulated graph, and its nodes' parameters by name.

    Raises:
        ConfigError: there is none, or a node that the demo needs is missing.
    """
    from perception_rt.component.graph import read_graph

    names = (folder / "demo.yaml" for folder in (Path("config"), SHARE))
    config = config or next((file for file in names if file.is_file()), None)
    if config is None:
        raise ConfigError("--config: no config/demo.yaml here, nor an installed one: name a parameter file")
    nodes = {node.name: dict(node.parameters) for node in read_graph(config)}
    if "drive_simulator" not in nodes or not nodes.keys() & _detectors():
        raise ConfigError(f"--config={config}: must name drive_simulator and a detector")
    seconds = nodes["drive_simulator"].get("duration_s", 0.0)
    if not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise ConfigError(f"--config={config}: drive_simulator: duration_s={seconds!r}: must be above 0 here")
    return config, nodes


def bag_topics(bag: Bag, args: argparse.Namespace) -> list[str]:
    """Return the camera and lidar topics of `--bag`, or the selected ones.

    Raises:
        BagError: there is no such topic, or one has no messages.
    """
    kinds = _sensor_types(0) + _sensor_types(1)
    chosen = args.topic or bag.of_type(*kinds)
    missing = [topic for topic in chosen if topic not in bag.topics]
    if missing or not chosen:
        raise BagError(f"{args.bag}: no camera or lidar topic {missing or ''}; it has {sorted(bag.topics)}")
    for topic in chosen:
        kind, count = bag.topics[topic]
        if kind not in kinds:
            raise BagError(f"{args.bag}: {topic} is of type {kind}: neither camera nor lidar")
        if not count:
            raise BagError(f"{args.bag}: no messages on {topic}")
    return chosen


def _detectors() -> set[str]:
    from perception_rt.model.task import DETECT2D, DETECT3D

    return {DETECT2D.node, DETECT3D.node}


def _sensor_types(number: int) -> tuple[str, ...]:
    """Return the message types of cameras (0) or lidars (1)."""
    from perception_rt.model.task import DETECT2D, DETECT3D

    return tuple((DETECT2D, DETECT3D)[number].sensor_types)
