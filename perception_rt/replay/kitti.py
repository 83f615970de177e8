"""Read KITTI's files: object and tracking labels, calibration, velodyne point clouds.

Formats as in the development kits of the object and tracking benchmarks (Geiger et al., "Are we ready
for autonomous driving? The KITTI vision benchmark suite", CVPR 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception_rt.codec.camera_info import CameraModel
from perception_rt.types.errors import BagError

DONT_CARE = "DontCare"
MAX_VALUE = 1e9
"""The maximum magnitude of a number in a label file."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The calibration of the left colour camera and the lidar.

    Attributes:
        p2: (3, 4) float64, rectified camera frame -> homogeneous px of the left colour image.
        camera_from_velodyne: (4, 4) float64, velodyne frame -> rectified camera frame (x right, y down,
            z forward), m.
    """

    p2: np.ndarray
    camera_from_velodyne: np.ndarray

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points in the velodyne frame into the image.

        Args:
            points: (N, 3) m.

        Returns:
            (N, 2) px and (N,) depth in m; a position is only valid if its depth is positive.
        """
        camera = homogeneous(points) @ self.camera_from_velodyne.T
        image = camera @ self.p2.T
        depth = image[:, 2]
        return image[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[:, None], depth


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The labelled objects of one frame, regions of type `DontCare` included.

    Attributes:
        types: (N,) str: Car, Van, Truck, Pedestrian, Person_sitting or Person, Cyclist, Tram, Misc, DontCare.
        track_ids: (N,) int64; -1 in the object benchmark and for DontCare.
        truncated: (N,) float32, out of the image by this fraction (object) or class 0, 1, 2 (tracking); -1
            unset.
        occluded: (N,) int64: 0 visible, 1 partly, 2 largely, 3 unknown; -1 unset.
        xyxy: (N, 4) float32, px of the left colour image.
        hwlxyz_ry: (N, 7) float64, height width length in m, bottom centre in the rectified camera frame,
            rotation about its y axis in rad; unset for DontCare.
    """

    types: np.ndarray
    track_ids: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    xyxy: np.ndarray
    hwlxyz_ry: np.ndarray

    def __len__(self) -> int:
        return len(self.types)

    def __getitem__(self, index: np.ndarray | slice) -> Labels:
        """Select rows by a boolean mask, an index array or a slice."""
        return Labels(*(getattr(self, name)[index] for name in self.__slots__))


def homogeneous(points: np.ndarray) -> np.ndarray:
    """Return (N, 3) points as (N, 4) float64 homogeneous coordinates."""
    return np.concatenate([points, np.ones((len(points), 1))], 1)


def pinhole(calibration: Calibration, size: tuple[int, int]) -> tuple[CameraModel, np.ndarray]:
    """Return the left colour camera as a ROS camera model and its pose.

    Args:
        calibration: its `p2` holds both the intrinsics and the camera's offset from camera 0.
        size: (width, height) of the image, px.

    Returns:
        the model, and (4, 4) float64, velodyne frame -> the camera's optical frame.
    """
    k = calibration.p2[:, :3]
    offset = np.eye(4)
    offset[:3, 3] = np.linalg.solve(k, calibration.p2[:, 3])
    model = CameraModel(0, "camera", size[1], size[0], "plumb_bob", np.zeros(5), k)
    return model, offset @ calibration.camera_from_velodyne


def boxes_in_velodyne(hwlxyz_ry: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Transform label boxes to the lidar's frame; the small tilt between both frames is ignored.

    Args:
        hwlxyz_ry: (N, 7) as `Labels` has it.
        calibration: of the same recording.

    Returns:
        (N, 7) float32 xyzlwh_yaw: centre of the box, yaw 0 along x, positive to the left.
    """
    height, width, length = hwlxyz_ry[:, 0], hwlxyz_ry[:, 1], hwlxyz_ry[:, 2]
    middle = hwlxyz_ry[:, 3:6] - np.outer(height / 2, [0.0, 1.0, 0.0])  # y points down
    velodyne_from_camera = np.linalg.inv(calibration.camera_from_velodyne)
    centre = (homogeneous(middle) @ velodyne_from_camera.T)[:, :3]
    ry = hwlxyz_ry[:, 6]
    heading = np.stack([np.cos(ry), np.zeros_like(ry), -np.sin(ry)], 1) @ velodyne_from_camera[:3, :3].T
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    return np.column_stack([centre, length, width, height, yaw]).astype(np.float32)


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration file, of the object benchmark or of the tracking benchmark.

    Raises:
        BagError: the file cannot be read, or a matrix is missing, has the wrong size or no inverse.
    """
    entries = {}
    for number, line in enumerate(_lines(path), 1):
        key, *numbers = line.replace(":", " ").split() or [""]
        if not key:
            raise BagError(f"{path}: line {number}={line!r}: must be a name and numbers")
        entries[key] = numbers

    def matrix(rows: int, columns: int, *names: str) -> np.ndarray:
        found = next((entries[name] for name in names if name in entries), None)
        if found is None:
            raise BagError(f"{path}: no {names[0]}")
        try:
            values = np.array(found, np.float64)
        except ValueError as error:
            raise BagError(f"{path}: {names[0]}={' '.join(found)!r}: not numbers") from error
        if values.size != rows * columns or not np.isfinite(values).all():
            raise BagError(f"{path}: {names[0]}={' '.join(found)!r}: must be {rows * columns} finite numbers")
        return values.reshape(rows, columns)

    rectify, camera_from_velodyne = np.eye(4), np.eye(4)
    rectify[:3, :3] = matrix(3, 3, "R0_rect", "R_rect")
    camera_from_velodyne[:3] = matrix(3, 4, "Tr_velo_to_cam", "Tr_velo_cam")
    camera_from_velodyne = rectify @ camera_from_velodyne
    if not 0.5 < abs(np.linalg.det(camera_from_velodyne[:3, :3])) < 2:
        raise BagError(f"{path}: R0_rect, Tr_velo_to_cam={camera_from_velodyne[:3].tolist()}: no rotation")
    return Calibration(matrix(3, 4, "P2"), camera_from_velodyne)


def read_object_labels(path: str | Path) -> Labels:
    """Read a label file of the object benchmark: one frame.

    Raises:
        BagError: the file cannot be read; names the line.
    """
    return object_labels(_label_rows(path, 15))


def read_tracking_labels(path: str | Path) -> dict[int, Labels]:
    """Read a label file of the tracking benchmark: one sequence.

    Returns:
        The labels by frame number, in order; a frame without any is absent.

    Raises:
        BagError: the file cannot be read; names the line.
    """
    by_frame: dict[int, list[tuple[str, np.ndarray]]] = {}
    ids: dict[int, list[int]] = {}
    for kind, numbers in _label_rows(path, 17, kind_column=2):
        frame = int(numbers[0])
        by_frame.setdefault(frame, []).append((kind, numbers[2:]))
        ids.setdefault(frame, []).append(int(numbers[1]))
    return {frame: _labels(by_frame[frame], ids[frame]) for frame in sorted(by_frame)}


def read_velodyne(path: str | Path) -> np.ndarray:
    """Read a cloud of the object benchmark.

    Returns:
        (N, 4) float32: x forward, y left, z up in m; intensity in [0, 1].

    Raises:
        BagError: the file cannot be read, or its size is not that of whole points.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BagError(f"{path}: cannot be read: {error}") from error
    if len(data) % 16:
        raise BagError(f"{path}: {len(data)} bytes: not a whole number of points of 16 bytes")
    return np.frombuffer(data, "<f4").reshape(-1, 4).astype(np.float32)


def _lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f"{path}: cannot be read: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _label_rows(path: str | Path, columns: int, kind_column: int = 0) -> list[tuple[str, np.ndarray]]:
    """Each line's type and its other columns as numbers; a trailing score is left out."""
    rows = []
    for number, line in enumerate(_lines(path), 1):
        try:
            rows.append(_label_row(line, columns, kind_column))
        except ValueError as error:
            raise BagError(f"{path}: line {number}={line!r}: {error}") from error
    return rows


def _label_row(line: str, columns: int, kind_column: int) -> tuple[str, np.ndarray]:
    fields = line.split()
    if len(fields) not in (columns, columns + 1):
        raise ValueError(f"must have {columns} columns")
    kind = fields.pop(kind_column)
    try:
        numbers = np.array(fields[: columns - 1], np.float64)
    except ValueError as error:
        raise ValueError("not numbers") from error
    if not (np.abs(numbers) <= MAX_VALUE).all():
        raise ValueError(f"numbers must be finite, up to {MAX_VALUE:g}")
    return kind, numbers


def object_row(line: str) -> tuple[str, np.ndarray]:
    """Type and the 14 numbers of a line of the object benchmark, for `object_labels`.

    Raises:
        ValueError: says what is wrong.
    """
    return _label_row(line, 15, 0)


def object_labels(rows: Sequence[tuple[str, np.ndarray]]) -> Labels:
    """The labels of one frame from its rows."""
    return _labels(rows, [-1] * len(rows))


def _labels(rows: Sequence[tuple[str, np.ndarray]], track_ids: Sequence[int]) -> Labels:
    """`truncated occluded alpha x1 y1 x2 y2 h w l x y z ry` after the type; alpha follows from the rest."""
    values = np.array([numbers for _, numbers in rows], np.float64).reshape(-1, 14)
    return Labels(
        types=np.array([kind for kind, _ in rows], np.str_),
        track_ids=np.array(track_ids, np.int64),
        truncated=values[:, 0].astype(np.float32),
        occluded=values[:, 1].astype(np.int64),
        xyxy=values[:, 3:7].astype(np.float32),
        hwlxyz_ry=values[:, 7:14],
    )
