"""sensor_msgs/CameraInfo to a pinhole or fisheye camera of the image that comes with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, message_header
from perception_rt.types import CodecError

LEAST_FOCAL = 0.05  # of the width: a pinhole of less sees more than 168 degrees


@dataclass(frozen=True, slots=True, eq=False)
class CameraModel:
    """Intrinsics of one camera, for its image as it is published: binned, and cut to its region of interest.

    Attributes:
        stamp_ns: stamp of the message, ns.
        frame_id: the optical frame (REP 103: x right, y down, z forward), without a leading slash.
        height: rows of the image, px.
        width: its columns, px.
        distortion_model: e.g. ``"plumb_bob"``.
        d: (N,) float64, distortion coefficients of that model; empty for a rectified image.
        k: (3, 3) float64, intrinsics of the image.
        camera_from_frame: (4, 4) float64, takes points of the optical frame to where `k` and `d` hold: the
            rectification undone for a raw image, the baseline of a stereo camera for a rectified one.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    distortion_model: str
    d: np.ndarray
    k: np.ndarray
    camera_from_frame: np.ndarray = field(default_factory=lambda: np.eye(4))


def parse_camera_info(source: Any, image_is_rectified: bool = False) -> CameraModel:
    """The camera that a sensor_msgs/CameraInfo describes.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        image_is_rectified: the image is that of image_proc (``image_rect``): P holds, not K and D.

    Raises:
        CodecError: for truncated bytes, zero size, a region of interest outside of the image, or matrices of
            no camera, as those of an uncalibrated one.
    """
    if isinstance(source, BYTES_LIKE):
        reader = CdrReader(source)
        stamp_ns, frame_id = reader.header()
        height, width = reader.scalars("height, width", "I", 2)
        named, d = reader.string("distortion_model"), reader.doubles("d")
        k, r, p = (reader.doubles(name, count) for name, count in (("k", 9), ("r", 9), ("p", 12)))
        binning = reader.scalars("binning", "I", 2)
        x, y, rows, columns = reader.scalars("roi", "I", 4)
    else:
        try:
            stamp_ns, frame_id = message_header(source)
            height, width = source.height, source.width
            named, d, k, r, p = source.distortion_model, source.d, source.k, source.r, source.p
            binning, roi = (source.binning_x, source.binning_y), source.roi
            x, y, rows, columns = roi.x_offset, roi.y_offset, roi.height, roi.width
        except AttributeError as error:
            name = type(source).__name__
            raise CodecError("source", name, f"not a sensor_msgs/CameraInfo: {error}") from error
    if min(height, width) < 1:
        raise CodecError("height, width", (height, width), "an empty image")
    if not (rows and columns):
        rows, columns = height - y, width - x
    if min(rows, columns) < 1 or x + columns > width or y + rows > height:
        raise CodecError("roi", (x, y, columns, rows), f"outside of {width} x {height} px")
    fields = {"d": np.array(d, np.float64), "k": _matrix("k", k, 3)}
    if not np.isfinite(fields["d"]).all():
        raise CodecError("d", fields["d"].tolist(), "not finite")
    camera_from_frame = np.eye(4)
    if image_is_rectified:
        projection = _matrix("p", p, 4)
        _check("p", projection[:, :3], width)
        fields = {"d": np.zeros(0), "k": projection[:, :3].copy()}
        camera_from_frame[:2, 3] = projection[:2, 3] / projection[[0, 1], [0, 1]]
    else:
        _check("k", fields["k"], width)
        camera_from_frame[:3, :3] = _rotation(_matrix("r", r, 3)).T
    across, down = (max(1, factor) for factor in binning)
    fields["k"][0, 2] -= x
    fields["k"][1, 2] -= y
    fields["k"][:2] /= np.array([[across], [down]])
    return CameraModel(
        stamp_ns,
        frame_id.removeprefix("/"),
        rows // down,
        columns // across,
        named,
        fields["d"],
        fields["k"],
        camera_from_frame,
    )


def _matrix(name: str, values: Any, columns: int) -> np.ndarray:
    """Three rows of float64."""
    matrix = np.array(values, np.float64)
    if matrix.size != 3 * columns:
        raise CodecError(name, matrix.tolist(), f"must be {3 * columns} numbers")
    return matrix.reshape(3, columns)


def _check(name: str, matrix: np.ndarray, width: int) -> None:
    """Refuse what is no matrix of intrinsics."""
    if not np.isfinite(matrix).all() or not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise CodecError(name, matrix.ravel().tolist(), "not calibrated")
    if not np.allclose(matrix[2], (0, 0, 1)) or matrix[1, 0]:
        raise CodecError(name, matrix.ravel().tolist(), "no intrinsics: fx s cx, 0 fy cy, 0 0 1")
    if min(matrix[0, 0], matrix[1, 1]) < LEAST_FOCAL * width:
        raise CodecError(
            name, matrix.ravel().tolist(), f"not calibrated: no lens of {width} px is that short"
        )


def _rotation(r: np.ndarray) -> np.ndarray:
    """R; the identity where the driver left it at zeros.

    Raises:
        CodecError: neither of the two, nor a rotation.
    """
    if not r.any():
        return np.eye(3)
    if not np.allclose(r @ r.T, np.eye(3), atol=0.01) or np.linalg.det(r) < 0:
        raise CodecError("r", r.ravel().tolist(), "not a rotation")
    return r
