"""Which points of a simulated cloud belong to a box, for the tests of the simulated lidar."""

from __future__ import annotations

import numpy as np


def inside(points: np.ndarray, box: np.ndarray, margin: float) -> np.ndarray:
    """(N,) bool: points (N, 3 or more) in a box (7,) that is `margin` m larger on each side."""
    c, s = np.cos(box[6]), np.sin(box[6])
    x, y, z = (points[:, :3].astype(float) - box[:3]).T
    local = np.stack([c * x + s * y, c * y - s * x, z], -1)
    return (np.abs(local) <= box[3:6] / 2 + margin).all(-1)
