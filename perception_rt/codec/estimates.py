"""What tracks and predictions say beyond their boxes: the moment each one is for, and how sure it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.detection_array import BOX_AT, COVARIANCE_AT

_BOX = 10  # float64s of a vision_msgs/BoundingBox3D
_PLANE = np.ix_((0, 1, 5), (0, 1, 5))  # x, y and the turn about z


class Estimates(NamedTuple):
    """One row per detection of a vision_msgs/Detection3DArray.

    Attributes:
        stamps_ns: (N,) int64, of each detection's own header, ns.
        covariance: (N, 3, 3) float64 of x y yaw, m and rad, of the best hypothesis; zeros where not known.
    """

    stamps_ns: np.ndarray
    covariance: np.ndarray


def parse_estimates(data: bytes) -> Estimates:
    """Stamps and covariances of a serialized vision_msgs/Detection3DArray, in the order of its detections.

    Raises:
        CodecError: for truncated bytes.
    """
    reader = CdrReader(data)
    reader.header()
    stamps, covariances = [], []
    for _ in range(reader.scalars("detections", "I")[0]):
        stamps.append(reader.header()[0])
        best, covariance = -np.inf, np.zeros((3, 3))
        for _ in range(reader.scalars("results", "I")[0]):
            reader.string("class_id")
            values = reader.doubles("score, pose", BOX_AT)
            if values[0] > best:
                best = values[0]
                covariance = values[COVARIANCE_AT:].reshape(6, 6)[_PLANE]
        covariances.append(covariance)
        reader.scalars("bbox", "d", _BOX)
        reader.string("id")
    return Estimates(np.array(stamps, np.int64), np.array(covariances, np.float64).reshape(-1, 3, 3))
