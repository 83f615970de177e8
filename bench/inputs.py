"""The inputs of the measurements: model, picture and clouds; real ones if the recordings are available."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from perception_rt.codec.points import parse_points
from perception_rt.replay.bag import Bag
from perception_rt.replay.kitti import read_velodyne
from perception_rt.sim.drive import Drive

DATA = Path(__file__).parents[2] / "shared" / "data"
FASTESTDET = DATA / "models" / "FastestDet.onnx"
STREET = DATA / "images" / "bdd_0ace96c3-48481887.jpg"
CITY = DATA / "bags" / "kitti_city"
CLOUDS = {"30k": 30_000, "120k": 120_000}
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}


def model(folder: Path) -> str:
    """FastestDet as a bundle in `folder`; the shipped detector where the recordings are absent."""
    return str(export_fastestdet(folder / "fastestdet.pt")) if FASTESTDET.is_file() else "sim_camera"


def export_fastestdet(path: Path, root: Path | None = None) -> Path:
    """Write the bundle with the user's command, in its own process, as it imports a lot.

    Args:
        path: the file to write.
        root: folder of the package to run; None for this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "perception_rt.cli.main", "bundle", "export", "onnx", str(FASTESTDET)]
    options = ["--decoder", "fastestdet", "--licence", "BSD-3-Clause", "--out", str(path.resolve())]
    # `-m` looks for a package where it runs first.
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd=root)
    return path


def picture(size: tuple[int, int]) -> np.ndarray:
    """A street of (width, height): (H, W, 3) uint8 RGB."""
    if not STREET.is_file():
        return Drive(1, size).sample(5.0).image
    return cv2.resize(cv2.imread(str(STREET)), size, interpolation=cv2.INTER_AREA)[:, :, ::-1].copy()


def cloud(name: str) -> np.ndarray:
    """A cloud of that many points: a lidar's front view or its full turn; (N, 4) float32."""
    count = CLOUDS[name]
    if not DATA.is_dir():
        points = np.concatenate([Drive(1).lidar(5.0).points] * 3)
    elif name == "30k":
        with Bag(CITY) as bag:
            points = parse_points(next(bag.messages(["/lidar/points"])).data).decode().points
    else:
        points = read_velodyne(DATA / "frames" / "000114" / "velodyne.bin")
    return np.ascontiguousarray(points[:count])
