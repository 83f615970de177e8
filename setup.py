"""The ament_python package: what pip and colcon need beyond pyproject.toml."""

import runpy
import shutil
import sys
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "perception_rt"
EXECUTABLES = runpy.run_path("perception_rt/types/executables.py")["EXECUTABLES"]


def ros_executables() -> list:
    """Make the scripts of lib/<package> for pip, as data_files; colcon makes its own (setup.cfg)."""
    if "bdist_wheel" not in sys.argv:
        return []
    folder = Path("build", "ros_executables")
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXECUTABLES:
        shutil.copy("tools/ros_executable", folder / name)
    return [(f"lib/{PACKAGE}", [str(folder / name) for name in EXECUTABLES])]


setup(
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={
        PACKAGE: [
            *("py.typed", "bundles/*.pt", "node/*.xml"),
            *("replay/report/*.j2", "replay/report/*.css", "replay/report/*.js"),
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.*")),
        (f"share/{PACKAGE}/config", glob("config/*.*")),
        (f"share/{PACKAGE}/config/aggregator", glob("config/aggregator/*.yaml")),
        (f"share/{PACKAGE}/config/sros2", glob("config/sros2/*.xml")),
        *ros_executables(),
    ],
    entry_points={
        "console_scripts": [
            "perception-rt = perception_rt.cli.main:main",
            *(f"{name} = {PACKAGE}.node.{name}:main" for name in EXECUTABLES),
        ]
    },
)
