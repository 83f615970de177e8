"""Read YOLO labels: `data.yaml`, and a text file for each picture."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception_rt.model.importers.common import named_list, read_class_names
from perception_rt.train.dataset.labels import (
    Dataset,
    LabelledFrame,
    Problems,
    objects,
    pictures_in,
    size_of,
    text_of,
)
from perception_rt.types import BundleError, ConfigError
from perception_rt.types.bounded_yaml import load_yaml

FILES = ("data.yaml", "dataset.yaml", "data.yml")
NAME_FILES = ("classes.txt", "obj.names")


def description_of(folder: Path) -> Path | None:
    """Return the file that describes a YOLO data set; None if there is none."""
    found = [folder / name for name in (*FILES, *NAME_FILES) if (folder / name).is_file()]
    return found[0] if found else None


def read_yolo(file: Path, problems: Problems) -> Dataset:
    """Read the data set of a `data.yaml`, or of the folder of a list of names.

    Raises:
        ConfigError: the file does not exist, or there are no names, pictures or labels.
    """
    try:
        if file.suffix in (".txt", ".names"):
            names, keypoints = read_class_names(file), 0
            learned, apart = [file.parent / "images"], []
            learned = learned if learned[0].is_dir() else [file.parent]
        else:
            data = _described(file)
            names, keypoints = named_list(data["names"], f"{file}: names"), _keypoint_values(data, file)
            learned, apart = (_places(file, data, keys) for keys in (("train",), ("val", "valid")))
    except BundleError as error:
        raise ConfigError(str(error)) from error
    paths = list(dict.fromkeys(_pictures(learned, file)))
    others = [path for path in dict.fromkeys(_pictures(apart, file)) if path not in set(paths)]
    if not any(os.path.isfile(label_file(path)) for path in paths):
        raise ConfigError(
            f"{file}: none of {len(paths)} pictures has a file of labels; that of "
            f"{paths[0] if paths else 'the first'} would be {label_file(paths[0]) if paths else 'a .txt'}"
        )
    frames, validation = (
        [_frame(path, names, keypoints, problems) for path in part] for part in (paths, others)
    )
    return Dataset(
        "YOLO",
        tuple(names),
        [frame for frame in frames if frame is not None],
        [frame for frame in validation if frame is not None],
    )


def _loaded(file: Path) -> Any:
    try:
        return load_yaml(text_of(file))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error


def _described(file: Path) -> dict[str, Any]:
    data = _loaded(file)
    if not isinstance(data, dict) or "names" not in data or "train" not in data:
        raise ConfigError(f"{file}: must have names and train")
    return data


def keypoint_values(file: Path) -> int:
    """Return how many values of keypoints follow the box in a line, by the `kpt_shape` of a `data.yaml`.

    Raises:
        ConfigError: it cannot be read, or is invalid.
    """
    return _keypoint_values(_loaded(file), file)


def _keypoint_values(data: Any, file: Path) -> int:
    shape = data.get("kpt_shape") if isinstance(data, dict) else None
    if shape is None:
        return 0
    sound = isinstance(shape, list) and len(shape) == 2 and all(isinstance(value, int) for value in shape)
    if not sound or shape[0] < 1 or shape[1] not in (2, 3):
        raise ConfigError(f"{file}: kpt_shape={shape!r}: must be the number of keypoints, and 2 or 3")
    return math.prod(shape)


def _places(file: Path, data: dict[str, Any], keys: Sequence[str]) -> list[Path]:
    """Return the folders or picture lists under one of `keys`."""
    found: Any = next((data[key] for key in keys if data.get(key)), [])
    root = Path(str(data.get("path") or "."))
    places = []
    for name in found if isinstance(found, list) else [found]:
        roots = (file.parent / root, root, file.parent)  # `path` is often that of another machine
        options = [base / str(name) for base in roots] + [file.parent / str(name).removeprefix("../")]
        place = next((option for option in options if os.path.exists(option)), None)
        if place is None:
            raise ConfigError(f"{file}: {keys[0]}={str(name)!r}: no such folder or list")
        places.append(place)
    return places


def _pictures(places: Sequence[Path], file: Path) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from pictures_in(place)
            continue
        for name in text_of(place).split("\n"):
            if name.strip():
                yield place.parent / name.strip()


def label_file(picture: Path) -> Path:
    """Return the label file of a picture: the last `images` in its path becomes `labels`."""
    parts = list(picture.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _frame(path: Path, names: Sequence[str], keypoints: int, problems: Problems) -> LabelledFrame | None:
    file = label_file(path)
    size = size_of(path, problems, file if os.path.isfile(file) else path)
    if size is None:
        return None
    found, boxes = [], []
    for number, line in enumerate(text_of(file).split("\n") if os.path.isfile(file) else (), 1):
        if not line.strip():
            continue
        row = label_row(line, names, keypoints)
        if isinstance(row, str):
            problems.add(file, number, row)
            continue
        box = problems.box(np.array(row[1]) * [*size, *size], size, file, number)
        if box is not None:
            found.append(row[0])
            boxes.append(box)
    return LabelledFrame(path, tuple(found), objects(boxes), np.zeros(len(found), bool))


def label_row(line: str, names: Sequence[str], keypoints: int = 0) -> tuple[str, list[float]] | str:
    """Return the class name and xyxy as fractions of the picture, or what is wrong with a line.

    Args:
        line: of a label file.
        names: of the classes.
        keypoints: see `keypoint_values`; without, a line of keypoints cannot be told from a polygon.
    """
    try:
        label, *values = (float(word) for word in line.split())
    except ValueError:
        return f"{line[:60]!r}: must be numbers"
    if not (label.is_integer() and 0 <= label < len(names)):
        return f"class {label:g}: must be from 0 to {len(names) - 1}"
    if not all(map(math.isfinite, values)):
        return f"{line[:60]!r}: must be finite"
    if len(values) in (4, 5, 4 + keypoints, 5 + keypoints):  # a value at the end is a score
        x, y, width, height = values[:4]
        return names[int(label)], [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if keypoints:
        return f"{len(values)} values: must be 4 of a box, and {keypoints} of keypoints (kpt_shape)"
    if len(values) < 6 or len(values) % 2:
        return f"{len(values)} values: must be 4 of a box, or the points of a polygon"
    points = np.reshape(values, (-1, 2))
    return names[int(label)], [*points.min(0).tolist(), *points.max(0).tolist()]
