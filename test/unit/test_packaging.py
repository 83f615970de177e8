"""The sdist and the wheel: what they hold, what they declare, and that the wheel runs without ROS."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from perception_rt.types.executables import EXECUTABLES
from test.drives import write_drive

ROOT = Path(__file__).parents[2]
ROS = re.compile(
    r"ros[-_.]|rclpy|rcl_|rmw|rpyutils|rosidl|ament|.*_(msgs|srvs|interfaces)\b|.*perception_rt|__editable"
)
# The module that is imported -> the distribution of PyPI, and the key of rosdep.
PYPI = {
    "cv2": ("opencv-python-headless", "python3-opencv"),
    "yaml": ("pyyaml", "python3-yaml"),
    "PIL": ("pillow", "python3-pil"),
    "compression": ("", ""),  # the standard library's from Python 3.14 on
    "backports": ("backports.zstd", "python3-backports-zstd-pip"),
    "imageio_ffmpeg": ("imageio-ffmpeg", "python3-imageio-ffmpeg-pip"),
    "lz4": ("lz4", "python3-lz4"),
    "rosbags": ("rosbags", "python3-rosbags-pip"),
    "motmetrics": ("motmetrics", "python3-motmetrics-pip"),
    "pycocotools": ("pycocotools", "python3-pycocotools"),
    "onnx": ("onnx", "python3-onnx"),
    "onnx2torch": ("onnx2torch", "python3-onnx2torch-pip"),
    "onnxruntime": ("onnxruntime", "python3-onnxruntime-pip"),
    "resvg_py": ("resvg_py", "python3-resvg-py-pip"),
    "foxglove": ("foxglove-sdk", ""),
    "rerun": ("rerun-sdk", ""),
    "rerun_cli": ("rerun-sdk", ""),
    "ray": ("ray", ""),
    "openvino": ("openvino", ""),
    "captum": ("captum", ""),
    "pytorch_lightning": ("pytorch-lightning", "python3-pytorch-lightning-pip"),
    "tensorboard": ("tensorboard", "python3-tensorboard-pip"),
}
OPTIONAL = {"tf2_ros", "tensorrt", "torch_tensorrt"}  # used where they are installed


def imported(folder: Path) -> set[str]:
    """The top-level modules that the files of a folder import, apart from the standard library."""
    found = set()
    for path in folder.rglob("*.py"):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in part.names}
            elif isinstance(part, ast.ImportFrom) and not part.level:
                found.add((part.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"perception_rt", "test", "bench"}


def is_ros(module: str) -> bool:
    return bool(ROS.match(module)) or module.startswith(("launch", "tf2_"))


def without_path() -> dict[str, str]:
    """The environment, without other copies of the package."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """An sdist of this checkout, and the wheel that is built from it."""
    pytest.importorskip("build", reason="the package `build` is not installed")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, env=without_path(), timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_the_sdist_holds_what_a_build_needs(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "package.xml", "tools/ros_executable", "LICENSE"}
    needed |= {f"launch/{path.name}" for path in (ROOT / "launch").glob("*.launch.*")}
    needed |= {f"config/{path.name}" for path in (ROOT / "config").glob("*.yaml")}
    needed |= {"resource/perception_rt", "perception_rt/py.typed"}
    assert needed <= names


def test_the_wheel_declares_its_dependencies_and_its_executables(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(archive.read(next(n for n in names if n.endswith("METADATA"))).decode())
    required = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert {"torch", "numpy", "rosbags", "onnxruntime"} <= {
        re.split(r"[<>=;\[ ]", text)[0] for text in required
    }
    assert {"ros", "export", "live", "ray", "train", "test"} <= set(metadata.get_all("Provides-Extra"))
    for name in EXECUTABLES:
        assert any(path.endswith(f"lib/perception_rt/{name}") for path in names)
    assert "perception_rt/py.typed" in names
    assert any(path.startswith("perception_rt/bundles/") for path in names)


@pytest.fixture(scope="module")
def clean(built, tmp_path_factory) -> Path:
    """The Python of an environment with the wheel and its dependencies, and without ROS.

    The dependencies are links to those of the environment that runs the tests: gigabytes are not copied.
    """
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = folder / "lib" / minor / "site-packages"
    for key in {"purelib", "platlib"}:
        for entry in Path(sysconfig.get_path(key)).iterdir():
            if not ROS.match(entry.name) and entry.suffix != ".pth" and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps"]
    subprocess.run([*command, "--no-index", built[1]], check=True, capture_output=True, env=without_path())
    return folder / "bin" / "python"


def run(python: Path, *words: object, cwd: Path) -> subprocess.CompletedProcess:
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    env = {key: os.environ[key] for key in kept if key in os.environ}
    return subprocess.run([python, *words], capture_output=True, text=True, cwd=cwd, env=env, timeout=120)


CHECK = """
import importlib.util, sys
assert importlib.util.find_spec("rclpy") is None
import perception_rt, numpy as np
from perception_rt.stage.tracking.presets import config_3d
from perception_rt.stage.tracking.tracker import Tracker3D
from perception_rt.types import Detections3D
tracker = Tracker3D(config_3d(["car"], odometry=True))
for step in range(5):
    box = np.array([[10.0 + step, 0, 0, 4, 2, 1.5, 0]], np.float32)
    found = Detections3D(box, np.ones(1, np.float32), np.zeros(1, np.int64))
    tracks = tracker.update(step * 100_000_000, found, np.eye(4))
print(len(tracks), perception_rt.__file__)
"""


def test_the_wheel_runs_without_ros(clean, tmp_path):
    command = clean.parent / "perception-rt"
    for words in (["--help"], ["bundle", "show", "bev_cluster"], ["bundle", "verify", "bev_cluster"]):
        done = run(clean, command, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run(clean, "-c", CHECK, cwd=tmp_path)
    assert done.stdout.startswith("1 "), done.stderr
    assert str(clean.parents[1]) in done.stdout  # the wheel's own code ran


def test_the_wheel_replays_a_recording_without_ros(clean, tmp_path):
    write_drive(tmp_path / "drive", seconds=1.0)
    config = tmp_path / "graph.yaml"
    config.write_text("vehicle_state:\n  ros__parameters: {odometry_topic: /odom, imu_topic: /imu}\n")
    words = ["replay", tmp_path / "drive", "--config", config, "--out", tmp_path / "out", "--no-report"]
    done = run(clean, clean.parent / "perception-rt", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "ledger.csv").is_file()


def test_every_import_is_declared():
    project = (ROOT / "pyproject.toml").read_text()
    package = ElementTree.parse(ROOT / "package.xml")
    executed = {part.text for part in package.iter("exec_depend")}
    tested = executed | {part.text for part in package.iter("test_depend")}
    for folders, keys in ((("perception_rt", "launch"), executed), (("test",), tested)):
        for module in sorted(set().union(*(imported(ROOT / folder) for folder in folders)) - OPTIONAL):
            distribution, key = PYPI.get(module, (module, f"python3-{module}"))
            if is_ros(module):
                assert module in keys, f"package.xml: {module} is imported and not declared"
                continue
            if distribution and "test" not in folders:
                pattern = rf'"{re.escape(distribution)}["<>=;\[ ]'
                assert re.search(pattern, project, re.I), f"pyproject.toml: {distribution} is not declared"
            if key:
                assert key in keys, f"package.xml: {key} is imported and not declared"


LINUX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios"}


def test_nothing_outside_of_node_needs_linux_to_be_imported():
    for path in (ROOT / "perception_rt").rglob("*.py"):
        if "node" in path.relative_to(ROOT / "perception_rt").parts:
            continue
        tree = ast.parse(path.read_text())
        top = [part for part in tree.body if isinstance(part, ast.Import | ast.ImportFrom)]
        names = {alias.name for part in top if isinstance(part, ast.Import) for alias in part.names}
        names |= {part.module for part in top if isinstance(part, ast.ImportFrom)}
        assert not names & LINUX_ONLY, path.relative_to(ROOT)


def test_every_place_names_the_same_python_versions():
    pyproject, machine, readme, workflow = (
        (ROOT / name).read_text()
        for name in ("pyproject.toml", "tools/machine.py", "README.md", ".github/workflows/ci.yaml")
    )
    oldest, newest = re.search(r"SUPPORTED_PYTHON = \(\(3, (\d+)\), \(3, (\d+)\)\)", machine).groups()
    versions = [f"3.{minor}" for minor in range(int(oldest), int(newest) + 1)]
    assert re.findall(r"Programming Language :: Python :: (3\.\d+)", pyproject) == versions
    assert f"Python 3.{oldest} to 3.{newest}" in readme
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", workflow)[1]) == versions
