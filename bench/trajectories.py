"""Trajectories of people from above, cut into windows of past and future positions.

The protocol is that of Schöller, Aravantinos, Lay and Knoll, "What the constant velocity model can teach us
about pedestrian motion prediction", RA-L 5(2), 2020, with a least length of 10: 8 positions are seen and up
to 12 predicted, at each step of each trajectory; a window's errors are averaged, then those of all windows.
Data: Pellegrini et al., "You'll never walk alone", ICCV 2009 (ETH: the sequences ETH and Hotel).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception_rt.types import BagError

STEP_S = 0.4
SEEN, AHEAD, LEAST = 8, 12, 10
HEADER = "frame,id,x_m,y_m"


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Pieces of trajectories.

    Attributes:
        seen: (W, 8, 2) float64, positions that are known, m.
        ahead: (W, 12, 2) float64, those that follow; NaN after the trajectory's end, never in the first two.
        frames: (W,) int64, frame of the first position.
        ids: (W,) int64, ids of the persons.
    """

    seen: np.ndarray
    ahead: np.ndarray
    frames: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: np.ndarray | slice) -> Windows:
        """The windows that a boolean mask, an index array or a slice selects."""
        return Windows(*(getattr(self, name)[index] for name in self.__slots__))


def read_windows(path: str | Path) -> Windows:
    """Every window of a file of lines `frame,id,x_m,y_m` at 2.5 Hz, below a header; stride 1.

    A trajectory with a missing frame is cut there.

    Raises:
        BagError: the file cannot be read, has other columns, or holds a person twice in one frame.
    """
    table = _read(path)
    frame, person, xy = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:]
    order = np.lexsort((frame, person))
    frame, person, xy = frame[order], person[order], xy[order]
    same, step = np.diff(person) == 0, np.diff(frame)
    if (same & (step == 0)).any():
        at = int(np.flatnonzero(same & (step == 0))[0])
        raise BagError(f"{path}: id {person[at]} twice in frame {frame[at]}")
    begins = np.flatnonzero(np.append(True, ~same | (step != 1)))
    lengths = np.diff(np.append(begins, len(frame)))
    last = np.repeat(begins + lengths, lengths)  # the row after the trajectory, of each row
    first = np.flatnonzero(last - np.arange(len(frame)) >= LEAST)
    rows = first[:, None] + np.arange(SEEN + AHEAD)
    pieces = xy[np.minimum(rows, len(xy) - 1)]
    pieces[rows >= last[first, None]] = np.nan
    return Windows(pieces[:, :SEEN], pieces[:, SEEN:], frame[first], person[first])


def _read(path: str | Path) -> np.ndarray:
    try:
        with Path(path).open() as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no rows: said below
            header = file.readline().strip()
            table = np.loadtxt(file, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise BagError(f"{path}: cannot be read: {error}") from error
    if header != HEADER or table.shape[1] != 4 or not len(table) or not np.isfinite(table).all():
        raise BagError(f"{path}: must be lines of finite {HEADER} below a header that says so")
    return table


def halves(windows: Windows) -> tuple[Windows, Windows]:
    """The windows that end before the median of all their first frames, and those that begin after it."""
    middle = np.median(windows.frames)
    return windows[windows.frames + SEEN + AHEAD <= middle], windows[windows.frames > middle]


def displacement_errors(predicted: np.ndarray, ahead: np.ndarray) -> tuple[float, float]:
    """ADE and FDE, m: the mean over windows of the mean and of the last distance.

    Args:
        predicted: (W, T, 2) m. ahead: (W, T, 2) m, NaN after the end.
    """
    distance = np.linalg.norm(predicted - ahead, axis=-1)
    last = np.isfinite(distance).sum(1) - 1
    return float(np.nanmean(distance, 1).mean()), float(distance[np.arange(len(distance)), last].mean())


def constant_velocity(seen: np.ndarray) -> np.ndarray:
    """(W, 12, 2): on with the last step of (W, 8, 2); the baseline."""
    return seen[:, -1:] + np.arange(1, AHEAD + 1)[:, None] * (seen[:, -1:] - seen[:, -2:-1])
