"""Labels for `perception-rt bench`, and the scores of a bundle on them.

Pictures have labels in the format of YOLO (`NAME.txt`: class, centre and size as fractions; or a polygon), of
KITTI's object benchmark, or of COCO (a `.json` for the folder). A recording has the labels of `perception-rt
replay --truth`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from perception_rt.types import BagError, CameraFrame, ConfigError, LidarFrame
from perception_rt.types.folders import is_hidden

LOWEST_SCORE = 0.01  # average precision needs low scores too
FOLDERS = ("labels", "label_2")  # next to the folder of the pictures
DESCRIPTIONS = ("data.yaml", "dataset.yaml")
NAME_FILES = (*DESCRIPTIONS, "classes.txt")

Frame = CameraFrame | LidarFrame


def add_labels_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--labels`."""
    parser.add_argument(
        "--labels",
        metavar="LABELS",
        help="for pictures: a folder of NAME.txt files (YOLO, KITTI) or a COCO .json (default: those beside "
        "the pictures); for a recording: as `replay --truth`",
    )


@dataclass(frozen=True, slots=True)
class LabelledFrames:
    """Frames with ground truth to score a bundle on.

    Attributes:
        frames: reads the frames, each with the stamp of its truth.
        count: number of frames.
        truth: a `BoxTruth`.
        places: the transforms between the frame of the truth and that of the sensor.
    """

    frames: Callable[[], Iterator[Frame]]
    count: int
    truth: Any
    places: Any


def average_precision(
    runtime: Any, labelled: LabelledFrames, data_of: Callable[[Any], np.ndarray], on_frame: Callable[[], None]
) -> float | None:
    """Return the mean average precision at IoU 0.5; None if there is no object of the classes.

    In space, IoU is that of footprints.
    """
    from perception_rt.replay.score.counting import precision_of

    scenes, classes = scored_scenes(runtime, labelled, data_of, on_frame)
    return precision_of(scenes, classes, labelled.truth.flat).figures["ap50"]


def scored_scenes(
    runtime: Any,
    labelled: LabelledFrames,
    data_of: Callable[[Any], np.ndarray],
    on_frame: Callable[[], None],
    lowest_score: float = LOWEST_SCORE,
) -> tuple[list[Any], list[str]]:
    """Run a bundle on labelled frames; return a `ScoredScene` for each, and the scored classes.

    Classes are compared by canonical name, and only classes that both the labels and the bundle have count;
    it has those that it keeps. Its thresholds of single classes do not apply.
    """
    from perception_rt.model.class_thresholds import one_threshold
    from perception_rt.replay.score.detection import as_seen, scenes_of
    from perception_rt.replay.score.outputs import Outputs, RecordedOutput
    from perception_rt.replay.score.scene import SceneBuilder
    from perception_rt.stage.road_users import canonical

    index: dict[str, int] = {}
    own = np.array([index.setdefault(canonical(name), len(index)) for name in runtime.manifest.classes])
    outputs = []
    for frame in labelled.frames():
        with one_threshold(runtime):
            boxes, scores, labels = runtime(data_of(frame), score_threshold=lowest_score)[:3]
        ids, stamp = [""] * len(scores), frame.stamp_ns
        outputs.append(
            RecordedOutput(
                stamp, stamp, frame.frame_id, boxes.astype(np.float64), scores, own[labels], ids, None
            )
        )
        on_frame()
    found = Outputs("bench", tuple(index), outputs)
    known = runtime.manifest.classes_keep or runtime.manifest.classes
    builder = SceneBuilder(labelled.truth, found, known, labelled.places)
    scenes, _ = scenes_of(as_seen(labelled.truth, found), builder)
    return scenes, builder.classes


# --- recordings ----------------------------------------------------------------------------------------


def of_recording(
    source: Path, labels: str, topics: Sequence[str], flat: bool, most: int
) -> LabelledFrames | None:
    """Return the first topic of a recording, labelled; None if `labels` have no boxes of its kind.

    Args:
        source: the recording.
        labels: as of `perception_rt.replay.score.load_truth`.
        topics: sensor topics; the first one is scored.
        flat: True for a camera.
        most: maximum number of labelled frames; the first ones are used.

    Raises:
        ConfigError, BagError: as `perception_rt.replay.score.load_truth`.
    """
    from perception_rt.replay.bag import Bag, frame_of
    from perception_rt.replay.score import BoxTruth, Places, load_truth

    with Bag(source) as bag:
        truths = [t for t in load_truth(labels, bag) if isinstance(t, BoxTruth) and t.flat == flat]
        if not truths or not topics:
            return None
        places = Places.of(bag)
    truth = replace(truths[0], moments=truths[0].moments[:most])

    def frames() -> Iterator[Frame]:
        with Bag(source) as bag:
            for message in bag.messages(topics[:1]):
                frame: Any = frame_of(message)
                if truth.nearest(frame.stamp_ns, 1_000_000) is not None:
                    yield frame

    return LabelledFrames(frames, len(truth.moments), truth, places)


# --- folders of pictures -------------------------------------------------------------------------------


def of_pictures(
    pictures: Sequence[Path], labels: Path | None, classes: Sequence[str], most: int
) -> LabelledFrames | None:
    """Return the pictures that have labels; None if there are none.

    Args:
        pictures: pictures of one folder.
        labels: a folder of `.txt`, or COCO's `.json`; None looks for them beside the pictures.
        classes: of the bundle; they name YOLO's class numbers if there is no file of names.
        most: maximum number of labelled pictures, the first ones by name.

    Raises:
        ConfigError: `labels` contain none of these pictures, or cannot be read.
        BagError: invalid labels, with file, line and value.
    """
    from perception_rt.replay.score import BoxTruth, Places

    found = _coco(pictures, labels) if labels is None or labels.suffix == ".json" else None
    if found is None:
        found = _texts(pictures, labels, classes, most)
    if not found:
        if labels is not None:
            raise ConfigError(f"--labels={labels}: labels none of the pictures in {pictures[0].parent}")
        return None
    names: dict[str, int] = {}
    chosen = list(found)[:most]
    least = max(boxes.least_height for boxes in found.values())
    moments = [found[path].moment(stamp, names) for stamp, path in enumerate(chosen)]
    truth = BoxTruth("labels", "", tuple(names), moments, flat=True, least_height=least)

    def frames() -> Iterator[Frame]:
        for stamp, path in enumerate(chosen):
            yield CameraFrame(_pixels(path), True, stamp, "")

    return LabelledFrames(frames, len(chosen), truth, Places())


def _pixels(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        raise BagError(f"{path}: not a picture")
    return np.asarray(image)


@dataclass(slots=True)
class _Boxes:
    """The labels of one picture: class names, boxes xyxy in px, and boxes to ignore."""

    names: list[str]
    xyxy: np.ndarray
    ignored: np.ndarray
    regions: np.ndarray
    least_height: float = 0.0

    def moment(self, stamp_ns: int, classes: dict[str, int]) -> Any:
        from perception_rt.replay.score.truth import Moment
        from perception_rt.stage.road_users import canonical

        labels = [classes.setdefault(canonical(name), len(classes)) for name in self.names]
        ids = np.full(len(labels), -1, np.int64)
        boxes = self.xyxy.reshape(-1, 4).astype(np.float64)
        return Moment(stamp_ns, boxes, np.array(labels, np.int64), ids, self.ignored, self.regions)


def _coco(pictures: Sequence[Path], labels: Path | None) -> dict[Path, _Boxes] | None:
    """Return the labels of a COCO `.json` by picture; None if there is none."""
    from perception_rt.train.dataset.labels import text_of

    folder = pictures[0].parent
    beside = (file for file in sorted(folder.glob("*.json")) if not is_hidden(file, folder))
    files = beside if labels is None else [labels]
    for file in files:
        try:
            data = json.loads(text_of(file))
        except (ValueError, RecursionError) as error:
            raise BagError(f"{file}: not JSON: {error}") from error
        if isinstance(data, dict) and {"images", "annotations", "categories"} <= data.keys():
            try:
                return _of_coco(data, pictures)
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise BagError(f"{file}: not COCO's labels: {type(error).__name__} {error}") from error
        if labels is not None:
            raise BagError(f"{file}: has no images, annotations and categories, as COCO's labels have")
    return None


def _of_coco(data: dict[str, Any], pictures: Sequence[Path]) -> dict[Path, _Boxes]:
    from perception_rt.train.dataset.coco import annotation_row

    names = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
    files = {entry["id"]: Path(str(entry["file_name"])) for entry in data["images"]}
    picture_of = _pictures_of(files, pictures)
    rows: dict[Path, list[tuple[str, list[float], bool]]] = {path: [] for path in picture_of.values()}
    for entry in data["annotations"]:
        row = annotation_row(entry, names, files.keys())
        if isinstance(row, str):
            raise ValueError(row)
        if min(entry["bbox"][2:]) < 0:
            raise ValueError(f"annotation {entry.get('id')}: bbox={entry['bbox']}: size must not be negative")
        path = picture_of.get(entry["image_id"])
        if path is not None:
            rows[path].append(row)
    found = {}
    for path, entries in rows.items():
        crowd = np.array([many for _, _, many in entries], bool)
        boxes = np.array([box for _, box, _ in entries], np.float64).reshape(-1, 4)
        found[path] = _Boxes([name for name, _, _ in entries], boxes, crowd, boxes[crowd])
    return found


def _pictures_of(files: dict[Any, Path], pictures: Sequence[Path]) -> dict[Any, Path]:
    """Return the picture of each image of a COCO file that has one in this folder, by id.

    A file may have the same names for several cameras (`cam0/1.jpg`, `cam1/1.jpg`), so the end of the path
    decides. Where it fits no picture, they may have been moved, and a base name counts that is there once.
    """
    by_name = {path.name: path for path in pictures}
    named = {key: by_name[file.name] for key, file in files.items() if file.name in by_name}
    found = {key: path for key, path in named.items() if _ends_with(path, files[key])}
    if not found:
        alike = Counter(file.name for file in files.values())
        found = {key: path for key, path in named.items() if alike[path.name] == 1}
    owners: dict[Path, Any] = {}
    for key, path in found.items():
        if path in owners:
            raise ValueError(f"images {owners[path]!r} and {key!r}: are both {path}")
        owners[path] = key
    return found


def _ends_with(path: Path, end: Path) -> bool:
    return Path(os.path.abspath(path)).parts[-len(end.parts) :] == end.parts


def _texts(
    pictures: Sequence[Path], labels: Path | None, classes: Sequence[str], most: int
) -> dict[Path, _Boxes]:
    """Return the YOLO or KITTI labels of each picture."""
    from perception_rt.model.importers.common import read_class_names
    from perception_rt.train.dataset.yolo import keypoint_values, label_file

    folder = pictures[0].parent
    asked = [labels] if labels is not None else [folder, *(folder.parent / name for name in FOLDERS)]
    if labels is None:
        asked.append(label_file(pictures[0]).parent)  # images/train and labels/train
    for place in asked:
        files = {path: place / f"{path.stem}.txt" for path in pictures}
        files = {path: file for path, file in files.items() if file.is_file()}
        if files:
            named, described = _above(place, NAME_FILES), _above(place, DESCRIPTIONS)
            names = list(classes) if named is None else read_class_names(named)
            keypoints = 0 if described is None else keypoint_values(described)
            chosen = islice(files.items(), most)
            return {path: _of_text(file, path, names, keypoints) for path, file in chosen}
    return {}


def _above(place: Path, names: Sequence[str]) -> Path | None:
    """Return the first file with one of these names, in a folder or the two above."""
    folders = (place, place.parent, place.parent.parent)
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def _of_text(file: Path, picture: Path, names: Sequence[str], keypoints: int) -> _Boxes:
    from perception_rt.train.dataset.labels import text_of
    from perception_rt.train.dataset.yolo import label_row

    lines = text_of(file).splitlines()
    first = next((line.split() for line in lines if line.strip()), [])
    if first and not first[0].replace(".", "").isdecimal():
        return _of_kitti(file)
    height, width = _pixels(picture).shape[:2]
    found, boxes = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = label_row(line, names, keypoints)
        if isinstance(row, str):
            raise BagError(f"{file}:{number}: {row}")
        found.append(row[0])
        boxes.append(row[1])
    xyxy = np.array(boxes, np.float64).reshape(-1, 4) * [width, height, width, height]
    return _Boxes(found, xyxy, np.zeros(len(found), bool), np.zeros((0, 4)))


def _of_kitti(file: Path) -> _Boxes:
    from perception_rt.replay.kitti import read_object_labels
    from perception_rt.replay.score.labels import LEAST_HEIGHT, image_labels

    names, boxes, ignored, regions = image_labels(read_object_labels(file))
    return _Boxes(names, boxes, ignored, regions, LEAST_HEIGHT)
