"""A filter of classes and lowest scores of single classes; decoders that answer something else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perception_rt.cli.bench_labels import LabelledFrames, average_precision, scored_scenes
from perception_rt.model import bundle
from perception_rt.model.class_thresholds import check_classes, lowest_scores, parse_score_threshold
from perception_rt.model.manifest import ImageSpec
from perception_rt.model.runtime import Runtime
from perception_rt.model.task import DETECT2D
from perception_rt.model.torchscript import module_bytes, trace_module
from perception_rt.replay.score.truth import BoxTruth, Moment
from perception_rt.train.dataset.labels import LabelledFrame
from perception_rt.train.folder import score_bundle
from perception_rt.train.trainee import TrainingItem, find_trainee
from perception_rt.types import CameraFrame, ConfigError, ModelError

CLASSES = ("car", "person", "dog")
# One box of each class side by side, the dogs' best: cx of boxes 20 px wide, score, label.
ROWS = [[10.0, 0.5, 0], [40.0, 0.6, 1], *([70.0 + 0.1 * i, 0.9, 2] for i in range(3))]


class Rows(nn.Module):
    """Answers `ROWS` whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor([ROWS]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows + 0 * x.mean()


class RowDecoder(nn.Module):
    """Rows to boxes; images with a bright first row of the input get `bad` instead."""

    def __init__(self, bad: str = "") -> None:
        super().__init__()
        self.bad = bad

    def forward(
        self, outputs: list[torch.Tensor], height: int, width: int, score_threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = outputs[0][0]
        x = rows[:, 0]
        boxes = torch.stack([x - 10, torch.full_like(x, 5), x + 10, torch.full_like(x, 25)], 1)
        if self.bad == "rows":
            boxes = boxes[:2]
        if self.bad == "columns":
            boxes = boxes[:, :3]
        labels = rows[:, 2] if self.bad == "float labels" else rows[:, 2].long()
        return boxes, rows[:, 1], labels


class TwoValues(RowDecoder):
    def forward(
        self, outputs: list[torch.Tensor], height: int, width: int, score_threshold: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return outputs[0][0, :, :1].expand(-1, 4), outputs[0][0, :, 1]


class OneTensor(RowDecoder):
    def forward(
        self, outputs: list[torch.Tensor], height: int, width: int, score_threshold: float
    ) -> torch.Tensor:
        return outputs[0]


def save(path, decoder=None, **fields):
    source = bundle.ProgramSource(
        "torchscript", module_bytes(trace_module(Rows(), torch.zeros(1, 3, 32, 96))), ("x",), ("rows",)
    )
    return bundle.save_network(
        path,
        [source],
        decoder=decoder or RowDecoder(),
        name="rows",
        classes=CLASSES,
        input_spec=ImageSpec(size=(32, 96), resize="stretch", filter="bilinear", order="rgb"),
        licence="Apache-2.0",
        score_threshold=0.4,
        nms_threshold=1.0,
        **fields,
    )


IMAGE = np.zeros((1, 32, 96, 3), np.uint8)


def labels_of(runtime) -> list[int]:
    return runtime(IMAGE)[2].tolist()


def test_thresholds_and_classes_of_the_bundle_hold_and_can_be_changed(tmp_path):
    path = tmp_path / "rows.pt"
    save(path, score_thresholds={"person": 0.7}, classes_keep=["car", "person"])
    runtime = Runtime.open(path, "cpu")
    assert labels_of(runtime) == [0]
    runtime.class_thresholds = runtime.thresholds_of({"person": 0.55}, ())
    assert labels_of(runtime) == [1, 0]
    runtime.class_thresholds = runtime.thresholds_of({"car": 0.45, "dog": 0.95}, ["car", "dog"])
    assert labels_of(runtime) == [0]
    runtime.class_thresholds = runtime.thresholds_of({}, ["dog"])
    assert labels_of(runtime) == [2, 2, 2]
    with pytest.raises(ConfigError, match=r"class 'cra'.*did you mean car\?"):
        runtime.thresholds_of({}, ["cra"])
    with pytest.raises(ConfigError, match=r"class 'Dog'.*did you mean dog\?"):
        runtime.thresholds_of({"Dog": 0.1}, ())


def test_a_score_counts_weak_boxes_of_the_kept_classes(tmp_path):
    """Thresholds of single classes do not cut the curve of precision; what is not kept is not answered."""
    save(tmp_path / "rows.pt", score_thresholds={"car": 0.6, "person": 0.7}, classes_keep=["car", "person"])
    runtime = Runtime.open(tmp_path / "rows.pt", "cpu")
    assert labels_of(runtime) == []
    boxes = np.array([[0, 5, 20, 25], [30, 5, 50, 25], [60, 5, 80, 25]], np.float64)
    moment = Moment(0, boxes, np.arange(3), np.full(3, -1), np.zeros(3, bool))
    truth = BoxTruth("", "camera", ("car", "pedestrian", "dog"), [moment], flat=True)
    frames = LabelledFrames(lambda: iter([CameraFrame(IMAGE[0], False, 0, "camera")]), 1, truth, None)
    assert average_precision(runtime, frames, DETECT2D.sensor_data, lambda: None) == pytest.approx(1.0)
    _, classes = scored_scenes(runtime, frames, DETECT2D.sensor_data, lambda: None)
    assert classes == ["car", "pedestrian"]
    assert labels_of(runtime) == []  # they hold again

    cv2.imwrite(str(tmp_path / "a.png"), IMAGE[0])
    picture = LabelledFrame(tmp_path / "a.png", CLASSES, boxes.astype(np.float32), np.zeros(3, bool))
    item = TrainingItem(picture, np.arange(3))
    score = score_bundle(runtime, find_trainee("camera"), [item], CLASSES)
    assert [score["per_class"][name]["ap50"] for name in CLASSES] == pytest.approx([1, 1, 0])


def test_what_is_not_wanted_takes_no_place_among_the_best(tmp_path):
    path = tmp_path / "rows.pt"
    save(path, classes_keep=["car"], max_detections=2)  # the dogs score higher
    assert labels_of(Runtime.open(path, "cpu")) == [0]


@given(text=st.text(max_size=12) | st.from_regex(r"[a=]{1,3}=-?[0-9.einf]{1,4}", fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_a_threshold_is_read_or_refused(text):
    try:
        name, score = parse_score_threshold(text)
    except ConfigError:
        return
    assert name
    assert name == text.rpartition("=")[0].strip()
    assert 0 <= score <= 1


@pytest.mark.parametrize("text", ["car", "=0.4", "car=", "car=x", "car=1.5", "car=nan", "car=-0.1"])
def test_thresholds_of_another_form_are_refused(text):
    with pytest.raises(ConfigError, match="must be NAME=X"):
        parse_score_threshold(text)


def test_names_may_hold_an_equals_sign():
    assert parse_score_threshold("a=b=0.25") == ("a=b", 0.25)


def test_lowest_scores_by_label():
    np.testing.assert_array_equal(lowest_scores(CLASSES, {"dog": 0.3}, ()), [np.nan, np.nan, 0.3])
    np.testing.assert_array_equal(lowest_scores(CLASSES, {"dog": 0.3}, ["car"]), [np.nan, np.inf, np.inf])
    check_classes(CLASSES, CLASSES)


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (TwoValues(), "decoder returns 2 values: must be boxes, scores, labels"),
        (OneTensor(), "decoder returns Tensor"),
        (RowDecoder("rows"), r"\(2, 4\), \(5,\), \(5,\)"),
        (RowDecoder("columns"), r"\(5, 3\)"),
        (RowDecoder("float labels"), "labels torch.float32"),
    ],
)
def test_a_decoder_that_returns_something_else_is_a_model_error(tmp_path, decoder, reason):
    with pytest.raises(ModelError, match=reason):
        save(tmp_path / "rows.pt", decoder)
    assert not (tmp_path / "rows.pt").exists()


class Pair(nn.Module):
    """A module that answers by itself, but no index of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.score_threshold: float = 0.5
        self.nms_threshold: float = 0.5

    def forward(
        self, images: torch.Tensor, bgr: bool = False, score_threshold: float = -1.0, nms: float = -1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.zeros(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.long)


def test_a_whole_module_that_answers_too_little_is_a_model_error(tmp_path):
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    fields = {"name": "pair", "classes": ["a"], "input_spec": spec, "licence": "Apache-2.0"}
    with pytest.raises(ModelError, match="must be 4 tensors, boxes, scores, labels, image_index"):
        bundle.save(tmp_path / "pair.pt", Pair(), **fields)
