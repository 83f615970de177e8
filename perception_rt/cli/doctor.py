"""Check this machine and a running graph; print each fault and its remedy in one line.

Checks the Python packages, the device, the transport (shared-memory profile, free space, segments of killed
nodes) and, for the given topics, publishers, QoS and message rate.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from perception_rt.node.shared_memory import SEGMENT_BYTES, clean_shared_memory, shortage
from perception_rt.node.transport import PROFILE, PROFILE_VARIABLES, check_rmw
from perception_rt.types import ConfigError

EXAMPLES = """\
  perception-rt doctor
  perception-rt doctor /camera/image_raw /lidar/points"""

OK, WARN, FAIL = "ok", "warn", "FAIL"
LONGEST_S = 3600.0
TOPIC = re.compile(r"(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)
"""A topic name that ROS accepts (https://design.ros2.org/articles/topic_and_service_names.html)."""
SHM = Path("/dev/shm")

Finding = tuple[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `doctor`."""
    parser.add_argument("topics", nargs="*", help="topics to check")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to listen (3)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print every finding.

    Returns:
        1 if one is a failure, else 0.

    Raises:
        ConfigError: `--seconds` is not a positive time, or a topic has no valid name.
    """
    for topic in args.topics:
        if not TOPIC.fullmatch(topic):
            raise ConfigError(f"topic {topic!r}: not a name that ROS accepts")
    if not 0 < args.seconds <= LONGEST_S:
        raise ConfigError(f"--seconds={args.seconds}: must be above 0 and at most {LONGEST_S:g}")
    link = list(transport())
    findings = [
        *packages(ros=not any(level == FAIL and "RMW" in text for level, text in link)),
        *link,
        *device(),
    ]
    if args.topics and not any(level == FAIL for level, _ in findings):
        from perception_rt.node.probe import probe_topics  # rclpy can be imported here

        findings += probe_topics(args.topics, args.seconds)
    if args.json:
        print(json.dumps([{"level": level, "text": text} for level, text in findings], indent=2))
    else:
        for level, text in findings:
            print(f"{level:>5}  {text}")
    return int(any(level == FAIL for level, _ in findings))


def packages(ros: bool) -> Iterator[Finding]:
    """Check the packages of the nodes; heavy ones are looked up, not imported.

    Args:
        ros: also import those of ROS; with an RMW that is not installed, that would end the process.
    """
    for name in (*(("rclpy", "vision_msgs.msg", "diagnostic_msgs.msg") if ros else ()), "rosbags"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield FAIL, f"{name}: {error}; run `make setup`, or source your ROS installation"
        else:
            yield OK, name
    for name in ("torch", "torchvision", "cv2"):
        if importlib.util.find_spec(name) is None:
            yield FAIL, f"{name}: not installed; run `make setup`"
        else:
            yield OK, name


def device() -> Iterator[Finding]:
    """Report the device of `device: auto` from the CUDA driver, without importing torch."""
    name = cuda_device()
    if name is None:
        yield OK, f"device auto is cpu: {len(os.sched_getaffinity(0))} cores; no CUDA device is visible"
    elif importlib.util.find_spec("torch") and (version := metadata.version("torch")).endswith("+cpu"):
        yield WARN, f"device auto is cpu: torch {version} is built without CUDA, but there is a {name}"
    else:
        yield OK, f"device auto is cuda: {name}"


def cuda_device() -> str | None:
    """Return the name of the first CUDA device, or None if the driver finds none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, handle, name = ctypes.c_int(0), ctypes.c_int(0), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return None
    if driver.cuDeviceGet(ctypes.byref(handle), 0) or driver.cuDeviceGetName(name, len(name), handle):
        return None
    return name.value.decode(errors="replace")


def transport() -> Iterator[Finding]:
    """Check the space for images in shared memory."""
    rmw = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    try:
        check_rmw()
    except ConfigError as error:
        yield FAIL, str(error)
        return
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
        free = shutil.disk_usage(SHM).free >> 20
        little = shortage(SHM)
        yield (
            WARN if little else OK,
            little or f"{SHM}: {free} MB free; a process of nodes takes {SEGMENT_BYTES >> 20} MB",
        )
        removed = clean_shared_memory(SHM)
        yield OK, f"{SHM}: {len(removed)} Fast DDS segments of killed nodes removed"
