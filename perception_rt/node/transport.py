"""The shared-memory profile that gives Fast DDS room for images. No rclpy here: launch files import this."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from perception_rt.types import ConfigError

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # new name, old name
OLD_NAME_DISTROS = ("humble", "iron", "jazzy")  # later ones warn about the old name
PROFILE = Path(__file__).with_name("fastdds.xml")
SMALL_PROFILE = Path(__file__).with_name("fastdds_small.xml")
RMW_LIBRARY = re.compile(
    r"lib(rmw_(?:(?:fastrtps|fastrtps_dynamic|cyclonedds|zenoh|gurumdds)_cpp|connextdds\w*))\.so"
)


def transport_environment(images: bool = True) -> dict[str, str]:
    """Return the variables that give Fast DDS room for messages; empty if the user has set a profile.

    Args:
        images: whether the process sends images or clouds; without, its shared memory is 2 MB instead of 64.
    """
    set_here = {os.environ.get(variable) for variable in PROFILE_VARIABLES} - {None, ""}
    if set_here - {str(PROFILE)}:  # which the launch files set
        return {}
    old = os.environ.get("ROS_DISTRO") in OLD_NAME_DISTROS
    return {PROFILE_VARIABLES[old]: str(PROFILE if images else SMALL_PROFILE)}


def installed_rmw() -> list[str]:
    """Return the RMW implementations in a ROS prefix or on the loader's path, sorted."""
    folders = [Path(prefix, "lib") for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix]
    folders += [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    folders.append(Path(sys.prefix, "lib"))
    found = (RMW_LIBRARY.fullmatch(path.name) for folder in folders for path in folder.glob("librmw_*.so"))
    return sorted({match[1] for match in found if match})


def check_rmw() -> None:
    """Refuse an RMW_IMPLEMENTATION that is not installed: importing rclpy would end the process.

    Raises:
        ConfigError: names the installed ones and the variable to set.
    """
    wanted, installed = os.environ.get("RMW_IMPLEMENTATION"), installed_rmw()
    if wanted and installed and wanted not in installed:
        package = "ros-$ROS_DISTRO-" + wanted.replace("_", "-")
        raise ConfigError(
            f"RMW_IMPLEMENTATION={wanted}: not installed; installed: {', '.join(installed)}. "
            f"Set one of them (export RMW_IMPLEMENTATION={installed[0]}), or install {package}"
        )
