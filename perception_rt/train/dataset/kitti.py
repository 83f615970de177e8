"""Read KITTI object labels, for pictures (`image_2`) or for clouds (`velodyne`, with `calib`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception_rt.replay.kitti import (
    DONT_CARE,
    Labels,
    boxes_in_velodyne,
    object_labels,
    object_row,
    read_calibration,
    read_velodyne,
)
from perception_rt.replay.score.labels import IMAGE_SIZE, MOST_TRUNCATED, image_labels, need_not_be_found
from perception_rt.train.dataset.labels import (
    SUFFIXES,
    Dataset,
    LabelledFrame,
    Problems,
    objects,
    size_of,
    text_of,
)
from perception_rt.types import BagError, ConfigError
from perception_rt.types.folders import is_hidden

LABELS, PICTURES, CLOUDS, CALIBRATIONS = "label_2", "image_2", "velodyne", "calib"


def root_of(folder: Path) -> Path | None:
    """Return the folder with `label_2`: this one or its `training`; None if neither has it."""
    return next((root for root in (folder, folder / "training") if (root / LABELS).is_dir()), None)


def read_kitti(root: Path, clouds: bool, problems: Problems) -> Dataset:
    """Read the labels of the pictures, or of the clouds, of an object data set.

    Raises:
        ConfigError: there are no labels, pictures or clouds.
    """
    files = sorted(file for file in (root / LABELS).rglob("*.txt") if not is_hidden(file, root))
    if not files:
        raise ConfigError(f"--data={root}: {LABELS} holds no .txt")
    kind = CLOUDS if clouds else PICTURES
    if not (root / kind).is_dir():
        raise ConfigError(f"--data={root}: has no folder {kind}")
    frames = [(_cloud if clouds else _picture)(root, file, problems) for file in files]
    return Dataset("KITTI", (), [frame for frame in frames if frame is not None], [])


def _labels(file: Path, problems: Problems) -> tuple[Labels, list[int]]:
    """Return the valid rows, and the line of each."""
    rows, lines = [], []
    for number, line in enumerate(text_of(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(object_row(line))
        except ValueError as error:
            problems.add(file, number, str(error))
            continue
        lines.append(number)
    return object_labels(rows), lines


def _picture_file(root: Path, file: Path) -> Path:
    stem = root / PICTURES / file.relative_to(root / LABELS)
    return next((p for p in map(stem.with_suffix, SUFFIXES) if p.is_file()), stem.with_suffix(SUFFIXES[0]))


def _picture(root: Path, file: Path, problems: Problems) -> LabelledFrame | None:
    path = _picture_file(root, file)
    size = size_of(path, problems, file)
    if size is None:
        return None
    labels, lines = _labels(file, problems)
    boxes = [
        problems.box(box.tolist(), size, file, line) for box, line in zip(labels.xyxy, lines, strict=True)
    ]
    kept = np.array([box is not None for box in boxes], bool)
    labels.xyxy[kept] = objects([box for box in boxes if box is not None])
    names, xyxy, ignored, regions = image_labels(labels[kept])
    return LabelledFrame(path, tuple(names), xyxy.astype(np.float32), ignored, regions.astype(np.float32))


def _cloud(root: Path, file: Path, problems: Problems) -> LabelledFrame | None:
    name = file.relative_to(root / LABELS)
    path, calibration = (
        (root / kind / name).with_suffix(end) for kind, end in ((CLOUDS, ".bin"), (CALIBRATIONS, ".txt"))
    )
    labels, lines = _labels(file, problems)
    try:
        points, camera = read_velodyne(path), read_calibration(calibration)
    except BagError as error:
        problems.add(file, None, str(error))
        return None
    if not np.isfinite(points).all() or not len(points):
        problems.add(path, None, "holds NaN or infinity" if len(points) else "holds no points")
        return None
    picture = _picture_file(root, file)
    view = size_of(picture, problems, file) if picture.is_file() else None
    solid, kept = labels.hwlxyz_ry, labels.types != DONT_CARE
    for row in np.flatnonzero(kept):
        if (solid[row, :3] <= 0).any():
            problems.add(file, lines[row], f"{labels.types[row]}: height, width and length must be positive")
            kept[row] = False
    regions, labels = labels[labels.types == DONT_CARE].xyxy, labels[kept]
    return LabelledFrame(
        path,
        tuple(labels.types.tolist()),
        labels.xyxy,
        need_not_be_found(labels, MOST_TRUNCATED, flat=False),  # boxes in the image may be 0 0 0 0
        regions,
        boxes_in_velodyne(labels.hwlxyz_ry, camera),
        calibration,
        view or IMAGE_SIZE,
    )
