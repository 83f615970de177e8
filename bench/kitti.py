"""Read the files of KITTI's tracking benchmark that only measurements use: clouds, detections, regions."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from perception_rt.replay.kitti import DONT_CARE, MAX_VALUE, Labels
from perception_rt.replay.kitti_tracking import LEAST_HEIGHT, MOST_DONT_CARE, in_front
from perception_rt.types.detections import Detections3D
from perception_rt.types.errors import BagError

MAX_CLOUD_BYTES = 1 << 30
"""The maximum size of an uncompressed array in an .npz file, bytes."""


def read_velodyne_sequence(path: str | Path) -> list[np.ndarray]:
    """Read an .npz of consecutive clouds: `x_mm y_mm z_mm intensity_pct`, split by `counts`.

    Returns:
        One (N, 4) float32 cloud for each frame, as of `read_velodyne`.

    Raises:
        BagError: it cannot be read, an array is missing, or the lengths disagree.
    """
    names = ("x_mm", "y_mm", "z_mm", "intensity_pct")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        large = [f"{name}: {size} bytes" for name, size in sizes.items() if size > MAX_CLOUD_BYTES]
        if large:
            raise BagError(f"{path}: {large[0]}: more than {MAX_CLOUD_BYTES}")
        with np.load(path) as arrays:
            columns, counts = [arrays[name] for name in names], arrays["counts"]
    except (OSError, KeyError, ValueError, EOFError, NotImplementedError, MemoryError) as error:
        raise BagError(f"{path}: cannot be read: {error}") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, SyntaxError, RuntimeError) as error:
        raise BagError(f"{path}: cannot be read: {error}") from error
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise BagError(f"{path}: counts={counts!r}: must be whole numbers from 0")
    for name, column in zip(names, columns, strict=True):
        if column.shape != (counts.sum(),):
            raise BagError(f"{path}: {name} has shape {column.shape}, counts add up to {counts.sum()}")
    scale = np.array([1e-3, 1e-3, 1e-3, 1e-2])
    cloud = (np.stack(columns, 1) * scale).astype(np.float32)
    return np.split(cloud, np.cumsum(counts)[:-1])[: len(counts)]


def read_detections(path: str | Path, label: int) -> dict[int, tuple[Detections3D, np.ndarray]]:
    """Read detections in AB3DMOT's format: `frame,type,x1,y1,x2,y2,score,h,w,l,x,y,z,ry,alpha`.

    Returns:
        Detections by frame, in order, without empty frames; their scores, which are log odds in the
        file, as probabilities, and their (N, 4) float32 xyxy in px.

    Raises:
        BagError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text().splitlines()
        rows = np.loadtxt(lines, delimiter=",", ndmin=2) if lines else np.zeros((0, 15))
    except (OSError, ValueError) as error:
        raise BagError(f"{path}: cannot be read: {error}") from error
    if rows.shape[1] != 15:
        raise BagError(f"{path}: rows of {rows.shape[1]} columns: must be 15")
    wrong = np.flatnonzero(~(np.abs(rows) <= MAX_VALUE).all(1))
    if len(wrong):
        line = lines[wrong[0]]
        raise BagError(f"{path}: row {wrong[0] + 1}={line!r}: numbers must be finite, up to {MAX_VALUE:g}")
    found = {}
    for frame in np.unique(rows[:, 0]):
        part = rows[rows[:, 0] == frame]
        scores = 1 / (1 + np.exp(-part[:, 6]))
        detections = Detections3D(
            in_front(part[:, 7:14]).astype(np.float32), scores.astype(np.float32), np.full(len(part), label)
        )
        found[int(frame)] = detections, part[:, 2:6].astype(np.float32)
    return found


def ignored_in_image(xyxy: np.ndarray, labels: Labels | None) -> np.ndarray:
    """Return which boxes of one frame are no false positive if unmatched.

    Args:
        xyxy: (N, 4) px, boxes of tracks.
        labels: labels of the frame; None without labels.

    Returns:
        (N,) bool.
    """
    ignored = xyxy[:, 3] - xyxy[:, 1] <= LEAST_HEIGHT
    if labels is None:
        return ignored
    regions = labels[labels.types == DONT_CARE].xyxy
    overlap = np.minimum(xyxy[:, None, 2:], regions[:, 2:]) - np.maximum(xyxy[:, None, :2], regions[:, :2])
    inside = overlap.clip(min=0).prod(2)
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(1)
    return ignored | (inside > MOST_DONT_CARE * area[:, None]).any(1)
