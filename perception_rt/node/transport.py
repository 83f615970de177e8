"""The shared-memory profile that gives Fast DDS room for images. No rclpy here: launch files import this."""

from __future__ import annotations

import os
from pathlib import Path

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # new name, old name
OLD_NAME_DISTROS = ("humble", "iron", "jazzy")  # later ones warn about the old name
PROFILE = Path(__file__).with_name("fastdds.xml")


def transport_environment() -> dict[str, str]:
    """Return the variables that give Fast DDS room for images; none where the user has set a profile."""
    if any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return {}
    old = os.environ.get("ROS_DISTRO") in OLD_NAME_DISTROS
    return {PROFILE_VARIABLES[old]: str(PROFILE)}
