"""Training the lidar detector on the simulator, scoring it, and the bundle that is shipped."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perception_rt.cli.main import main
from perception_rt.model.bundle import save
from perception_rt.model.manifest import CloudSpec
from perception_rt.model.runtime import Runtime, resolve_bundle
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.lidar import MIN_POINTS
from perception_rt.train.drives import evaluation_seeds, training_seeds
from perception_rt.train.pillars.data import (
    FRAMES_PER_DRIVE,
    MOST_POINTS,
    REACH,
    STREETS,
    Clouds,
    cast,
    draw_batch,
    drive_samples,
    street_samples,
)
from perception_rt.train.pillars.network import BOX_CHANNELS, PILLAR
from perception_rt.train.pillars.score import evaluate
from perception_rt.train.pillars.task import PILLARS
from perception_rt.train.pillars.teacher import PillarsTeacher
from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.train.task import train, train_bundle
from perception_rt.train.teacher import SURE
from perception_rt.types import ConfigError, Detections3D
from test.detectors import TallBox

CPU = Hardware()
BOXES = (
    (12.0, 5.0, -1.0, 4.5, 1.8, 1.6, 0.3),
    (30.0, -8.0, -1.0, 1.7, 0.6, 1.7, 2.0),
    (-9.0, 3.0, -1.0, 0.6, 0.5, 1.7, -1.1),
)


def filled(boxes, each, seed=0):
    """A cloud of points strictly inside boxes, `each` per box."""
    rng, parts = np.random.default_rng(seed), []
    for x, y, z, *size, yaw in boxes:
        at = rng.uniform(-0.45, 0.45, (each, 3)) * size
        turn = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
        parts.append(np.column_stack((at[:, :2] @ turn + [x, y], at[:, 2] + z, np.full(each, 0.5))))
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_variation_moves_points_and_boxes_together(seed):
    boxes = np.array(BOXES, np.float32)
    clouds = Clouds([filled(boxes, 200)], [boxes], [np.array([0, 2, 1])], [np.ones(3, bool)], [True])
    batch = draw_batch(clouds, [0], np.random.default_rng(seed))
    assert not np.allclose(batch.boxes[:, :2], boxes[:, :2], atol=0.1)
    assert np.allclose(clouds.boxes[0], boxes)
    inside = np.zeros(len(batch.points), bool)
    for x, y, z, length, width, height, yaw in batch.boxes.tolist():
        at = batch.points[:, :3].numpy() - [x, y, z]
        along = at[:, 0] * math.cos(yaw) + at[:, 1] * math.sin(yaw)
        across = at[:, 1] * math.cos(yaw) - at[:, 0] * math.sin(yaw)
        inside |= (abs(along) < length / 2) & (abs(across) < width / 2) & (abs(at[:, 2]) < height / 2)
    assert inside.all()
    assert 0.6 * 600 < len(batch.points) <= 600


def test_intensities_vary_and_are_missing_from_some_clouds():
    points, boxes = filled(np.array(BOXES), 100), np.array(BOXES, np.float32)
    points[:, 3] = np.linspace(-0.1, 1, len(points))  # some drivers send what is negative
    clouds = Clouds([points], [boxes], [np.array([0, 2, 1])], [np.ones(3, bool)], [True])
    rng = np.random.default_rng(0)
    batches = [draw_batch(clouds, [0], rng) for _ in range(100)]
    assert all(set(batch.intensity.tolist()) <= set(points[:, 3].tolist()) for batch in batches)
    drawn = [batch.points[:, 3] for batch in batches]
    blind = [not values.any() for values in drawn]
    assert 3 <= sum(blind) <= 25
    seen = [values for values, dark in zip(drawn, blind, strict=True) if not dark]
    assert len({float(values.max()) for values in seen}) > 10
    assert all(values.isfinite().all() for values in seen)


@pytest.fixture(scope="module")
def clouds():
    return cast(training_seeds(0, 1), per_drive=3, workers=0)


def test_the_simulator_gives_clouds_with_marked_truth(clouds):
    assert len(clouds) == 3
    assert clouds.of_drive == [True, True, False]
    for points, boxes, labels, clear in zip(
        clouds.points, clouds.boxes, clouds.labels, clouds.clear, strict=True
    ):
        assert points.dtype == boxes.dtype == np.float32
        assert 5_000 < len(points) <= MOST_POINTS
        assert len(boxes) == len(labels) == len(clear)
    assert clouds.clear[0].any()


def test_a_third_of_the_clouds_are_of_streets(clouds):
    (seed,) = training_seeds(0, 1)
    samples = drive_samples(seed, 2) + street_samples(seed, 1)
    for points, sample in zip(clouds.points, samples, strict=True):
        near = sample.points[np.hypot(*sample.points[:, :2].T) < REACH]
        assert len(points) == min(len(near), MOST_POINTS)
    assert 3 * STREETS == FRAMES_PER_DRIVE


def test_a_short_training_lowers_the_loss(clouds):
    losses = []
    recipe = replace(PILLARS.recipe, steps=20, batch=1, learning_rate=4e-3, average=0.9)
    train(PILLARS, clouds, recipe, CPU, lambda progress: losses.append(progress.loss))
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_one_recipe_gives_one_network(clouds):
    recipe = replace(PILLARS.recipe, steps=2, batch=1)
    first, second = (train(PILLARS, clouds, recipe, CPU).state_dict() for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)


def test_training_leaves_a_bundle_with_recipe_and_score(tmp_path, monkeypatch):
    monkeypatch.setattr("perception_rt.train.pillars.task.CALIBRATION_DRIVES", 1)
    phases = set()
    recipe = replace(PILLARS.recipe, seed=5, frames=1, steps=1, batch=1)
    path = tmp_path / "tiny.pt"
    written = train_bundle(
        PILLARS, path, recipe, CPU, 1, 0, lambda phase, *_: phases.add(phase), teacher="pillars"
    )
    manifest = Runtime.open(tmp_path / "tiny.pt", device="cpu").manifest
    assert manifest == written
    assert (manifest.task, manifest.classes) == ("detect3d", SIM_CLASSES)
    assert manifest.input.range == (-32.0, -32.0, -3.5, 64.0, 32.0, 3.0)
    assert manifest.provenance["recipe"]["seed"] == 5
    assert manifest.provenance["score"]["frames"] == 1
    teacher = Runtime.open("pillars", device="cpu").manifest
    assert manifest.provenance["teacher"] == {"bundle": "pillars", "sha256": teacher.sha256}
    precisions = [program.precision for program in manifest.programs]
    # After one step the answers are near the threshold: 8 bits may give others, and are then left out.
    left_out = manifest.provenance.get("left_out", {})
    assert precisions + ["int8"] * len(left_out) == ["fp32", "fp32", "int8"]
    assert phases == {"simulate", "train", "evaluate"}


def test_what_differs_from_the_teacher_s_answers_on_drives_costs(clouds):
    teacher = PillarsTeacher("pillars", "cpu")
    batch = draw_batch(clouds, [0, 2], np.random.default_rng(0))
    sent = torch.cat((batch.points[:, :3], batch.intensity[:, None]), 1)[batch.frame == 0]
    answer = teacher._network.outputs(sent)[0].clone()
    raw = torch.cat((answer, torch.zeros_like(answer))).requires_grad_()
    assert teacher.loss(raw, batch).item() == pytest.approx(0.0, abs=1e-6)
    other = (raw.detach() + 0.5).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        loss = teacher.loss(other, batch)
    loss.backward()
    assert loss.item() > 0.1
    scores, boxes = other.grad[0].split([3, BOX_CHANNELS], 1)
    assert (scores >= 0).all()  # downwards, where they are too high
    sure = answer[0, :, :3].sigmoid().amax(1) > SURE
    assert 10 < sure.sum() < 1000
    assert (boxes[sure] > 0).all()
    assert not boxes[~sure].any()
    assert not other.grad[1].any()  # the teacher knows no streets


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["pillars", "--teacher", "sim_camera"], "--teacher=sim_camera: is no network of `train pillars`"),
        (["pillars", "--teacher", "bev_cluster"], "--teacher=bev_cluster: is no network of"),
        (["camera", "--teacher", "pillars"], "--teacher=pillars: is no network of `train camera`"),
        (
            ["pillars", "--teacher", "pillars", "--data", "x"],
            "--teacher=pillars: is for training on the simul",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *options]) == 2
    assert message in capsys.readouterr().err


def test_whoever_answers_the_truth_scores_one_in_every_band():
    seeds = evaluation_seeds(2)
    samples = iter([s for seed in seeds for s in drive_samples(seed, 1)])

    def runtime(points, score_threshold):
        sample = next(samples)
        assert len(points) == len(sample.points)
        seen = sample.truth[sample.truth_points > 0]
        return seen.xyzlwh_yaw, seen.scores, seen.labels

    runtime.manifest = SimpleNamespace(
        classes=SIM_CLASSES, input=SimpleNamespace(range=(-32, -32, -3, 64, 32, 3))
    )
    runtime.class_thresholds = np.full(len(SIM_CLASSES), np.nan)
    score = evaluate(runtime, seeds, 2)
    assert score["map"] == pytest.approx(1.0)
    assert score["min_points"] == MIN_POINTS
    assert list(score["bands"]) == ["0-20 m", "20-40 m", "over 40 m"]
    for band in score["bands"].values():
        assert band["map"] == pytest.approx(1.0)
    counted = [sum(row["truths"] for row in part["per_class"].values()) for part in score["bands"].values()]
    assert sum(counted) == sum(row["truths"] for row in score["per_class"].values())
    assert min(counted) > 0


def test_a_bundle_of_other_classes_is_not_scored(tmp_path):
    save(
        tmp_path / "other.pt",
        TallBox(),
        name="other",
        classes=("a", "b", "c"),
        task="detect3d",
        input_spec=CloudSpec(range=(-32, -32, -3, 64, 32, 3), intensity="unit"),
        licence="Apache-2.0",
    )
    with pytest.raises(ConfigError, match="classes="):
        evaluate(Runtime.open(tmp_path / "other.pt", device="cpu"), evaluation_seeds(1), 1)


@pytest.fixture(scope="module")
def shipped():
    return Runtime.open("pillars", device="cpu")


def test_the_shipped_bundle_finds_what_is_on_unseen_drives(shipped):
    score = evaluate(shipped, evaluation_seeds(20), frames=20)
    assert set(score["per_class"]) == set(SIM_CLASSES)
    assert score["map"] >= 0.85


@pytest.mark.parametrize("step", [PILLAR, -PILLAR])
def test_boxes_move_with_the_cloud(shipped, step):
    sample = drive_samples(evaluation_seeds(1)[0], 1)[0]
    moved = sample.points + np.array([step, step, 0, 0], np.float32)
    first, second = (Detections3D(*shipped(points, 0.6)) for points in (sample.points, moved))
    inner = first[abs(first.xyzlwh_yaw[:, :2] - [16, 0]).max(1) < 30]
    assert len(inner) >= 5
    away = second.xyzlwh_yaw[None, :, :2] - inner.xyzlwh_yaw[:, None, :2] - step
    nearest = np.hypot(away[..., 0], away[..., 1]).min(1)
    assert np.median(nearest) < 0.08
    assert (nearest < 0.3).mean() > 0.8


def test_the_shipped_bundle_says_how_it_was_made_and_is_small(shipped):
    assert resolve_bundle("pillars").stat().st_size < 8_000_000
    provenance = shipped.manifest.provenance
    assert provenance["score"]["map"] >= 0.89
    assert provenance["score"]["frames"] == 500
    first, last = provenance["score"]["seeds"]
    recipe = Recipe(**provenance["recipe"])
    assert not set(range(first, last + 1)) & set(training_seeds(recipe.seed, recipe.frames))
