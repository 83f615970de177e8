"""The registry of tasks: a task that is registered is known everywhere, and nothing else names one."""

from __future__ import annotations

import ast
from argparse import ArgumentParser
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

import perception_rt
from perception_rt.cli import train
from perception_rt.cli.bench import frames_of
from perception_rt.cli.demo.sensors import DETECTORS, SIMULATED
from perception_rt.codec.classification import encode_classification
from perception_rt.codec.detections import DetectionEncoder
from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.codec.segmentation import encode_segmentation
from perception_rt.component.graph import class_of
from perception_rt.model.archive import read_archive, read_manifest
from perception_rt.model.bundle import save, verify
from perception_rt.model.golden import golden_input
from perception_rt.model.importers.common import Imported
from perception_rt.model.runtime import ImageRuntime, Runtime
from perception_rt.model.specs import ImageSpec
from perception_rt.model.task import CLASSIFY, DETECT2D, DETECT3D, SEGMENT, TASKS, Task, find_task
from perception_rt.realtime.ledger import Outcome
from perception_rt.replay.summary import SCORES, summarise
from perception_rt.sim.drive import Drive
from perception_rt.types import BundleError, ConfigError, Detections2D, Detections3D
from perception_rt.types.classification import Classification
from perception_rt.types.segmentation import Segmentation
from test.detectors import BrightBox

ROOT = Path(perception_rt.__file__).parent
ACCOUNT = {"received": "1", **{outcome.value: "0" for outcome in Outcome}}


class ToyRuntime(ImageRuntime):
    """Runs bundles of the toy task."""


@pytest.fixture
def toy(monkeypatch) -> Task:
    """A task of images that only its registration makes known."""
    task = replace(
        DETECT2D,
        name="toy",
        node="",
        noise_shape=(1, 64, 96, 3),
        tolerances=(3.0, 0.05),
        golden_origin="photograph",
        runtime=f"{__name__}:ToyRuntime",
        recipe="",
    )
    monkeypatch.setitem(TASKS, task.name, task)
    return task


@pytest.fixture
def path(toy, tmp_path) -> Path:
    """A bundle of the toy task."""
    return saved(tmp_path / "toy.pt", toy)


def saved(path: Path, task: Task, golden: np.ndarray | None = None) -> Path:
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    fields = {"classes": ["bright"], "input_spec": spec, "licence": "Apache-2.0", "task": task.name}
    save(path, BrightBox(), name="toy", golden=golden, **fields)
    return path


def test_a_registered_task_has_bundles(toy, path):
    manifest = read_manifest(path)
    assert manifest.task == toy.name
    assert manifest.golden.shape == toy.noise_shape
    assert (manifest.golden.box_tolerance, manifest.golden.score_tolerance) == toy.tolerances
    verify(path)
    assert type(Runtime.open(path, "cpu")) is ToyRuntime


def test_the_origin_of_a_golden_picture_is_the_task_s(toy, tmp_path):
    picture = golden_input(1, (1, 64, 96, 3))
    assert read_manifest(saved(tmp_path / "toy.pt", toy, picture)).golden.origin == "photograph"


def test_a_bundle_of_a_task_that_is_not_registered_is_refused(toy, path, monkeypatch):
    monkeypatch.delitem(TASKS, toy.name)
    with pytest.raises(BundleError, match=f"task='toy': must be one of {', '.join(TASKS)}"):
        read_manifest(path)
    with pytest.raises(BundleError, match=f"task='toy': must be one of {', '.join(TASKS)}"):
        find_task("toy")


def test_another_task_s_function_refuses_it(path):
    runtime = perception_rt.open_bundle(path, device="cpu")
    with pytest.raises(ConfigError, match="is of task toy, not detect2d"):
        perception_rt.detect2d(runtime, np.zeros((64, 96, 3), np.uint8))


def test_bench_takes_what_the_task_takes(path, tmp_path):
    archive = read_archive(path)
    (tmp_path / "none.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds no photographs"):
        frames_of(archive, tmp_path)
    cv2.imwrite(str(tmp_path / "one.png"), np.full((4, 6, 3), (1, 2, 3), np.uint8))
    (found,) = frames_of(archive, tmp_path)
    np.testing.assert_array_equal(found, np.full((1, 4, 6, 3), (3, 2, 1), np.uint8))


def test_a_task_without_recipe_or_score_has_none(toy, path):
    parser = ArgumentParser()
    train.add_arguments(parser)
    given = parser.parse_args(["--evaluate", str(path), "--frames", "1", "--device", "cpu"])
    with pytest.raises(ConfigError, match="no recipe scores task toy"):
        train.run(given)
    found = Detections2D.empty()
    assert summarise(ACCOUNT, {0: found}, {0: found}, ("a",), toy.name)["map50"] is None


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_what_an_entry_names_is_there(task):
    assert issubclass(task.runtime_class(), Runtime)
    component = class_of("perception_rt.component", task.node)
    assert (task.node, task) == (component.NAME, component.TASK)
    assert component.TOPICS in {parameter.name for parameter in component.PARAMETERS}
    if task in (CLASSIFY, SEGMENT):  # the simulator has no truth for it
        return
    assert train.RECIPES[task.recipe]
    assert SCORES[task.name]
    assert DETECTORS[task.node] is component
    data = task.sensor_data(SIMULATED[task.name].frame(Drive(1, (96, 64)), 1.0, 5))
    assert data.ndim == len(task.noise_shape)
    assert data.shape[-1] == task.golden_channels


@pytest.mark.parametrize(
    ("task", "encode", "answers"),
    [
        (
            DETECT2D,
            DetectionEncoder(("a", "b")).encode,
            Detections2D(np.float32([[1, 2, 5, 9]]), np.float32([0.5]), np.array([1])),
        ),
        (
            DETECT3D,
            Detection3DEncoder(("a", "b")).encode,
            Detections3D(np.float32([[1, 2, 3, 4, 2, 1, 0]]), np.float32([0.5]), np.array([1])),
        ),
        (
            CLASSIFY,
            partial(encode_classification, classes=("a", "b")),
            Classification(np.float32([0.5]), np.array([1])),
        ),
        (SEGMENT, encode_segmentation, Segmentation(np.ones((2, 3), np.uint8))),
    ],
    ids=list(TASKS),
)
def test_answers_are_read_back_as_the_task_says(task, encode, answers):
    data = encode(answers, stamp_ns=7, frame_id="sensor")
    stamp, frame, found, *_ = task.decoder()(data, ("a", "b"))
    assert (stamp, frame, type(found)) == (7, "sensor", task.result)
    np.testing.assert_array_equal(found.labels, answers.labels)


def test_an_imported_network_is_a_detector_of_images_unless_it_says_otherwise():
    assert Imported.__dataclass_fields__["task"].default == DETECT2D.name


def test_nothing_but_the_registry_writes_the_name_of_a_task():
    # `perception_rt.detect2d` is a function: the table of public names holds its name.
    may = ROOT / "__init__.py", ROOT / "model/task.py"
    written = [path for path in ROOT.rglob("*.py") if path not in may]
    assert len(written) > 100
    for path in written:
        constants = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        lines = [node.lineno for node in constants if node.value in TASKS]
        assert not lines, f"{path.relative_to(ROOT)}: {lines}"
