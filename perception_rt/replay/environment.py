"""Describe the machine and the package versions that the figures depend on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from perception_rt import __version__
from perception_rt.realtime.cores import available_cores

VERSIONS = ("torch", "torchvision", "numpy", "opencv-python-headless", "rosbags")


def machine() -> dict[str, str | int | float]:
    """Return processor, memory and system versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "rclpy": _version("ros-rclpy", "rclpy"),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "absent"


def versions() -> dict[str, str]:
    """Return the versions of this package and of the packages that its results depend on."""
    return {"perception_rt": __version__, **{package: _version(package) for package in VERSIONS}}
