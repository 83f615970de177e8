"""The pinhole camera: intrinsics, mounting and projection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Optical frame (z forward, x right, y down) expressed in base_link (x forward, y left, z up), REP 103.
OPTICAL_IN_BASE = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
NEAR_M = 0.3


@dataclass(frozen=True, slots=True)
class Camera:
    """An ideal pinhole camera that looks straight ahead.

    Pixel coordinates are continuous: pixel i covers [i, i + 1).

    Attributes:
        size: (width, height), px.
        focal: focal length, px; 0.7 of the width gives a field of view of 71 degrees.
        position: x, y, z in base_link, m.
    """

    size: tuple[int, int]
    focal: float
    position: tuple[float, float, float] = (1.5, 0.0, 1.5)

    @classmethod
    def of_size(cls, size: tuple[int, int]) -> Camera:
        """Return the simulator's camera for an image size."""
        return cls(size, 0.7 * size[0])

    @property
    def k(self) -> np.ndarray:
        """(3, 3) float64 intrinsic matrix."""
        return np.array([[self.focal, 0, self.size[0] / 2], [0, self.focal, self.size[1] / 2], [0, 0, 1.0]])

    @property
    def base_from_optical(self) -> np.ndarray:
        """(4, 4) float64 transform from the optical frame to base_link."""
        pose = np.eye(4)
        pose[:3, :3] = OPTICAL_IN_BASE
        pose[:3, 3] = self.position
        return pose

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points of base_link.

        Args:
            points: (..., 3), m.

        Returns:
            (..., 2) pixel coordinates and (...,) depth in m; pixels are invalid where depth < NEAR_M.
        """
        depth = points[..., 0] - self.position[0]
        scale = self.focal / np.maximum(depth, NEAR_M)
        uv = np.empty((*points.shape[:-1], 2))
        uv[..., 0] = self.size[0] / 2 - scale * (points[..., 1] - self.position[1])
        uv[..., 1] = self.size[1] / 2 - scale * (points[..., 2] - self.position[2])
        return uv, depth
