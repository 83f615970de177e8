"""Read a user's data set, and split it into frames for training and for validation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perception_rt.model.importers.common import read_class_names
from perception_rt.stage.road_users import canonical, group
from perception_rt.train.dataset.coco import label_files, read_coco, read_folder
from perception_rt.train.dataset.kitti import read_kitti, root_of
from perception_rt.train.dataset.labels import (
    Dataset,
    LabelledFrame,
    Problems,
    decode_all,
    objects,
    pictures_in,
    size_of,
)
from perception_rt.train.dataset.yolo import description_of, read_yolo
from perception_rt.types import ConfigError
from perception_rt.types.folders import is_hidden

APART = ("val", "valid", "validation")
CLASS_FOLDERS = "class folders"  # the form of labels without boxes


def read_dataset(path: Path, problems: Problems, clouds: bool = False) -> Dataset:
    """Read a data set from a folder or file; errors are added to `problems`.

    Args:
        path: for COCO a folder or `.json`; for YOLO a folder or `data.yaml`; for KITTI a folder; otherwise a
            folder with a folder of pictures for each class.
        problems: collects errors.
        clouds: read KITTI's clouds, not its pictures.

    Raises:
        ConfigError: no labels are found; see also the reader of the format.
    """
    if not path.exists():
        raise ConfigError(f"--data={path}: no such file or folder")
    root = root_of(path) if path.is_dir() else None
    if root is not None:
        return read_kitti(root, clouds, problems)
    if clouds:
        raise ConfigError(f"--data={path}: clouds are read from KITTI's folders: label_2, velodyne and calib")
    if path.suffix == ".json":
        return read_coco(path, problems)
    if path.is_file():
        return read_yolo(path, problems)
    description = description_of(path)
    if description is not None:
        return read_yolo(description, problems)
    if label_files(path):
        return read_folder(path, problems)
    if {"images", "labels"} <= {part.name for part in path.iterdir()}:
        raise ConfigError(
            f"--data={path}: holds images and labels, but no data.yaml, which names the classes"
        )
    dataset = _class_folders(path, problems)
    if not dataset.declared:
        problems.check()
        raise ConfigError(
            f"--data={path}: holds no labels: neither COCO's .json, YOLO's data.yaml nor KITTI's label_2, "
            "nor a folder of pictures for each of at least two classes"
        )
    return dataset


def _class_folders(path: Path, problems: Problems) -> Dataset:
    """Read pictures of one class each, whose folder has the name of the class."""
    learned = path / "train" if (path / "train").is_dir() else path
    apart = next((path / name for name in APART if (path / name).is_dir()), None) if learned != path else None
    parts = [[] if root is None else _by_folder(root, problems) for root in (learned, apart)]
    names = sorted({frame.names[0] for frame in parts[0]})
    return Dataset(CLASS_FOLDERS, tuple(names) if len(names) > 1 else (), *parts)


def _by_folder(root: Path, problems: Problems) -> list[LabelledFrame]:
    frames = []
    for folder in sorted(root.iterdir()):
        for picture in pictures_in(folder) if folder.is_dir() and not is_hidden(folder, root) else ():
            size = size_of(picture, problems, picture)
            if size is not None:
                whole = objects([[0.0, 0.0, *map(float, size)]])
                frames.append(LabelledFrame(picture, (folder.name,), whole, np.zeros(1, bool)))
    return frames


@dataclass(frozen=True, slots=True)
class Samples:
    """The frames of a data set with labels of the chosen classes.

    Attributes:
        form: name of the label format. classes: names, by label.
        frames: for training. validation: for validation.
        labels, validation_labels: (N,) int64 labels of the objects of each frame.
        left_out: number of objects of other classes, by name.
    """

    form: str
    classes: tuple[str, ...]
    frames: list[LabelledFrame]
    labels: list[np.ndarray]
    validation: list[LabelledFrame]
    validation_labels: list[np.ndarray]
    left_out: Mapping[str, int]

    def counts(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        """Return (C,) the number of objects of each class."""
        return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(self.classes))

    def record(self) -> dict:
        """Return the entry of the manifest: numbers of frames and objects, and a hash of all labels."""
        digest = hashlib.sha256()
        for frame in (*self.frames, *self.validation):
            boxes = frame.xyxy if frame.solid is None else frame.solid
            digest.update(f"{frame.path.name} {frame.names}".encode() + boxes.tobytes())
        both = zip(self.classes, self.counts(self.labels), self.counts(self.validation_labels), strict=True)
        return {
            "format": self.form,
            "frames": len(self.frames),
            "validation_frames": len(self.validation),
            "objects": {name: [int(learned), int(apart)] for name, learned, apart in both},
            "sha256": digest.hexdigest(),
        }


def read_samples(
    path: Path,
    validation: str | None,
    wanted: Sequence[str],
    known: Sequence[str] = (),
    clouds: bool = False,
    mend: bool = False,
    boxes: bool = False,
    on_frame: Callable[[int], None] = lambda total: None,
) -> Samples:
    """Read, check and split a data set.

    Args:
        path: see `read_dataset`.
        validation: a share of the frames, the last by name, used if `path` has no validation frames itself;
            or another data set; None joins all frames.
        wanted: classes, see `choose_classes`.
        known: classes of the weights that are trained on, which come first.
        clouds: see `read_dataset`.
        mend: see `Problems`.
        boxes: refuse labels of whole pictures.
        on_frame: called for each picture that was decoded, with their number.

    Raises:
        ConfigError: labels are invalid (the message lists them), or there are no labels of the wanted
            classes.
    """
    problems = Problems(path, mend)
    dataset = read_dataset(path, problems, clouds)
    if boxes and dataset.form == CLASS_FOLDERS:
        raise ConfigError(
            f"--data={path}: the class of a folder has no boxes: train a classifier on it, as resnet18"
        )
    share = None if validation is None else _share(validation)
    if validation is not None and share is None:
        other = read_dataset(Path(validation), problems, clouds)
        declared = tuple(dict.fromkeys(dataset.declared + other.declared))
        dataset = Dataset(dataset.form, declared, dataset.frames, [*other.frames, *other.validation])
    frames, apart = dataset.frames, dataset.validation
    if not clouds:
        total = len(frames) + len(apart)
        frames, apart = (decode_all(part, problems, lambda: on_frame(total)) for part in (frames, apart))
    problems.check()
    if validation is None:
        frames, apart = [*frames, *apart], []
    elif not apart:
        frames, apart = split(frames, 0.2 if share is None else share, dataset.form == CLASS_FOLDERS)
    found = Counter(name for frame in (*frames, *apart) for name in frame.names)
    classes, label_of = choose_classes(wanted, dataset.declared, found, known)
    learned, labels = _labelled(frames, label_of, classes)
    scored, scored_labels = _labelled(apart, label_of, classes)
    if not sum(map(len, labels)):
        raise ConfigError(
            f"--data={path}: {len(frames)} frames to learn from hold no object of {', '.join(classes)}"
        )
    left_out = {name: count for name, count in found.items() if name not in label_of}
    return Samples(dataset.form, classes, learned, labels, scored, scored_labels, left_out)


def _share(text: str) -> float | None:
    """Parse a share of the frames; None for a path."""
    try:
        share = float(text)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ConfigError(f"--val={text}: must be a share between 0 and 1, or a data set")
    return share


def split(
    frames: Sequence[LabelledFrame], share: float, by_class: bool = False
) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Split off the last frames, as neighbouring frames of a recording are similar and must be on the same
    side.

    Args:
        frames: of the data set.
        share: of the frames that is split off.
        by_class: split the frames of each class, where a frame has one.

    Raises:
        ConfigError: there are fewer than two frames.
    """
    parts: dict[str, list[LabelledFrame]] = {}
    for frame in frames:
        parts.setdefault(frame.names[0] if by_class else "", []).append(frame)
    learned: list[LabelledFrame] = []
    apart: list[LabelledFrame] = []
    for part in parts.values():
        count = min(len(part) - 1, max(1, round(share * len(part))))
        learned += part[: len(part) - count]
        apart += part[len(part) - count :]
    if not apart:
        raise ConfigError(f"{len(frames)} frames: training needs two at least, one of them to score on")
    return learned, apart


def choose_classes(
    wanted: Sequence[str], declared: Sequence[str], found: Mapping[str, int], known: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes to train, and the label of each name in the data.

    Names are compared by their canonical form: `Pedestrian` and `person` are one class.

    Args:
        wanted: ``NAME`` or ``NAME=FROM,FROM``, which merges the names after ``=``; or one file with names;
            empty for all classes of the data.
        declared: names that the data set lists.
        found: number of objects by name.
        known: classes of the weights, which come first.

    Raises:
        ConfigError: a name is given twice, or is not in the data.
    """
    present = list(dict.fromkeys([*declared, *sorted(found)]))
    if not wanted:
        mine = {canonical(name): name for name in known}
        by_form: dict[str, list[str]] = {}
        for name in present:
            if name in found or name in declared:
                by_form.setdefault(canonical(name), []).append(name)
        first = [mine[form] for form in mine if form in by_form]
        classes = (*first, *(names[0] for form, names in by_form.items() if form not in mine))
        order = {canonical(name): label for label, name in enumerate(classes)}
        return classes, {name: order[canonical(name)] for name in present}
    if len(wanted) == 1 and Path(wanted[0]).is_file():
        wanted = read_class_names(Path(wanted[0]))
    label_of: dict[str, int] = {}
    classes = ()
    for text in wanted:
        name, equals, sources = text.partition("=")
        asked = [word.strip() for word in sources.split(",")] if equals else [name]
        matching = [
            one for one in present if one in asked or (not equals and canonical(one) == canonical(name))
        ]
        missing = [one for one in asked if one not in matching] if equals else [] if matching else [name]
        if missing or not name or name in classes:
            why = f"{missing[0]!r} is not in the data" if missing else "must be names, each once"
            raise ConfigError(f"--classes={text}: {why}; it has {', '.join(present) or 'no classes'}")
        for one in matching:
            if label_of.setdefault(one, len(classes)) != len(classes):
                raise ConfigError(f"--classes={text}: {one!r} already belongs to another class")
        classes += (name,)
    return classes, label_of


def _labelled(
    frames: Sequence[LabelledFrame], label_of: Mapping[str, int], classes: Sequence[str]
) -> tuple[list[LabelledFrame], list[np.ndarray]]:
    """Return the frames with objects of the chosen classes, and their labels.

    Objects of similar classes (a van, if cars are chosen) become ignored regions.
    """
    groups = {group(canonical(name)) for name in classes}
    kept, labels = [], []
    for frame in frames:
        chosen = np.array([name in label_of for name in frame.names], bool)
        alike = np.array([group(canonical(name)) in groups for name in frame.names], bool) & ~chosen
        regions = np.concatenate([frame.regions, frame.xyxy[alike]])
        kept.append(replace(frame.only(chosen), regions=regions))
        labels.append(np.array([label_of[name] for name in kept[-1].names], np.int64))
    return kept, labels
