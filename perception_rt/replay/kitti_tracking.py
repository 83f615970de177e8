"""Read KITTI's tracking sequences as input and ground truth of a tracker.

Everything is in the frame of the left camera with the axes of REP 103 (x forward, y left, z up). The rules
are those of the development kit of KITTI's tracking benchmark and of AB3DMOT's evaluation: objects that
are truncated, more than "largely" occluded, or of a neighbouring class may be found
or missed; unmatched tracks are no error if their box in the image is low or mostly in a region of
`DontCare`.
"""

from __future__ import annotations

import numpy as np

from perception_rt.replay.clear_mot import Trajectories
from perception_rt.replay.kitti import Labels

NEIGHBOURS = {"Car": ("Van",), "Pedestrian": ("Person_sitting",)}
MOST_OCCLUDED = 2  # largely
LEAST_HEIGHT = 25.0  # px, of a scored box
MOST_DONT_CARE = 0.5  # of a box's area


def in_front(hwlxyz_ry: np.ndarray) -> np.ndarray:
    """Convert boxes in KITTI's camera frame (x right, y down, z forward) to the axes of REP 103.

    Args:
        hwlxyz_ry: (N, 7) as in `Labels`.

    Returns:
        (N, 7) float64 xyzlwh_yaw.
    """
    height, width, length, x, y, z, ry = hwlxyz_ry.T
    return np.column_stack([z, -x, height / 2 - y, length, width, height, -ry - np.pi / 2])


def truth(labels: dict[int, Labels], kind: str) -> Trajectories:
    """Return the labelled objects of a class and its neighbouring classes.

    Args:
        labels: labels of one sequence from `read_tracking_labels`.
        kind: `Car` or `Pedestrian`.
    """
    frames, parts = [], []
    for frame, found in labels.items():
        part = found[np.isin(found.types, (kind, *NEIGHBOURS[kind]))]
        frames += [frame] * len(part)
        parts.append(part)
    fields = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Labels.__slots__}
    hidden = (fields["occluded"] > MOST_OCCLUDED) | (fields["truncated"] > 0)
    return Trajectories(
        frames=np.array(frames, np.int64),
        ids=fields["track_ids"],
        xyzlwh_yaw=in_front(fields["hwlxyz_ry"]),
        ignored=hidden | (fields["types"] != kind),
        scores=np.ones(len(frames)),
    )
