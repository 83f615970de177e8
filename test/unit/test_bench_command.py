"""perception-rt bench: every combination is measured or says why not."""

import json

import cv2
import numpy as np
import pytest

from perception_rt.cli.bench_labels import of_pictures
from perception_rt.cli.main import main
from perception_rt.model import bundle
from perception_rt.model.manifest import ImageSpec
from perception_rt.types import BagError
from test.detectors import BrightBox
from test.drives import TRUTH, TRUTH_3D, write_drive


def test_every_engine_of_a_bundle_is_measured(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.full((90, 160, 3), 120, np.uint8))
    options = ["--calls", "2", "--on", str(folder), "--out", str(tmp_path / "out")]
    assert main(["bench", "sim_camera", *options]) == 0
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert {(row["engine"], row["precision"]) for row in rows} >= {
        ("torchscript", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    }
    for row in rows:
        assert row["p99_ms"] >= row["p50_ms"] > 0, row
        assert row["memory_mib"] >= 0
    assert (tmp_path / "out" / "bench.png").stat().st_size > 1000
    assert "onnxruntime" in (tmp_path / "out" / "bench.txt").read_text()


def test_what_cannot_be_measured_is_named(tmp_path, capsys):
    for options, text in (
        (["--calls", "0"], "--calls=0"),
        (["--threads", "0"], "--threads=[0]"),
        (["--engine", "steam"], "engine='steam'"),
        (["--on", str(tmp_path)], str(tmp_path)),
    ):
        assert main(["bench", "sim_camera", *options]) == 2
        assert text in capsys.readouterr().err


def test_accuracy_is_told_where_labels_are(tmp_path, capsys):
    """`BrightBox` finds exactly what is bright: all of the labels are right, then some are not."""
    bundle_file, folder = tmp_path / "bright.pt", tmp_path / "images"
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    bundle.save(bundle_file, BrightBox(), name="b", classes=["Car"], input_spec=spec, licence="Apache-2.0")
    folder.mkdir()
    images, annotations = [], []
    for k in range(3):
        image = np.zeros((100, 200, 3), np.uint8)
        x, y = 20 + 30 * k, 30
        image[y : y + 40, x : x + 50] = 255
        cv2.imwrite(str(folder / f"{k}.png"), image)
        images.append({"id": k, "file_name": f"{k}.png"})
        annotations.append({"id": k, "image_id": k, "category_id": 7, "bbox": [x, y, 50, 40]})

    def ap50(*options) -> float | None:
        out = tmp_path / "out"
        fixed = ["--engine", "torchscript", "--calls", "1", "--on", str(folder), "--out", str(out)]
        assert main(["bench", str(bundle_file), *fixed, *map(str, options)]) == 0
        (row,) = json.loads((out / "bench.json").read_text())["rows"]
        return row["ap50"]

    def texts(line) -> None:
        for k, entry in enumerate(annotations):
            (folder / f"{k}.txt").write_text(line(*entry["bbox"]) + "\n")

    assert ap50() is None
    coco = tmp_path / "coco.json"
    categories = [{"id": 7, "name": "car"}]
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    assert ap50("--labels", coco) == 1
    annotations[0]["bbox"] = [120, 0, 20, 20]  # one of three is elsewhere: a miss and a false positive
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    assert 0.3 < ap50("--labels", coco) < 0.7
    annotations[0]["bbox"] = [20, 30, 50, 40]
    texts(lambda x, y, w, h: f"0 {(x + w / 2) / 200} {(y + h / 2) / 100} {w / 200} {h / 100}")
    assert ap50() == 1
    texts(lambda x, y, w, h: f"Car 0 0 0 {x} {y} {x + w} {y + h} 1.5 1.6 4 1 1 20 0")
    assert ap50("--frames", 2) == 1
    texts(lambda x, y, w, h: f"Cyclist 0 0 0 {x} {y} {x + w} {y + h} 1.5 1.6 4 1 1 20 0")
    assert ap50() is None  # no class in common
    for line, reason in (("3 .5 .5 .1 .1", "0.txt:1: class 3"), ("0 .5 .5", "0.txt:1: 2 values")):
        texts(lambda *_, line=line: line)
        assert main(["bench", str(bundle_file), "--on", str(folder)]) == 2
        assert reason in capsys.readouterr().err
    assert main(["bench", str(bundle_file), "--on", str(folder), "--labels", str(tmp_path)]) == 2
    assert "labels none of the pictures" in capsys.readouterr().err
    coco.write_text('{"images": [{}], "annotations": [], "categories": []}')
    assert main(["bench", str(bundle_file), "--on", str(folder), "--labels", str(coco)]) == 2
    assert "not COCO's labels" in capsys.readouterr().err


def test_labels_of_several_cameras_in_one_file_stay_apart(tmp_path):
    folders = [tmp_path / name for name in ("cam0", "cam1", "moved")]
    names = {0: "cam0/1.png", 1: "cam1/1.png", 2: "cam1/2.png"}
    for folder in folders:
        folder.mkdir()
        for name in ("1.png", "2.png"):
            cv2.imwrite(str(folder / name), np.zeros((20, 20, 3), np.uint8))

    def boxes() -> list:
        images = [{"id": key, "file_name": name} for key, name in names.items()]
        annotations = [
            {"id": key, "image_id": key, "category_id": 1, "bbox": [key, 0, 5, 5]} for key in names
        ]
        data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
        file = tmp_path / "coco.json"
        file.write_text(json.dumps(data))
        found = (of_pictures(sorted(folder.iterdir()), file, ["car"], 9) for folder in folders)
        return [[moment.boxes[:, 0].tolist() for moment in labelled.truth.moments] for labelled in found]

    assert boxes() == [[[0]], [[1], [2]], [[2]]]  # where they were moved, 1.png may be either
    names[3] = "cam1/1.png"
    with pytest.raises(BagError, match=r"images 1 and 3: are both .*cam1/1\.png"):
        boxes()


def test_labels_with_keypoints_are_boxes(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "1.txt").write_text("0 .5 .5 .5 .5 .1 .1 .9 .9\n")
    (tmp_path / "data.yaml").write_text("names: [car]\nkpt_shape: [2, 2]\n")
    labelled = of_pictures([tmp_path / "1.png"], None, ["car"], 9)
    assert labelled.truth.moments[0].boxes.tolist() == [[5, 5, 15, 15]]


def test_a_recording_is_scored_by_its_own_truth(tmp_path, capsys):
    bag = write_drive(tmp_path / "bag", seconds=0.3)
    for name, topic in (("sim_camera", TRUTH), ("pillars", TRUTH_3D)):
        options = [
            "--engine",
            "onnxruntime",
            "--precision",
            "fp32",
            "--calls",
            "1",
            "--out",
            tmp_path / "out",
        ]
        assert main(["bench", name, "--on", str(bag), "--labels", topic, *map(str, options)]) == 0
        (row,) = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
        assert 0.2 < row["ap50"] <= 1, row
    assert "AP50" in (tmp_path / "out" / "bench.txt").read_text()
    assert main(["bench", "sim_camera", "--on", str(bag), "--labels", "/nothing"]) == 2
    assert "neither a path nor a topic" in capsys.readouterr().err
