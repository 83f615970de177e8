"""Sensor frames as they leave the codec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class CameraFrame:
    """One camera image at its native size.

    Attributes:
        pixels: (H, W, 3) uint8, often a read-only view into the message; rows may be padded (strided).
        bgr: True when the channels are blue, green, red; False for red, green, blue.
        stamp_ns: the sensor's stamp, ns.
        frame_id: the optical frame of the camera (REP 103).
        unused_bits: how many of the leading bits of 16-bit values are zero in the whole image.
    """

    pixels: np.ndarray
    bgr: bool
    stamp_ns: int
    frame_id: str
    unused_bits: int = 0

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"pixels must be a non-empty (H, W, 3) uint8 array, got {shape} {dtype}")


@dataclass(frozen=True, slots=True, eq=False)
class LidarFrame:
    """One point cloud in the sensor's frame.

    Attributes:
        points: (N, 4) float32, x y z in m and intensity as the sensor gives it (0 where it gives none);
            finite; often a read-only view into the message.
        dropped: points that were left out because a coordinate was NaN or infinite.
        stamp_ns: the sensor's stamp, ns.
        frame_id: the sensor's frame (REP 103: x forward, y left, z up).
        times_s: (N,) float64, when each point was measured, s after the stamp; None where that is not known.
        ages_s: (N,) float32, by how much the newest sweep is younger than that of each point, s; None for a
            single sweep.
    """

    points: np.ndarray
    dropped: int
    stamp_ns: int
    frame_id: str
    times_s: np.ndarray | None = None
    ages_s: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.points.shape, self.points.dtype
        if dtype != np.float32 or len(shape) != 2 or shape[1] != 4:
            raise ValueError(f"points must be (N, 4) float32, got {shape} {dtype}")
