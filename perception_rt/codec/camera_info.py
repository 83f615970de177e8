"""sensor_msgs/CameraInfo to a pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, message_header
from perception_rt.types import CodecError


@dataclass(frozen=True, slots=True, eq=False)
class CameraModel:
    """Intrinsics of one camera.

    Attributes:
        stamp_ns: stamp of the message, ns.
        frame_id: the optical frame (REP 103: x right, y down, z forward).
        height: rows of the calibrated image, px.
        width: its columns, px.
        distortion_model: e.g. ``"plumb_bob"``.
        d: (N,) float64, distortion coefficients of that model; empty for a rectified image.
        k: (3, 3) float64, raw image intrinsics.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    distortion_model: str
    d: np.ndarray
    k: np.ndarray


def parse_camera_info(source: Any) -> CameraModel:
    """The camera that a sensor_msgs/CameraInfo describes.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.

    Raises:
        CodecError: for truncated bytes, zero size, or an uncalibrated camera (K[0] is 0).
    """
    if isinstance(source, BYTES_LIKE):
        reader = CdrReader(source)
        stamp_ns, frame_id = reader.header()
        height, width = reader.scalars("height, width", "I", 2)
        named, d, k = reader.string("distortion_model"), reader.doubles("d"), reader.doubles("k", 9)
    else:
        try:
            stamp_ns, frame_id = message_header(source)
            height, width = source.height, source.width
            named, d, k = source.distortion_model, source.d, source.k
        except AttributeError as error:
            name = type(source).__name__
            raise CodecError("source", name, f"not a sensor_msgs/CameraInfo: {error}") from error
    k = np.array(k, np.float64).reshape(3, 3)
    if min(height, width) < 1:
        raise CodecError("height, width", (height, width), "an empty image")
    if not (np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0):
        raise CodecError("k", k.ravel().tolist(), "not calibrated")
    return CameraModel(stamp_ns, frame_id, height, width, named, np.array(d, np.float64), k)
