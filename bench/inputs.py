"""What is measured: the model and the picture; real ones where the recordings are here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from perception_rt.sim.drive import Drive

DATA = Path(__file__).parents[2] / "shared" / "data"
FASTESTDET = DATA / "models" / "FastestDet.onnx"
STREET = DATA / "images" / "bdd_0ace96c3-48481887.jpg"
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}


def model(folder: Path) -> str:
    """FastestDet as a bundle in `folder`; the shipped detector where the recordings are absent."""
    return str(export_fastestdet(folder / "fastestdet.pt")) if FASTESTDET.is_file() else "sim_camera"


def export_fastestdet(path: Path) -> Path:
    """Write the bundle, by the command that users have and in a process of its own: it imports a lot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "perception_rt.cli.main", "bundle", "export", "onnx", str(FASTESTDET)]
    options = ["--decoder", "fastestdet", "--licence", "BSD-3-Clause", "--out", str(path)]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return path


def picture(size: tuple[int, int]) -> np.ndarray:
    """A street of (width, height): (H, W, 3) uint8 RGB."""
    if not STREET.is_file():
        return Drive(1, size).sample(5.0).image
    return cv2.resize(cv2.imread(str(STREET)), size, interpolation=cv2.INTER_AREA)[:, :, ::-1].copy()
