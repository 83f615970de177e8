"""Read MOTChallenge files: detected or true boxes in an image, by frame.

Format of Leal-Taixé et al., "MOTChallenge 2015", arXiv:1504.01942: a row is
`frame,id,left,top,width,height,confidence,x,y,z`, frames from 1, px; a truth of confidence 0 does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception_rt.types.errors import BagError

COLUMNS = 7  # the columns that describe boxes in the image
MAX_FRAME, MAX_VALUE = 1_000_000, 1e9


@dataclass(frozen=True, slots=True, eq=False)
class MotFrame:
    """The boxes of one frame.

    Attributes:
        ids: (N,) int64; -1 for detections.
        xyxy: (N, 4) float32, left top right bottom in px.
        scores: (N,) float32, confidence.
    """

    ids: np.ndarray
    xyxy: np.ndarray
    scores: np.ndarray


def read_mot(path: str | Path) -> dict[int, MotFrame]:
    """Read a detection or truth file.

    Returns:
        The boxes by frame number, from 1 to the last one without a gap; rows of confidence 0 are left out.

    Raises:
        BagError: the file cannot be read; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f"{path}: cannot be read: {error}") from error
    rows = np.array([_row(path, n, line) for n, line in enumerate(lines, 1) if line.strip()])
    rows = rows.reshape(-1, COLUMNS)
    counts = rows[rows[:, 6] != 0]
    counts = counts[np.argsort(counts[:, 0], kind="stable")]
    frames = range(1, int(rows[:, 0].max(initial=0)) + 1)
    starts = np.searchsorted(counts[:, 0], frames)
    return {frame: _frame(part) for frame, part in zip(frames, np.split(counts, starts)[1:], strict=True)}


def _row(path: str | Path, number: int, line: str) -> list[float]:
    fields = line.split(",")
    try:
        values = [float(field) for field in fields[:COLUMNS]]
    except ValueError as error:
        raise BagError(f"{path}: line {number}={line!r}: not numbers") from error
    sound = len(values) == COLUMNS and np.isfinite(values).all() and max(map(abs, values)) <= MAX_VALUE
    if not sound or not 1 <= values[0] <= MAX_FRAME:
        raise BagError(
            f"{path}: line {number}={line!r}: must have {COLUMNS} finite columns up to {MAX_VALUE:g}, "
            f"the frame from 1 to {MAX_FRAME}"
        )
    return values


def _frame(rows: np.ndarray) -> MotFrame:
    xyxy = np.hstack([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]])
    return MotFrame(rows[:, 1].astype(np.int64), xyxy.astype(np.float32), rows[:, 6].astype(np.float32))
