"""What the set-up needs of the machine, and how to say what is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SUPPORTED_PYTHON = ((3, 10), (3, 14))
SUPPORTED_DISTROS = ("jazzy", "kilted", "lyrical")
DISTRO_PACKAGES = (
    *(
        "rclpy",
        "std_msgs",
        "sensor_msgs",
        "geometry_msgs",
        "nav_msgs",
        "diagnostic_msgs",
        "visualization_msgs",
    ),
    *("std_srvs", "lifecycle_msgs", "rosgraph_msgs", "tf2_msgs", "vision_msgs"),
)

NEEDED_GB = {"cuda": 7.8, "cpu": 2.6}  # .venv when done, and the largest part of the downloads
UPDATE_GB = 1.5  # for a change of the requirements: the largest package, downloaded and unpacked


class SetupError(Exception):
    """What stops the set-up, as one line for the user."""


def apt(*packages: str) -> str:
    """Return the command that installs Debian or Ubuntu packages."""
    return ("" if os.geteuid() == 0 else "sudo ") + "apt install " + " ".join(packages)


def sourced_distro(env: dict) -> str | None:
    """Return the name of the sourced ROS 2 distribution, None where none is sourced."""
    distro = env.get("ROS_DISTRO")
    if not distro or not env.get("AMENT_PREFIX_PATH"):
        return None
    if distro not in SUPPORTED_DISTROS:
        raise SetupError(
            f"ROS_DISTRO={distro} is sourced, but only {', '.join(SUPPORTED_DISTROS)} are supported; "
            "in a shell without it, ROS 2 comes as wheels"
        )
    return distro


def torch_backend(env: dict, installed: str) -> str:
    """Return which build of torch to install: `cuda` (it runs on a CPU too) or `cpu`.

    TORCH=auto takes `cuda` where an NVIDIA driver is loaded; without TORCH the installed one stays.
    """
    wanted = env.get("TORCH") or installed
    if wanted not in ("cpu", "cuda", "auto"):
        raise SetupError(f"TORCH={wanted}: must be cpu, cuda or auto")
    if wanted == "auto":
        return "cuda" if os.path.exists("/proc/driver/nvidia") or os.path.exists("/dev/nvidiactl") else "cpu"
    return wanted


def cmake_is_new_enough() -> bool:
    """Return whether there is a cmake of at least 3.20."""
    if not shutil.which("cmake"):
        return False
    text = subprocess.run(["cmake", "--version"], stdout=subprocess.PIPE, text=True).stdout
    version = re.search(r"version (\d+)\.(\d+)", text)
    return bool(version) and (int(version.group(1)), int(version.group(2))) >= (3, 20)


def missing_tools(builds_interfaces: bool) -> list:
    """Return (tool, Debian package) of everything that is needed and absent."""
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = [
        ("venv", f"{minor}-venv", all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))),
    ]
    if builds_interfaces:
        include = sysconfig.get_path("include") or ""
        found += [
            ("a C compiler", "gcc", shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")),
            ("a C++ compiler", "g++", shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")),
            ("make", "make", shutil.which("make")),
            ("cmake >= 3.20", "cmake", cmake_is_new_enough()),
            ("the Python headers", f"{minor}-dev", os.path.exists(os.path.join(include, "Python.h"))),
        ]
    return [(tool, package) for tool, package, present in found if not present]


def missing_distro_packages(env: dict) -> list:
    """Return the names of the ROS 2 packages that the sourced distribution lacks."""
    prefixes = [Path(prefix) for prefix in env["AMENT_PREFIX_PATH"].split(os.pathsep) if prefix]
    return [
        name
        for name in DISTRO_PACKAGES
        if not any((prefix / "share" / name / "package.xml").exists() for prefix in prefixes)
    ]


def check_machine(distro: str | None) -> None:
    """Raise SetupError with one line that names what is missing and the command that installs it."""
    oldest, newest = SUPPORTED_PYTHON
    version = sys.version_info[:2]
    if not oldest <= version <= newest:
        raise SetupError(
            f"{sys.executable} is Python {version[0]}.{version[1]}, not 3.{oldest[1]} to 3.{newest[1]}; "
            f"install with: {apt('python3.11-venv', 'python3.11-dev')}, then say make PYTHON=python3.11"
        )
    missing = missing_tools(builds_interfaces=distro is None)
    if missing:
        tools = ", ".join(tool for tool, _ in missing)
        raise SetupError(f"missing {tools}; install with: {apt(*(package for _, package in missing))}")
    if distro:
        packages = missing_distro_packages(dict(os.environ))
        if packages:
            names = [f"ros-{distro}-{name.replace('_', '-')}" for name in packages]
            raise SetupError(f"ROS 2 {distro} lacks {', '.join(packages)}; install with: {apt(*names)}")


def size_gb(folder: Path) -> float:
    """Return the disk space of the files in a folder, 0 where there is none; a hard link counts once."""
    found = {}
    for place, _, names in os.walk(str(folder)):
        for name in names:
            status = os.lstat(os.path.join(place, name))
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values()) / 1e9


def check_space(venv: Path, torch: str) -> None:
    """Raise SetupError where the disk of the environment has not the space that the requirements need."""
    needed = max(NEEDED_GB[torch] - size_gb(venv), UPDATE_GB)
    free = shutil.disk_usage(str(venv if venv.exists() else venv.parent)).free / 1e9
    if free < needed:
        smaller = f", or `make setup TORCH=cpu` ({NEEDED_GB['cpu']} GB)" if torch == "cuda" else ""
        raise SetupError(f"{venv} needs {needed:.1f} GB more, its disk has {free:.1f} GB; free some{smaller}")
