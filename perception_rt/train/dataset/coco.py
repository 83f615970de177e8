"""Read COCO labels: one JSON file for all pictures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from perception_rt.train.dataset.labels import Dataset, LabelledFrame, Problems, objects, size_of, text_of
from perception_rt.types import ConfigError
from perception_rt.types.folders import is_hidden

KEYS = ("images", "annotations", "categories")
OTHERS = ("moments.json",)  # of `replay --mine`
TRAINING, VALIDATION, TEST = ("train",), ("val", "valid", "validation"), ("test",)


def label_files(folder: Path) -> list[Path]:
    """Return the files of a folder that may contain COCO labels."""
    places = (".", "annotations", "coco", *TRAINING, *VALIDATION, *TEST)
    every = (file for place in places for file in (folder / place).glob("*.json"))
    found = {file for file in every if not is_hidden(file, folder)}
    instances = {file for file in found if file.name.startswith("instances_")}
    return sorted(instances or (file for file in found if file.name not in OTHERS))


def read_folder(folder: Path, problems: Problems) -> Dataset:
    """Read the label file of a folder, or its two files for training and validation.

    A file for testing is the validation where there is no other, and else left out.

    Raises:
        ConfigError: there are other files; see also `read_coco`.
    """
    files = label_files(folder)
    apart = [file for file in files if _names(file, folder) & set(VALIDATION)]
    tests = [file for file in files if file not in apart and _names(file, folder) & set(TEST)]
    learned = [file for file in files if file not in (*apart, *tests)]
    apart = apart or tests
    if len(learned) != 1 or len(apart) > 1:
        shown = ", ".join(str(file.relative_to(folder)) for file in files[:8])
        raise ConfigError(f"--data={folder}: has {len(files)} files of labels: give one of {shown}")
    dataset = read_coco(learned[0], problems)
    if not apart:
        return dataset
    validation = read_coco(apart[0], problems)
    declared = tuple(dict.fromkeys(dataset.declared + validation.declared))
    return Dataset(dataset.form, declared, dataset.frames, validation.frames)


def _names(file: Path, folder: Path) -> set[str]:
    """Return the words in the name of a file and of its folder."""
    text = str(file.relative_to(folder).with_suffix("")).lower()
    for sign in "/_-.":
        text = text.replace(sign, " ")
    return {word.rstrip("0123456789") for word in text.split()}


def read_coco(file: Path, problems: Problems) -> Dataset:
    """Read COCO labels; crowd regions (`iscrowd`) are ignored in training and scoring.

    Raises:
        ConfigError: the file is not JSON, or has no COCO labels.
    """
    text = text_of(file)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in KEYS):
        raise ConfigError(f"{file}: has no lists {', '.join(KEYS)}, as COCO's labels have")

    @cache
    def starts(key: str) -> list[int]:
        return element_lines(text, key)

    def line(key: str, number: int) -> Callable[[], int]:
        return lambda: starts(key)[number]

    def note(key: str, number: int, words: str) -> None:
        problems.add(file, line(key, number), words)

    names: dict[Any, str] = {}
    for number, entry in enumerate(data["categories"]):
        if not isinstance(entry, dict) or not _is_key(entry.get("id")) or "name" not in entry:
            note("categories", number, "category: must have id and name")
        else:
            names[entry["id"]] = str(entry["name"])
    pictures: dict[Any, tuple[Path, tuple[int, int]]] = {}
    find = _finder(file)
    for number, entry in enumerate(data["images"]):
        if not isinstance(entry, dict) or not _is_key(entry.get("id")) or not entry.get("file_name"):
            note("images", number, "image: must have id and file_name")
            continue
        path = find(str(entry["file_name"]))
        size = size_of(path, problems, file, line("images", number))
        if size is None:
            continue
        stated = entry.get("width", size[0]), entry.get("height", size[1])
        if stated != size:
            note("images", number, f"image {path}: stated {stated[0]}x{stated[1]} px, is {size[0]}x{size[1]}")
            continue  # its boxes are of another scale
        if entry["id"] in pictures:
            note("images", number, f"image id {entry['id']!r}: stands there twice")
            continue
        pictures[entry["id"]] = path, size
    listed = {
        entry.get("id") for entry in data["images"] if isinstance(entry, dict) and _is_key(entry.get("id"))
    }
    rows: dict[Any, list[tuple[str, list[float], bool]]] = {key: [] for key in pictures}
    for number, entry in enumerate(data["annotations"]):
        row = annotation_row(entry, names, listed)
        if isinstance(row, str):
            note("annotations", number, row)
        elif entry["image_id"] in pictures:  # errors of other pictures are reported already
            box = problems.box(row[1], pictures[entry["image_id"]][1], file, line("annotations", number))
            if box is not None:
                rows[entry["image_id"]].append((row[0], box, row[2]))
    frames = []
    for key, (path, _) in pictures.items():
        single = [(name, box) for name, box, many in rows[key] if not many]
        crowds = objects([box for _, box, many in rows[key] if many])
        boxes = objects([box for _, box in single])
        ignored = np.zeros(len(single), bool)
        frames.append(LabelledFrame(path, tuple(name for name, _ in single), boxes, ignored, crowds))
    return Dataset("COCO", tuple(names.values()), frames, [])


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str)


def annotation_row(
    entry: Any, names: Mapping[Any, str], pictures: Collection[Any]
) -> tuple[str, list[float], bool] | str:
    """Return the class, xyxy in px, and whether it is a crowd, or what is wrong with an annotation."""
    if not isinstance(entry, dict):
        return "annotation: must be an object"
    which = f"annotation {entry.get('id')!r}"
    for field, known, kind in (("image_id", pictures, "image"), ("category_id", names, "class")):
        value = entry.get(field)
        if not _is_key(value) or value not in known:
            return f"{which}: {field}={value!r}: no such {kind}"
    try:
        x, y, width, height = (float(value) for value in entry.get("bbox", ()))
    except (TypeError, ValueError):
        return f"{which}: bbox={entry.get('bbox')!r}: must be 4 numbers"[:200]
    if not all(map(math.isfinite, (x, y, width, height))):
        return f"{which}: bbox={entry['bbox']!r}: must be finite"
    return names[entry["category_id"]], [x, y, x + width, y + height], bool(entry.get("iscrowd"))


def _finder(file: Path) -> Any:
    """Return a function that finds pictures: beside the labels, or in a folder `images` or of their name."""
    base = file.stem.removeprefix("instances_")
    places = [
        parent / name
        for parent in (file.parent, file.parent.parent)
        for name in ("", "images", base, f"images/{base}")
    ]

    def find(name: str) -> Path:
        for place in places:
            if os.path.isfile(place / name):  # also answers for names that are too long
                places.insert(0, places.pop(places.index(place)))  # the other pictures are there, too
                return place / name
        return places[0] / name

    return find


def element_lines(text: str, key: str) -> list[int]:
    """Return the line, from 1, on which each element of the list under `key` of a JSON object begins.

    For a repeated key the last one counts, as in `json.loads`.
    """
    lines: list[int] = []
    decoder, at, counted, line = json.JSONDecoder(), text.index("{") + 1, 0, 1

    def skip(at: int, signs: str) -> int:
        while text[at] in signs:
            at += 1
        return at

    while text[at := skip(at, " \t\r\n,")] != "}":
        name, at = decoder.raw_decode(text, at)
        at = skip(at, " \t\r\n:")
        if name != key or text[at] != "[":
            _, at = decoder.raw_decode(text, at)
            continue
        lines, at = [], at + 1
        while text[at := skip(at, " \t\r\n,")] != "]":
            line += text.count("\n", counted, at)
            counted = at
            lines.append(line)
            _, at = decoder.raw_decode(text, at)
        at += 1
    return lines
