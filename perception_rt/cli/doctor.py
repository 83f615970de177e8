"""Look at this machine and at a running graph: what is wrong, and how to mend it, one line each.

Checks the Python side, the device, the transport (shared-memory profile, its space, what killed nodes left)
and, for the topics given, publishers, QoS and the rate that really arrives.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from perception_rt.node.shared_memory import clean_shared_memory
from perception_rt.node.transport import PROFILE, PROFILE_VARIABLES
from perception_rt.realtime.cores import available_cores

EXAMPLES = """\
  perception-rt doctor
  perception-rt doctor /camera/image_raw /lidar/points"""

OK, WARN, FAIL = "ok", "warn", "FAIL"
SEGMENT_BYTES = 64 << 20
SHM = Path("/dev/shm")

Finding = tuple[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `doctor`."""
    parser.add_argument("topics", nargs="*", help="topics to listen to")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to listen (3)")


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 where one is a failure."""
    findings = [*packages(), *device(), *transport()]
    if args.topics and not any(level == FAIL for level, _ in findings):
        from perception_rt.node.probe import probe_topics  # rclpy: known to be there now

        findings += probe_topics(args.topics, args.seconds)
    for level, text in findings:
        print(f"{level:>5}  {text}")
    return int(any(level == FAIL for level, _ in findings))


def packages() -> Iterator[Finding]:
    """Everything that a node imports."""
    for name in ("rclpy", "vision_msgs.msg", "diagnostic_msgs.msg", "torch", "torchvision", "cv2", "rosbags"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield FAIL, f"{name}: {error}; run `make setup`, or source your ROS installation"
        else:
            yield OK, name


def device() -> Iterator[Finding]:
    """The device that `device: auto` would take."""
    import torch

    if torch.cuda.is_available():
        yield OK, f"device auto is cuda: {torch.cuda.get_device_name()}"
    else:
        yield OK, f"device auto is cpu: {available_cores()} cores; no CUDA device is visible"


def transport() -> Iterator[Finding]:
    """Room for images in shared memory, on this side."""
    rmw = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if rmw != "rmw_fastrtps_cpp":
        yield OK, f"RMW_IMPLEMENTATION={rmw}: the Fast DDS profile does not apply"
        return
    profiles = [os.environ[name] for name in PROFILE_VARIABLES if os.environ.get(name)]
    if not profiles:
        yield (
            WARN,
            "no Fast DDS profile in this shell: large images from other nodes started here go out as UDP "
            "fragments and are lost or late; before starting camera drivers: "
            f"export FASTDDS_DEFAULT_PROFILES_FILE={PROFILE}",
        )
    for profile in profiles:
        there = Path(profile).is_file()
        yield (
            (OK, f"Fast DDS profile {profile}")
            if there
            else (FAIL, f"Fast DDS profile {profile}: no such file")
        )
    if SHM.is_dir():
        free = shutil.disk_usage(SHM).free
        level = OK if free > 8 * SEGMENT_BYTES else WARN
        yield level, f"{SHM}: {free >> 20} MB free; every node takes {SEGMENT_BYTES >> 20} MB"
        removed = clean_shared_memory(SHM)
        yield OK, f"{SHM}: {len(removed)} Fast DDS segments of killed nodes removed"
