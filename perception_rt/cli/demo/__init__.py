"""Run a graph through real topics and write a summary, pictures and films.

Without --bag: ten seconds of the simulated drive with the shipped detectors, scored against ground truth.
With --bag: any rosbag2 with camera or lidar topics, played in real time.
With --video: a video file, a folder of images, a webcam or a stream through the camera detector.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
  perception-rt demo
  perception-rt demo --bag drive/ --bundle detector.pt --out out/drive
  perception-rt demo --bag drive/ --bundle detector.pt --lidar-bundle lidar.pt
  perception-rt demo --bag drive/ --topic /lidar/points
  perception-rt demo --video street.mp4 --bundle fastestdet
  perception-rt demo --video /dev/video0 --bundle detector.pt --seconds 20"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `demo`."""
    parser.add_argument(
        "--config", type=Path, help="parameter file of the simulated graph (config/demo.yaml)"
    )
    played = parser.add_mutually_exclusive_group()
    played.add_argument("--bag", type=Path, help="a rosbag2 to play instead of the simulator")
    played.add_argument(
        "--video", help="a video file, a folder of images, a webcam (0, /dev/video0) or a stream (rtsp://)"
    )
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="play the video at its own speed (default: wait for the result of each frame)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration for a webcam or stream (default 10)"
    )
    parser.add_argument(
        "--bundle",
        help="camera detector; the name of a pretrained one (fastestdet) downloads it; required for a bag "
        "with cameras",
    )
    parser.add_argument("--lidar-bundle", help="lidar detector (default for a bag: bev_cluster)")
    parser.add_argument("--topic", action="append", help="camera or lidar topic of the bag (default: all)")
    parser.add_argument(
        "--rates",
        choices=("sustained", "fixed"),
        default="sustained",
        help="rates of the simulated sensors: sustained by this machine (at most those of --config), or "
        "fixed to --config",
    )
    parser.add_argument("--separate", action="store_true", help="run each node in its own process")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")


def run(args: argparse.Namespace) -> int:
    """Run the demo and return its exit status."""
    from perception_rt.cli.demo.check import check

    check(args)
    from perception_rt.cli.bundle_get import get_missing

    for option in ("bundle", "lidar_bundle"):
        if getattr(args, option):
            setattr(args, option, get_missing(getattr(args, option)))
    from perception_rt.cli.demo.session import run_demo  # imports torch: not for --help or invalid arguments

    return run_demo(args)
