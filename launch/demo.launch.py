"""The simulated drive and the shipped detector: perception.launch.py with config/demo.yaml."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("perception_rt"))


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=str(SHARE / "config" / "demo.yaml"),
                description="ROS parameter file; the nodes that it names are started",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / "launch" / "perception.launch.py"))
            ),
        ]
    )
