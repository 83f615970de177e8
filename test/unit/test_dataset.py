"""Data sets of one's own: what is read, what is refused with file and line, how classes are chosen."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from perception_rt.cli.bench import picture_files
from perception_rt.train.dataset.coco import element_lines
from perception_rt.train.dataset.labels import SHOWN, LabelledFrame, Problems, read_picture, size_of
from perception_rt.train.dataset.read import choose_classes, read_dataset, read_samples, split
from perception_rt.types import ConfigError

NAMES = ("car", "pedestrian")
SIZE = (64, 48)  # width, height
BOXES = {  # by picture: class, box in px
    "a.png": [(0, (4, 8, 24, 40)), (1, (30, 10, 40, 44))],
    "b.png": [(1, (1, 2, 12, 30))],
    "c.png": [],
    "d.png": [(0, (10, 10, 60, 44))],
}


def write_pictures(folder: Path, names=BOXES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        cv2.imwrite(str(folder / name), pixels)


def coco(folder: Path, name="labels.json", **changes) -> Path:
    write_pictures(folder / "images")
    images = [
        {"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(BOXES, 1)
    ]
    annotations = []
    for image, boxes in enumerate(BOXES.values(), 1):
        for label, (x, y, right, bottom) in boxes:
            annotations.append({"id": len(annotations), "image_id": image, "category_id": label + 5})
            annotations[-1]["bbox"] = [x, y, right - x, bottom - y]
    categories = [{"id": 5 + i, "name": name} for i, name in enumerate(NAMES)]
    data = {"info": {"images": []}, "images": images, "annotations": annotations, "categories": categories}
    data = {**data, **changes}
    file = folder / name
    file.write_text(json.dumps(data, indent=1))
    return file


def yolo(folder: Path) -> Path:
    write_pictures(folder / "images")
    (folder / "labels").mkdir()
    for name, boxes in BOXES.items():
        lines = []
        for label, (x, y, right, bottom) in boxes:
            middle = (x + right) / 2 / SIZE[0], (y + bottom) / 2 / SIZE[1]
            lines.append(
                f"{label} {middle[0]} {middle[1]} {(right - x) / SIZE[0]} {(bottom - y) / SIZE[1]}\n"
            )
        if lines:
            (folder / "labels" / name).with_suffix(".txt").write_text("".join(lines))
    file = folder / "data.yaml"
    file.write_text(f"path: /somewhere/else\ntrain: images\nval: images\nnames: {list(NAMES)}\n")
    return file


def kitti(folder: Path) -> Path:
    write_pictures(folder / "training" / "image_2")
    (folder / "training" / "label_2").mkdir()
    for name, boxes in BOXES.items():
        rows = [
            f"{NAMES[label].title()} 0 0 0 {' '.join(map(str, box))} 1.5 2 4 0 1 9 0\n"
            for label, box in boxes
        ]
        (folder / "training" / "label_2" / name).with_suffix(".txt").write_text("".join(rows))
    return folder


WRITERS = {"coco": coco, "yolo": yolo, "kitti": kitti}


@pytest.mark.parametrize("form", WRITERS)
def test_each_format_says_the_same(tmp_path, form):
    WRITERS[form](tmp_path)
    problems = Problems(tmp_path)
    dataset = read_dataset(tmp_path, problems)
    assert not problems.count
    assert [frame.path.name for frame in dataset.frames] == list(BOXES)
    for frame, boxes in zip(dataset.frames, BOXES.values(), strict=True):
        assert [name.lower() for name in frame.names] == [NAMES[label] for label, _ in boxes]
        np.testing.assert_allclose(frame.xyxy, np.reshape([box for _, box in boxes], (-1, 4)), atol=1e-4)
        assert read_picture(frame.path).shape == (SIZE[1], SIZE[0], 3)
    assert dataset.validation == []


@pytest.mark.parametrize("form", WRITERS)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, form):
    WRITERS[form](tmp_path)
    before = [frame.names for frame in read_dataset(tmp_path, Problems(tmp_path)).frames]
    for file in tmp_path.rglob("*.*"):
        if file.suffix in (".json", ".yaml", ".txt"):
            file.write_text(file.read_text(), encoding="utf-8-sig")  # as of Notepad and Excel
    problems = Problems(tmp_path)
    assert [frame.names for frame in read_dataset(tmp_path, problems).frames] == before
    assert not problems.lines


def litter(folder: Path, name: str) -> None:
    """Copy a file of a folder as Jupyter, macOS and its archives do."""
    for place in (".ipynb_checkpoints", "__MACOSX", "."):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / f"._{name}").write_bytes(b"\0\5\x16\7")
        if place != ".":
            shutil.copy(folder / name, folder / place / name)


@pytest.mark.parametrize("form", WRITERS)
def test_copies_that_tools_leave_are_no_data(tmp_path, form):
    WRITERS[form](tmp_path)
    for file in sorted(file for file in tmp_path.rglob("*.*") if file.is_file()):
        litter(file.parent, file.name)
    problems = Problems(tmp_path)
    dataset = read_dataset(tmp_path, problems)
    assert not problems.lines
    assert [frame.path.name for frame in dataset.frames] == list(BOXES)


def test_copies_that_tools_leave_are_no_class(tmp_path):
    for place in ("stop", "yield", "__MACOSX/stop", ".ipynb_checkpoints", "stop/.ipynb_checkpoints"):
        write_pictures(tmp_path / place, ["0.png"])
    dataset = read_dataset(tmp_path, Problems(tmp_path))
    assert [str(frame.path.relative_to(tmp_path)) for frame in dataset.frames] == [
        "stop/0.png",
        "yield/0.png",
    ]
    assert [path.name for path in picture_files(tmp_path / "stop")] == ["0.png"]
    litter(tmp_path / "stop", "0.png")
    assert [path.name for path in picture_files(tmp_path / "stop")] == ["0.png"]


def test_a_folder_for_each_class(tmp_path):
    for part, count in (("train", 3), ("val", 1)):
        for name in ("stop", "yield"):
            write_pictures(tmp_path / part / name, [f"{i}.png" for i in range(count)])
    dataset = read_dataset(tmp_path, Problems(tmp_path))
    assert dataset.declared == ("stop", "yield")
    assert [frame.names for frame in dataset.frames] == [("stop",)] * 3 + [("yield",)] * 3
    assert len(dataset.validation) == 2
    samples = read_samples(tmp_path / "train", "0.34", ())
    assert [frame.names[0] for frame in samples.validation] == ["stop", "yield"]  # of each class one


def test_every_class_is_learned_where_its_pictures_lie_in_folders_of_its_folder(tmp_path):
    for name in ("go", "stop", "yield"):
        for day in ("day1", "day2"):
            write_pictures(tmp_path / name / day, ["0.png", "1.png"])
    samples = read_samples(tmp_path, "0.25", ())
    assert [len(part) for part in (samples.frames, samples.validation)] == [9, 3]
    assert samples.counts(samples.labels).tolist() == [3, 3, 3]
    assert {frame.path.parent.name for frame in samples.validation} == {"day2"}


def problems_of(path: Path) -> list[str]:
    problems = Problems(path)
    read_dataset(path, problems)
    with pytest.raises(ConfigError, match="do not fit"):
        problems.check()
    return problems.lines


def test_what_does_not_fit_in_coco_is_named_with_its_line(tmp_path):
    file = coco(tmp_path)
    data = json.loads(file.read_text())
    data["annotations"] += [
        {"id": 10, "image_id": 1, "category_id": 99, "bbox": [1, 1, 5, 5]},
        {"id": 11, "image_id": 77, "category_id": 5, "bbox": [1, 1, 5, 5]},
        {"id": 12, "image_id": 1, "category_id": 5, "bbox": [1, 1, float("nan"), 5]},
        {"id": 13, "image_id": 1, "category_id": 5, "bbox": [1, 1, 500, 5]},
        {"id": 14, "image_id": 1, "category_id": 5, "bbox": [1, 1, 0, 5]},
        {"id": 15, "image_id": 1, "category_id": 5, "bbox": "1 2 3 4"},
        {"id": 16, "image_id": 1, "category_id": [5], "bbox": [1, 1, 5, 5]},
        "nothing",
    ]
    data["images"] += [
        {"id": 8, "file_name": "gone.png", "width": 64, "height": 48},
        {"id": 9, "file_name": "a.png", "width": 640, "height": 480},
        {"id": 1, "file_name": "a.png"},
    ]
    file.write_text(json.dumps(data, indent=1))
    lines = file.read_text().split("\n")
    found = problems_of(tmp_path)
    expected = [
        ('"file_name": "gone.png"', "gone.png: is missing"),
        ('"width": 640', "stated 640x480 px, is 64x48"),
        ('"id": 1,', "stands there twice"),
        ('"id": 10', "category_id=99: no such class"),
        ('"id": 11', "image_id=77: no such image"),
        ('"id": 12', "must be finite"),
        ('"id": 13', "reaches outside of the picture (64x48)"),
        ('"id": 14', "has no area"),
        ('"id": 15', "must be 4 numbers"),
        ('"id": 16', "no such class"),
        ('"nothing"', "must be an object"),
    ]
    assert len(found) == len(expected)
    for line, (key, words) in zip(found, expected, strict=True):
        assert words in line
        name, number, _ = line.split(":", 2)
        assert name == str(file)
        assert key in "".join(lines[int(number) - 1 : int(number) + 4]), line


def test_what_does_not_fit_in_yolo_is_named_with_its_line(tmp_path):
    yolo(tmp_path)
    good = "0 0.5 0.5 0.2 0.2\n"
    rows = [
        "7 .5 .5 .1 .1\n",
        "0.5 .5 .5 .1 .1\n",
        "0 .5 .5\n",
        "0 nan .5 .1 .1\n",
        "0 .95 .5 .3 .1\n",
        "car\n",
    ]
    (tmp_path / "labels" / "a.txt").write_text(good + "\n" + good.join(rows))
    (tmp_path / "images" / "b.png").write_bytes(b"no picture")
    found = problems_of(tmp_path)
    assert len(found) == 7
    for line, number, words in zip(
        found[:6],
        (3, 5, 7, 9, 11, 13),
        (
            "class 7: must be from 0 to 1",
            "class 0.5",
            "2 values",
            "finite",
            "outside of the picture",
            "numbers",
        ),
        strict=True,
    ):
        assert line.startswith(f"{tmp_path}/labels/a.txt:{number}: "), line
        assert words in line
    assert found[6].startswith(f"{tmp_path}/labels/b.txt: picture {tmp_path}/images/b.png: cannot be read")


def test_keypoints_after_the_box_are_no_polygon(tmp_path):
    file = yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .25 .5 .1 .1 2 .9 .9 2\n")
    file.write_text(file.read_text() + "kpt_shape: [2, 3]\n")
    frame = read_dataset(tmp_path, Problems(tmp_path)).frames[0]
    np.testing.assert_allclose(frame.xyxy, [[24, 12, 40, 36]])
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .25 .5 .1 .1 .9 .9 .9 .9 .9 .9\n")
    assert "a.txt:1: 12 values: must be 4 of a box, and 6 of keypoints" in problems_of(tmp_path)[0]
    file.write_text(file.read_text().replace("[2, 3]", "[2, -3]"))
    with pytest.raises(ConfigError, match=r"kpt_shape=\[2, -3\]: must be"):
        read_dataset(tmp_path, Problems(tmp_path))


def test_what_does_not_fit_in_kitti_is_named_with_its_line(tmp_path):
    folder = kitti(tmp_path) / "training" / "label_2"
    row = "Car 0 0 0 {} 1.5 2 4 0 1 9 0\n"
    (folder / "a.txt").write_text(
        row.format("1 1 9 9") + "Car 1 2\n" + row.format("1 1 9 nan") + row.format("9 9 1 1")
    )
    (folder / "e.txt").write_text("")
    found = problems_of(tmp_path)
    assert [line.split(": ", 1)[0] for line in found] == [f"{folder}/a.txt:{n}" for n in (2, 3, 4)] + [
        f"{folder}/e.txt"
    ]
    for line, words in zip(found, ("15 columns", "finite", "has no area", "e.png: is missing"), strict=True):
        assert words in line


def test_a_picture_that_is_cut_short_is_found_before_the_training(tmp_path):
    yolo(tmp_path)
    picture = tmp_path / "images" / "d.png"
    picture.write_bytes(picture.read_bytes()[:-600])
    with pytest.raises(ConfigError, match=r"d\.png: cannot be"):
        read_samples(tmp_path, "0.25", ())
    samples = read_samples(tmp_path, "0.3", (), mend=True)
    assert [frame.path.name for frame in (*samples.frames, *samples.validation)] == [
        "a.png",
        "b.png",
        "c.png",
    ]


def test_many_problems_are_counted(tmp_path):
    yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").write_text("9 .5 .5 .1 .1\n" * 500)
    problems = Problems(tmp_path)
    read_dataset(tmp_path, problems)
    assert problems.count == 500
    with pytest.raises(ConfigError, match="500 labels do not fit") as error:
        problems.check()
    assert len(str(error.value).split("\n")) == SHOWN + 2
    assert "... 470 more" in str(error.value)


def test_mending_cuts_boxes_and_leaves_the_rest_out(tmp_path):
    yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").write_text("0 .95 .5 .3 .5\n9 .5 .5 .1 .1\n0 2 2 .1 .1\n1 .5 .5 .25 .5\n")
    samples = read_samples(tmp_path, "0.25", (), mend=True)
    np.testing.assert_allclose(samples.frames[0].xyxy, [[51.2, 12, 64, 36], [24, 12, 40, 36]], atol=1e-3)
    assert samples.labels[0].tolist() == [0, 1]


def test_mending_leaves_out_pictures_of_another_size(tmp_path):
    file = coco(tmp_path)
    data = json.loads(file.read_text())
    data["images"][0] |= {"width": SIZE[0] * 2, "height": SIZE[1] * 2}
    coco(tmp_path, images=data["images"])
    samples = read_samples(tmp_path, "0.3", (), mend=True)
    assert [frame.path.name for frame in (*samples.frames, *samples.validation)] == [
        "b.png",
        "c.png",
        "d.png",
    ]


def test_boxes_that_tools_rounded_over_the_edge_are_no_problem(tmp_path):
    boxes = [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [-1, 0, 66, 49]}]
    coco(tmp_path, annotations=boxes)
    samples = read_samples(tmp_path, "0.25", ())
    assert samples.frames[0].xyxy.tolist() == [[0, 0, 64, 48]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no lists images, annotations, categories"),
        ('{"images": 1, "annotations": [], "categories": []}', "no lists"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_files_that_are_no_labels_are_refused(tmp_path, text, words):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_dataset(tmp_path, Problems(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [a]", "must have names and train"),
        ("- 1", "must have names and train"),
        ("{names: [a], train: nowhere}", "'nowhere': no such folder"),
        ("names: [a\n", "not YAML"),
        ("{names: 3, train: images}", "must be a list of names"),
        ("{names: [a], train: images}", "none of 4 pictures has a file of labels"),
    ],
)
def test_descriptions_that_cannot_be_used_are_refused(tmp_path, text, words):
    write_pictures(tmp_path / "images")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_dataset(tmp_path, Problems(tmp_path))


def test_a_folder_without_labels_is_one_line(tmp_path):
    write_pictures(tmp_path)
    with pytest.raises(ConfigError, match="holds no labels") as error:
        read_dataset(tmp_path, Problems(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_dataset(tmp_path / "gone", Problems(tmp_path))
    kitti(tmp_path)
    with pytest.raises(ConfigError, match="has no folder velodyne"):
        read_dataset(tmp_path, Problems(tmp_path), clouds=True)


def test_several_files_of_labels_are_training_and_validation_or_a_question(tmp_path):
    coco(tmp_path, "instances_train2017.json")
    coco(tmp_path, "instances_val2017.json", annotations=[])
    dataset = read_dataset(tmp_path, Problems(tmp_path))
    assert sum(map(len, dataset.frames)) == 4
    assert sum(map(len, dataset.validation)) == 0
    (tmp_path / "instances_val2017.json").rename(tmp_path / "instances_more.json")
    with pytest.raises(ConfigError, match=r"give one of instances_more\.json, instances_train2017\.json"):
        read_dataset(tmp_path, Problems(tmp_path))
    assert len(read_dataset(tmp_path / "instances_more.json", Problems(tmp_path)).frames) == 4


def test_a_file_for_testing_is_the_validation_where_there_is_no_other(tmp_path):
    for part, count in (("train", 4), ("valid", 1), ("test", 2)):  # as Roboflow writes them
        write_pictures(tmp_path / part)
        file = coco(tmp_path / part, "_annotations.coco.json")
        data = json.loads(file.read_text())
        coco(tmp_path / part, file.name, images=data["images"][:count], annotations=[])
    dataset = read_dataset(tmp_path, Problems(tmp_path))
    assert (len(dataset.frames), len(dataset.validation)) == (4, 1)
    (tmp_path / "valid" / file.name).unlink()
    dataset = read_dataset(tmp_path, Problems(tmp_path))
    assert (len(dataset.frames), len(dataset.validation)) == (4, 2)


def test_crowds_are_regions(tmp_path):
    boxes = [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 30, 40], "iscrowd": 1}]
    coco(tmp_path, annotations=boxes)
    frame = read_dataset(tmp_path, Problems(tmp_path)).frames[0]
    assert len(frame) == 0
    assert frame.regions.tolist() == [[1, 2, 31, 42]]


def test_pictures_are_turned_as_they_are_shown(tmp_path):
    coco(tmp_path)
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpg", exif=exif)
    image = {"id": 1, "file_name": "a.jpg", "width": 20, "height": 40}
    coco(
        tmp_path,
        images=[image],
        annotations=[{"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 20, 20]}],
    )
    problems = Problems(tmp_path)
    (frame,) = read_dataset(tmp_path, problems).frames
    assert not problems.count
    assert read_picture(frame.path).shape == (40, 20, 3)
    assert read_picture(frame.path)[:18].min() > 200


def test_classes_are_chosen_renamed_and_joined():
    found = Counter({"Car": 5, "Van": 2, "Pedestrian": 3, "Person_sitting": 1, "Misc": 1})
    assert choose_classes((), (), found, ())[0] == ("Car", "Misc", "Pedestrian", "Van")
    classes, label_of = choose_classes((), (), found, ("pedestrian", "car", "cyclist"))
    assert classes == ("pedestrian", "car", "Misc", "Van")
    assert label_of == {"Car": 1, "Misc": 2, "Pedestrian": 0, "Person_sitting": 0, "Van": 3}
    classes, label_of = choose_classes(("vehicle=Car,Van", "pedestrian"), (), found, ())
    assert classes == ("vehicle", "pedestrian")
    assert label_of == {"Car": 0, "Van": 0, "Pedestrian": 1, "Person_sitting": 1}
    assert choose_classes((), ("b", "a"), Counter({"a": 1}), ()) == (("b", "a"), {"b": 0, "a": 1})


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (("cyclist",), "'cyclist' is not in the data; it has Car, Van"),
        (("a=Car", "b=Car"), "'Car' already belongs to another class"),
        (("Car", "Car"), "must be names, each once"),
        (("x=Car,Bus",), "'Bus' is not in the data"),
    ],
)
def test_classes_that_cannot_be_are_named(wanted, words):
    with pytest.raises(ConfigError, match=words):
        choose_classes(wanted, (), Counter({"Car": 1, "Van": 1}), ())


def test_what_could_be_taken_for_a_chosen_class_is_neither(tmp_path):
    folder = kitti(tmp_path) / "training" / "label_2"
    (folder / "a.txt").write_text(
        "Van 0 0 0 1 1 30 40 1.5 2 4 0 1 9 0\nCar 0 0 0 5 5 60 44 1.5 2 4 0 1 9 0\n"
    )
    samples = read_samples(tmp_path, "0.5", ("Car",))
    assert samples.frames[0].names == ("Car",)
    assert samples.frames[0].regions.tolist() == [[1, 1, 30, 40]]
    assert samples.left_out == {"Van": 1, "Pedestrian": 1}


@given(st.integers(2, 60), st.floats(0.01, 0.99))
def test_a_split_keeps_order_and_leaves_something_on_both_sides(count, share):
    frames = [
        LabelledFrame(Path(f"{i}.png"), (), np.zeros((0, 4), np.float32), np.zeros(0, bool))
        for i in range(count)
    ]
    learned, apart = split(frames, share)
    assert learned + apart == frames
    assert learned
    assert apart


def test_the_share_set_apart_is_checked(tmp_path):
    yolo(tmp_path)
    for share in ("0", "1", "2.5", "nan"):
        with pytest.raises(ConfigError, match="--val="):
            read_samples(tmp_path, share, ())
    with pytest.raises(ConfigError, match="no such file"):
        read_samples(tmp_path, "elsewhere", ())
    other = read_samples(tmp_path, str(tmp_path / "data.yaml"), ())
    assert len(other.frames) == len(other.validation) == 4


@given(st.lists(st.sampled_from(["{}", '{"a": [1, 2]}', "3", '"x,]"', "[\n]"])), st.booleans())
def test_lines_of_a_list_are_found_in_any_json(elements, first):
    listed = '"annotations": [' + ",".join(f"\n{one}" for one in elements) + "]"
    other = '"info": {"annotations": ["no"]}'
    text = "{" + ", ".join((listed, other) if first else (other, listed)) + "}"
    json.loads(text)
    lines = element_lines(text, "annotations")
    rows = text.split("\n")
    assert len(lines) == len(elements)
    for line, element in zip(lines, elements, strict=True):
        assert rows[line - 1].startswith(element.split("\n")[0])


def test_of_a_list_that_stands_there_twice_the_last_counts(tmp_path):
    file = coco(tmp_path)
    bad = '\n "annotations": [\n  1,\n  2,\n  3,\n  4,\n  5,\n  6]\n}'
    file.write_text(file.read_text().rstrip().removesuffix("}").rstrip() + "," + bad)
    first = file.read_text().split("\n").index("  1,") + 1
    places = [int(line.split(":")[1]) for line in problems_of(tmp_path)]
    assert places == list(range(first, first + 6))


def test_a_record_changes_with_the_labels(tmp_path):
    yolo(tmp_path)
    before = read_samples(tmp_path, "0.25", ()).record()
    assert before["objects"] == {"car": [1, 1], "pedestrian": [2, 0]}
    (tmp_path / "labels" / "b.txt").write_text("0 .5 .5 .1 .1\n")
    after = read_samples(tmp_path, "0.25", ()).record()
    assert after["sha256"] != before["sha256"]


def test_pictures_and_labels_without_a_list_of_classes_are_no_class_folders(tmp_path):
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ConfigError, match="holds images and labels, but no"):
        read_samples(tmp_path, "0.25", ())


def test_one_folder_of_pictures_is_no_data_set(tmp_path):
    write_pictures(tmp_path / "holiday")
    with pytest.raises(ConfigError, match="at least two classes"):
        read_samples(tmp_path, "0.25", ())


def test_a_detector_does_not_learn_from_classes_of_whole_pictures(tmp_path):
    for name in NAMES:
        write_pictures(tmp_path / name)
    with pytest.raises(ConfigError, match="the class of a folder has no boxes: train a classifier"):
        read_samples(tmp_path, "0.25", (), boxes=True)
    assert read_samples(tmp_path, "0.25", ()).classes == NAMES


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_turned_picture_has_the_size_that_training_sees(tmp_path, suffix):
    path = turned(tmp_path / f"turned.{suffix}")
    problems = Problems(tmp_path)
    assert size_of(path, problems, path) == read_picture(path).shape[1::-1] == SIZE[::-1]


def test_a_picture_that_training_cannot_read_is_found_before_it(tmp_path):
    for name in NAMES:
        write_pictures(tmp_path / name)
    turned(tmp_path / NAMES[0] / "turned.tiff")
    with pytest.raises(ConfigError, match=r"turned\.tiff: cannot be decoded by OpenCV: make it a PNG"):
        read_samples(tmp_path, "0.25", ())


def turned(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(path, exif=exif)
    return path
