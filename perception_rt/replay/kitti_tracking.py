"""Read KITTI's tracking sequences as input and ground truth of a tracker.

Everything is in the frame of the left camera with the axes of REP 103 (x forward, y left, z up). The rules
are those of the development kit of KITTI's tracking benchmark and of AB3DMOT's evaluation: objects that
are truncated, more than "largely" occluded, or of a neighbouring class may be found
or missed; unmatched tracks are no error if their box in the image is low or mostly in a region of
`DontCare`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception_rt.replay.clear_mot import Trajectories
from perception_rt.replay.kitti import DONT_CARE, MAX_VALUE, Labels
from perception_rt.types.detections import Detections3D
from perception_rt.types.errors import BagError

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
