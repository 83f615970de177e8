"""Bundles of task detect3d: the same guarantees as those of images."""

import dataclasses

import numpy as np
import pytest
import torch

from perception_rt.model import bundle
from perception_rt.model.archive import read_manifest
from perception_rt.model.golden import golden_difference, golden_input
from perception_rt.model.manifest import CloudSpec, ImageSpec
from perception_rt.model.runtime import CloudRuntime, ImageRuntime, Runtime, scale_intensity
from perception_rt.sim.drive import Drive
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import BundleError, LidarFrame, ModelError
from test.detectors import TallBox, rewrite

SPEC = CloudSpec((-50.0, -50.0, -5.0, 50.0, 50.0, 5.0), "unused", 1.8)


def save_tall(path, **changes):
    fields = {
        "name": "tall",
        "classes": ("thing",),
        "licence": "Apache-2.0",
        "task": "detect3d",
        "input_spec": SPEC,
    }
    return bundle.save(path, TallBox(), **{**fields, **changes})


@pytest.fixture
def tall(tmp_path):
    path = tmp_path / "tall.pt"
    save_tall(path)
    return path


def block(n=50):
    """Ground, and a block of 2 x 1 x 1 m above it."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -0.5, 0, 0), (1, 0.5, 1, 1), (n, 4)).astype(np.float32)
    points[:8, :3] = [[x, y, z] for x in (-1, 1) for y in (-0.5, 0.5) for z in (0, 1)]
    ground = np.array([[x, 0, -1.8, 0] for x in range(20)], np.float32)
    return np.concatenate([ground, points])


def test_the_manifest_comes_back(tall):
    manifest = read_manifest(tall)
    assert (manifest.task, manifest.input, manifest.classes) == ("detect3d", SPEC, ("thing",))
    assert manifest.golden.shape == (16384, 4)
    assert all(len(box) == 7 for box in manifest.golden.boxes)
    assert bundle.verify(tall) == manifest


def test_open_gives_the_runtime_of_the_task(tall, make_bundle):
    assert isinstance(Runtime.open(tall, "cpu"), CloudRuntime)
    assert isinstance(Runtime.open(make_bundle(), "cpu"), ImageRuntime)


def test_the_golden_cloud_is_the_same_for_ever():
    cloud = golden_input(0, (16384, 4))
    assert (cloud.shape, cloud.dtype) == ((16384, 4), np.float32)
    assert np.isfinite(cloud).all()
    assert cloud[:, 3].min() >= 0
    assert cloud[:, 3].max() < 1
    assert float(cloud.sum(dtype=np.float64)) == pytest.approx(GOLDEN_SUM, rel=1e-9)
    assert (golden_input(0, (16384, 4)) == cloud).all()
    assert (golden_input(1, (16384, 4)) != cloud).any()
    assert (cloud[:, 2] < -1.7).mean() > 0.5  # ground
    assert (cloud[:, 2] > -1.5).sum() > 2000  # things on it


GOLDEN_SUM = 249209.1868468881


def test_a_cloud_to_detections(tall):
    runtime = Runtime.open(tall, "cpu")
    runtime.warmup()
    found = detect3d(runtime, LidarFrame(block(), 0, 1, "lidar"))
    np.testing.assert_allclose(found.xyzlwh_yaw, [[0, 0, 0.5, 2, 1, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9], atol=1e-6)
    assert found.labels.tolist() == [0]
    assert len(detect3d(runtime, LidarFrame(np.zeros((0, 4), np.float32), 0, 1, "lidar"))) == 0
    assert len(runtime(block(), score_threshold=0.95)[0]) == 0


def test_takes_read_only_views(tall):
    runtime, points = Runtime.open(tall, "cpu"), block()
    expected = runtime(points)
    wide = np.zeros((len(points), 6), np.float32)
    wide[:, :4] = points
    wide.flags.writeable = False
    found = detect3d(runtime, LidarFrame(wide[:, :4], 0, 1, "lidar"))
    np.testing.assert_array_equal(found.xyzlwh_yaw, expected[0])
    assert all(np.array_equal(a, b) for a, b in zip(runtime(torch.from_numpy(points)), expected, strict=True))


@pytest.mark.parametrize(
    ("kind", "sent", "expected"),
    [
        ("unit", [0.0, 0.4, 1.0], [0.0, 0.4, 1.0]),
        ("unit", [0.0, 51.0, 255.0], [0.0, 0.2, 1.0]),
        ("unit", [0.0, 51.0, 4000.0], [0.0, 0.2, 1.0]),  # 16 bits
        ("byte", [0.0, 0.2, 1.0], [0.0, 51.0, 255.0]),
        ("byte", [0.0, 51.0, 255.0], [0.0, 51.0, 255.0]),
        ("byte", [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ("unused", [0.0, 51.0, 0.5], [0.0, 51.0, 0.5]),
        ("unit", [], []),
    ],
)
def test_intensity_is_brought_to_the_scale_of_the_bundle(kind, sent, expected):
    points = torch.zeros(len(sent), 5)
    points[:, 3] = torch.tensor(sent)
    before = points.clone()
    scaled = scale_intensity(points, kind)
    torch.testing.assert_close(scaled[:, 3], torch.tensor(expected))
    assert torch.equal(points, before)
    assert torch.equal(scaled[:, [0, 1, 2, 4]], points[:, [0, 1, 2, 4]])


def test_a_cloud_of_8_bit_intensities_is_answered_like_one_of_0_to_1():
    runtime = Runtime.open("pillars", "cpu")
    points = Drive(3).lidar(2.0).points
    expected = runtime(points)
    assert len(expected[0]) >= 5
    found = runtime(points * np.array([1, 1, 1, 255], np.float32))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("points", [np.zeros((5, 3), np.float32), np.zeros((5, 4)), np.zeros(4, np.float32)])
def test_wrong_input_is_a_model_error(tall, points):
    with pytest.raises(ModelError, match=r"points must be \(N, 4\) float32"):
        Runtime.open(tall, "cpu")(points)


def test_what_a_module_raises_is_a_model_error(tall):
    with pytest.raises(ModelError, match="thirteen"):
        Runtime.open(tall, "cpu")(np.zeros((13, 4), np.float32))


def test_a_wrong_answer_is_refused(tall):
    golden = read_manifest(tall).golden
    box = list(golden.boxes[0])
    box[0] += 1.0
    rewrite(tall, golden=dataclasses.replace(golden, boxes=(tuple(box),)))
    with pytest.raises(BundleError, match="golden mismatch"):
        Runtime.open(tall, "cpu")


def test_a_turn_is_no_difference(tall):
    golden = read_manifest(tall).golden
    boxes = np.array(golden.boxes, np.float32)
    boxes[:, 6] += 2 * np.pi
    outputs = boxes, np.array(golden.scores, np.float32), np.array(golden.labels)
    assert golden_difference(golden, outputs) is None
    boxes[:, 6] += 0.2
    assert "0 of 1" in golden_difference(golden, outputs)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input": CloudSpec((0.0,) * 5, "unused")}, r"input.range"),
        ({"input": CloudSpec((0.0,) * 6, "loud")}, r"input.intensity='loud'"),
        ({"input": CloudSpec((0.0,) * 6, "unit", "high")}, r"input.sensor_height='high'"),
        ({"input": ImageSpec(None, "model", "model", "rgb")}, r"input.size"),
        ({"task": "detect2d"}, r"input.range"),
        ({"task": "detect4d"}, r"task='detect4d'"),
    ],
)
def test_a_bad_manifest_is_named(tall, changes, named):
    rewrite(tall, **changes)
    with pytest.raises(BundleError, match=named):
        read_manifest(tall)


def test_save_refuses_an_unknown_task(tmp_path):
    with pytest.raises(BundleError, match="task='detect4d'"):
        save_tall(tmp_path / "x.pt", task="detect4d")
