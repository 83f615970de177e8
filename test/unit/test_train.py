"""Training on the simulator: from a few frames to a bundle, and the bundle that is shipped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.cli.main import main
from perception_rt.model.bundle import load, save_network
from perception_rt.model.engine import engine_names
from perception_rt.model.export import torchscript_program
from perception_rt.model.runtime import Runtime
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.blocks import fused
from perception_rt.train.camera.data import CROP, ImageBatch, draw_batch, drive_samples, render
from perception_rt.train.camera.loss import assign, elementwise_iou
from perception_rt.train.camera.network import CameraDecoder, CameraNetwork, PixelNetwork, all_cells, decode
from perception_rt.train.camera.score import evaluate
from perception_rt.train.camera.task import CAMERA, SPEC
from perception_rt.train.camera.teacher import CameraTeacher
from perception_rt.train.drives import evaluation_seeds, moments, shares, training_seeds
from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.train.task import rebuild_bundle, train, train_bundle
from perception_rt.train.teacher import SURE
from perception_rt.types import BundleError

CPU = Hardware()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def frames():
    return render(training_seeds(0, 2), per_drive=3, workers=0)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    torch.manual_seed(3)
    network = CameraNetwork(3)
    torch.nn.init.normal_(network.heads[1][1].weight, std=1.0)  # scores that differ from cell to cell
    path, names = tmp_path_factory.mktemp("grid") / "grid.pt", (("images",), ("raw",))
    example = torch.zeros(1, 3, 96, 160, dtype=torch.uint8)
    fields = {"name": "grid", "classes": "abc", "licence": "Apache-2.0"}
    save_network(
        path,
        [torchscript_program(PixelNetwork(fused(network)), example, *names)],
        decoder=CameraDecoder(3),
        input_spec=SPEC,
        score_threshold=0.0,
        nms_threshold=0.5,
        **fields,
    )
    return Runtime.open(path, "cpu")


def test_a_short_training_lowers_the_loss(frames):
    losses = []
    recipe = replace(CAMERA.recipe, steps=30, batch=2, average=0.9)
    train(CAMERA, frames, recipe, CPU, lambda progress: losses.append(progress.loss))
    assert len(losses) == 30
    assert np.mean(losses[-6:]) < 0.85 * np.mean(losses[:6])


def test_one_recipe_gives_one_network(frames):
    recipe = replace(CAMERA.recipe, steps=2, batch=2)
    first, second = (train(CAMERA, frames, recipe, CPU).state_dict() for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)


def test_training_leaves_a_bundle_with_recipe_and_score(tmp_path, monkeypatch):
    monkeypatch.setattr("perception_rt.train.camera.task.CALIBRATION_FRAMES", 2)
    phases = set()
    recipe = replace(CAMERA.recipe, seed=5, frames=2, steps=2, batch=2)
    written = train_bundle(
        CAMERA,
        tmp_path / "tiny.pt",
        recipe,
        CPU,
        2,
        workers=0,
        report=lambda phase, *_: phases.add(phase),
        teacher="sim_camera",
    )
    manifest = Runtime.open(tmp_path / "tiny.pt", device="cpu").manifest
    assert manifest == written
    assert manifest.classes == SIM_CLASSES
    assert manifest.provenance["recipe"]["seed"] == 5
    assert manifest.provenance["recipe"]["steps"] == 2
    assert manifest.provenance["score"]["frames"] == 2
    teacher = Runtime.open("sim_camera", device="cpu").manifest
    assert manifest.provenance["teacher"] == {"bundle": "sim_camera", "sha256": teacher.sha256}
    assert 0.0 <= manifest.provenance["score"]["ap50"] <= 1.0
    assert phases == {"simulate", "train", "evaluate"}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pt"]
    again = rebuild_bundle(CAMERA, tmp_path / "tiny.pt", tmp_path / "again.pt", 2)
    first, second = (load(tmp_path / name)[0].state_dict() for name in ("tiny.pt", "again.pt"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [p.precision for p in again.programs] == [p.precision for p in written.programs]
    assert again.provenance["recipe"] == written.provenance["recipe"]
    engine, precision = again.provenance["score"]["program"].split()
    assert engine in engine_names()
    assert precision in {program.precision for program in again.programs}
    with pytest.raises(BundleError, match="pillars: not trained by this recipe"):
        rebuild_bundle(CAMERA, "pillars", tmp_path / "other.pt", 2)


def test_what_differs_from_the_teacher_s_answers_costs(frames):
    teacher = CameraTeacher("sim_camera", "cpu")
    batch = draw_batch(frames, [0, 3], np.random.default_rng(0))
    sent = (batch.images * 255).round().to(torch.uint8)
    answer = torch.cat([teacher._network.outputs(one)[0].clone() for one in sent.split(1)])
    assert teacher.loss(answer, batch).item() == pytest.approx(0.0, abs=1e-6)
    other = (answer + 0.5).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        loss = teacher.loss(other, batch)
    loss.backward()
    assert loss.item() > 0.1
    scores, boxes = other.grad.split([3, 4], 1)
    assert (scores >= 0).all()  # downwards, where they are too high
    sure = answer[:, :3].sigmoid().amax(1) > SURE
    assert 10 < sure.sum() < 1000
    assert (boxes.mT[sure] > 0).all()
    assert not boxes.mT[~sure].any()


def test_the_shipped_bundle_finds_what_is_on_unseen_drives():
    runtime = Runtime.open("sim_camera", device="cpu")
    score = evaluate(runtime, evaluation_seeds(15), frames=60)
    assert score["frames"] == 60
    assert set(score["per_class"]) == set(SIM_CLASSES)
    assert score["ap50"] >= 0.80


def test_the_shipped_bundle_says_how_it_was_made_and_is_small():
    from perception_rt.model.runtime import resolve_bundle

    assert resolve_bundle("sim_camera").stat().st_size < 10_000_000
    provenance = Runtime.open("sim_camera", device="cpu").manifest.provenance
    assert provenance["score"]["ap50"] >= 0.80
    assert provenance["score"]["frames"] == 500
    first, last = provenance["score"]["seeds"]
    recipe = Recipe(**provenance["recipe"])
    assert not set(range(first, last + 1)) & set(training_seeds(recipe.seed, recipe.frames))


@given(st.integers(0, 9999), st.integers(1, 100_000))
def test_no_training_seed_is_an_evaluation_seed(seed, drives):
    learned = training_seeds(seed, drives)
    assert len(set(learned)) == drives
    assert learned[0] > evaluation_seeds(100_000)[-1]
    assert learned[-1] < training_seeds(seed + 1, 1)[0]


def test_samples_of_a_drive_are_spread_and_repeat():
    once, again = drive_samples(7, 3), drive_samples(7, 3)
    stamps = [sample.stamp_ns for sample in once]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] - stamps[0] > 20e9
    assert all(np.array_equal(a.image, b.image) for a, b in zip(once, again, strict=True))


def test_batches_keep_boxes_inside_and_on_their_objects(frames):
    batch = draw_batch(frames, range(6), np.random.default_rng(0))
    assert batch.images.shape == (6, 3, *CROP)
    assert 0.0 <= batch.images.min() < batch.images.max() <= 1.0
    assert (batch.boxes[:, :2] >= 0).all()
    assert (batch.boxes[:, 2:] <= torch.tensor(CROP[::-1])).all()
    assert (batch.boxes[:, 2:] > batch.boxes[:, :2]).all()
    assert len(batch.boxes) == len(batch.labels) == len(batch.image)
    assert batch.image.max() < 6


@settings(deadline=None, max_examples=15)
@given(st.integers(32, 200), st.integers(32, 200))
def test_there_is_a_cell_for_every_prediction(height, width):
    with torch.inference_mode():
        raw = CameraNetwork(3).eval()(torch.zeros(1, 3, height, width))
    assert raw.shape == (1, 7, len(all_cells(height, width, raw.device)))


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 400), st.floats(0, 400), st.floats(8, 250), st.floats(0.2, 5))
def test_every_object_has_cells_that_can_answer_it_exactly(x, y, extent, aspect):
    width, height = extent * aspect**0.5, extent / aspect**0.5
    box = torch.tensor([[x, y, x + width, y + height]])
    at = all_cells(1024, 1024, box.device)
    batch = ImageBatch(torch.zeros(1, 3, 1024, 1024), box, torch.zeros(1).long(), torch.zeros(1).long())
    image, cell, truth = assign(batch, at)
    assert 1 <= len(cell) <= 8  # four nearest of one level, or of two where the levels overlap
    assert not image.any()
    assert not truth.any()
    stride, box = at[cell, 2:], box.expand(len(cell), 4)
    centre, size = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
    raw = torch.cat(((centre - at[cell, :2]) / stride, (size / stride).log()), 1)
    torch.testing.assert_close(decode(raw, at[cell]), box, atol=0.01, rtol=0)


def test_a_cell_that_two_objects_claim_goes_to_the_smaller():
    boxes = torch.tensor([[105.0, 105, 133, 133], [111.0, 111, 127, 127]])
    batch = ImageBatch(torch.zeros(1, 3, 320, 320), boxes, torch.zeros(2).long(), torch.zeros(2).long())
    _, _, truth = assign(batch, all_cells(320, 320, boxes.device))
    assert truth.tolist() == [1] * 8  # four cells of each level that answers for the smaller one


def test_a_batch_without_objects_can_be_learned_from():
    empty = ImageBatch(
        torch.zeros(1, 3, 64, 64), torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long()
    )
    assert [len(part) for part in assign(empty, all_cells(64, 64, empty.boxes.device))] == [0, 0, 0]


def test_iou_of_hand_counted_boxes():
    a = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 2, 2], [0.0, 0, 1, 1]])
    b = torch.tensor([[0.0, 0, 4, 4], [1.0, 0, 3, 2], [5.0, 5, 6, 6]])
    torch.testing.assert_close(elementwise_iou(a, b), torch.tensor([1.0, 1 / 3, 0.0]))


def test_channel_order_and_batch_change_no_answer(detector):
    images = np.random.default_rng(1).integers(0, 256, (2, 270, 480, 3), dtype=np.uint8)
    boxes, _, _, index = detector(images)
    swapped = detector(np.ascontiguousarray(images[..., ::-1]), bgr=True)
    assert index.tolist() == sorted(index.tolist())
    np.testing.assert_array_equal(swapped[0], boxes)
    np.testing.assert_array_equal(detector(images[1:])[0], boxes[index == 1])


@pytest.mark.parametrize("size", [(540, 960), (375, 1242), (720, 405), (48, 900)])
def test_boxes_lie_in_the_native_image(detector, size):
    boxes, *_ = detector(torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8))
    assert len(boxes)
    assert (boxes >= 0).all()
    assert (boxes <= np.array([size[1], size[0]] * 2)).all()


def test_options_that_cannot_be_used_are_named(capsys):
    assert main(["train", "--frames", "0"]) == 2
    assert "frames=0" in capsys.readouterr().err
    assert main(["train", "--evaluate", "no_such_bundle"]) == 2
    assert "no_such_bundle" in capsys.readouterr().err
    assert main(["train", "camera", "--evaluate", "sim_camera"]) == 2
    assert "network=camera" in capsys.readouterr().err
    assert main(["train"]) == 2
    assert "name what to train" in capsys.readouterr().err


@given(st.integers(1, 1000), st.integers(1, 200))
def test_frames_are_shared_evenly_among_drives(total, drives):
    parts = shares(total, drives)
    assert len(parts) == drives
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


def test_the_moments_of_a_drive_are_spread_over_a_minute_and_repeat():
    times = moments(7, 12)
    assert times == moments(7, 12) != moments(8, 12)
    assert [int(t // 5) for t in times] == list(range(12))


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "perception-rt train --evaluate sim_camera" in capsys.readouterr().out
