"""Tracks as structs of arrays: what a tracker says of one moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TIMES_AND_SCORES = {"scores": (), "age_s": (), "missed_s": ()}


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Tracked boxes on the ground at one moment, in the frame that the tracker works in.

    Attributes:
        ids: (N,) int64, never used twice.
        xyzlwh_yaw: (N, 7) float32, as of `Detections3D`.
        velocity: (N, 2) float32, along x and y, m/s.
        yaw_rate: (N,) float32, rad/s.
        covariance: (N, 6, 6) float32 of x y yaw vx vy yaw_rate; zero for the yaw rate of a class that
            does not turn.
        scores: (N,) float32 in [0, 1], of the last detection.
        labels: (N,) int64, index into the detector's class names.
        hits: (N,) int64, detections so far.
        age_s: (N,) float32, since the first detection, s.
        missed_s: (N,) float32, since the last one, s; 0 where this moment has one.
        detection: (N,) int64, row of this moment's detection; -1 where the track has none.
    """

    ids: np.ndarray
    xyzlwh_yaw: np.ndarray
    velocity: np.ndarray
    yaw_rate: np.ndarray
    covariance: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    hits: np.ndarray
    age_s: np.ndarray
    missed_s: np.ndarray
    detection: np.ndarray

    def __post_init__(self) -> None:
        shapes = {"xyzlwh_yaw": (7,), "velocity": (2,), "yaw_rate": (), "covariance": (6, 6)}
        _check_columns(self, shapes | TIMES_AND_SCORES)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: np.ndarray | slice) -> Tracks:
        """The tracks that a boolean mask, an index array or a slice selects."""
        return Tracks(*(getattr(self, name)[index] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Tracks2D:
    """Tracked boxes in one image at one moment.

    Attributes:
        ids: (N,) int64, never used twice.
        xyxy: (N, 4) float32, left top right bottom in px.
        velocity: (N, 4) float32 of centre x, centre y, width, height, px/s.
        covariance: (N, 8, 8) float32 of centre x, centre y, width, height and their velocities.
        scores: (N,) float32 in [0, 1], of the last detection.
        labels: (N,) int64, index into the detector's class names.
        hits: (N,) int64, detections so far.
        age_s: (N,) float32, since the first detection, s.
        missed_s: (N,) float32, since the last one, s; 0 where this moment has one.
        detection: (N,) int64, row of this moment's detection; -1 where the track has none.
    """

    ids: np.ndarray
    xyxy: np.ndarray
    velocity: np.ndarray
    covariance: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    hits: np.ndarray
    age_s: np.ndarray
    missed_s: np.ndarray
    detection: np.ndarray

    def __post_init__(self) -> None:
        shapes = {"xyxy": (4,), "velocity": (4,), "covariance": (8, 8)}
        _check_columns(self, shapes | TIMES_AND_SCORES)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: np.ndarray | slice) -> Tracks2D:
        """The tracks that a boolean mask, an index array or a slice selects."""
        return Tracks2D(*(getattr(self, name)[index] for name in self.__slots__))


def _check_columns(tracks: Tracks | Tracks2D, floats: dict[str, tuple[int, ...]]) -> None:
    """The fields named are float32, each row of that shape; every other field is a column of int64."""
    n = len(tracks.ids)
    for name in tracks.__slots__:
        array, shape = getattr(tracks, name), (n, *floats.get(name, ()))
        dtype = np.float32 if name in floats else np.int64
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} must be {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}")
