"""Training on a user's folder: each network learns, is written as a bundle, and is scored as it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perception_rt.cli.main import main
from perception_rt.model.bundle import verify
from perception_rt.model.runtime import resolve_bundle
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.augment import AUGMENTATIONS, augmented, transform_of
from perception_rt.train.camera.data import CROP, drive_samples
from perception_rt.train.dataset.labels import LabelledFrame
from perception_rt.train.dataset.read import read_samples
from perception_rt.train.fit import fit
from perception_rt.train.folder import FolderSettings, draw_items, prepare, recipe_of, weights_of_items
from perception_rt.train.learner import TrainingData
from perception_rt.train.pictures import training_picture
from perception_rt.train.recipe import Hardware
from perception_rt.train.score import LOWEST_SCORE, detection_score
from perception_rt.train.trainee import TrainingItem, find_trainee
from perception_rt.train.weights import Weights, read_weights, started
from perception_rt.types import BundleError, ConfigError

PICTURES = 8
QUICK = ["--steps", "4", "--batch", "2", "--precision", "32", "--val", "0.25"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Simulated pictures with YOLO's labels."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "classes.txt").write_text("\n".join(SIM_CLASSES) + "\n")
    for number, sample in enumerate(drive_samples(3, PICTURES)):
        cv2.imwrite(str(folder / f"{number}.jpg"), sample.image[:, :, ::-1])
        height, width = sample.image.shape[:2]
        low, high = np.split(
            sample.truth.xyxy / [width, height] * 1.0 if False else sample.truth.xyxy, 2, axis=1
        )
        boxes = np.concatenate([(low + high) / 2, high - low], 1) / [width, height, width, height]
        rows = [
            f"{label} {' '.join(map(str, box))}\n"
            for label, box in zip(sample.truth.labels, boxes, strict=True)
        ]
        (folder / f"{number}.txt").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def samples(data):
    return read_samples(data, "0.25", ())


def step(trainee, samples, weights=None):
    """A network after a step of training, its batch and the losses before and after."""
    items = trainee.items(samples.frames, samples.labels)
    torch.manual_seed(0)
    network, _ = started(trainee.make, trainee.names(samples.classes), weights)
    batch = trainee.draw(items[:2], np.random.default_rng(0))
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        loss = trainee.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return network.eval(), batch, losses


@pytest.mark.parametrize(
    "name", ["camera", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_detectors_learn_from_a_batch_and_answer_in_px_of_the_picture(samples, name):
    trainee = find_trainee(name)
    network, _, losses = step(trainee, samples)
    assert losses[-1] < losses[0]
    items = trainee.items(samples.validation, samples.validation_labels)
    with torch.inference_mode():
        boxes, scores, labels = trainee.predict(network, items[0])
    assert boxes.shape == (len(scores), 4)
    assert (scores >= LOWEST_SCORE).all()
    assert set(labels.tolist()) <= {0, 1, 2}
    assert (boxes >= 0).all()
    assert (boxes <= [960, 540, 960, 540]).all()


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16"])
def test_the_heads_of_other_detectors_are_taken_over_by_class(name):
    trainee = find_trainee(name)
    old, new = ("__background__", "a", "b"), ("__background__", "b", "c", "a")
    torch.manual_seed(0)
    weights = _weights(trainee.make(len(old)), old)
    torch.manual_seed(1)
    network, fresh = started(trainee.make, new, weights)
    assert fresh
    for key in fresh:
        each = len(weights.state[key]) // len(old)
        before = weights.state[key].reshape(each, len(old), -1)
        after = network.state_dict()[key].reshape(each, len(new), -1)
        for here, there in ((0, 0), (1, 2), (3, 1)):
            assert torch.equal(after[:, here], before[:, there]), key
    same = [
        key for key, value in network.state_dict().items() if key not in fresh and value.is_floating_point()
    ]
    assert all(torch.equal(network.state_dict()[key], weights.state[key]) for key in same)


def _weights(network, classes):
    return Weights({key: value.clone() for key, value in network.state_dict().items()}, classes, {})


def test_boxes_of_a_class_lie_together_in_a_two_stage_head():
    trainee = find_trainee("fasterrcnn_mobilenet_v3_large_320_fpn")
    old, new = ("__background__", "a"), ("__background__", "b", "a")
    weights = _weights(trainee.make(2), old)
    network, _ = started(trainee.make, new, weights)
    key = "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(network.state_dict()[key][8:], weights.state[key][4:])
    assert torch.equal(network.state_dict()[key][:4], weights.state[key][:4])


def test_a_shipped_bundle_is_a_start_whose_answers_stay():
    """Cyclists first: the rows move, and the network answers the same under other labels."""
    weights = read_weights("sim_camera")
    trainee = find_trainee("camera")
    same, fresh = started(trainee.make, SIM_CLASSES, weights)
    assert not fresh
    moved, _ = started(trainee.make, ("Cyclist", "tree", "car", "person"), weights)
    assert all(parameter.requires_grad for parameter in moved.parameters())
    picture = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        one, other = same.eval()(picture), moved.eval()(picture)
    torch.testing.assert_close(one[:, [2, 0, 1]], other[:, [0, 2, 3]])
    torch.testing.assert_close(one[:, 3:], other[:, 4:])


def test_weights_of_another_network_are_refused():
    with pytest.raises(BundleError, match="of another network"):
        started(find_trainee("camera").make, SIM_CLASSES, read_weights("pillars"))
    with pytest.raises(BundleError, match="of another network"):
        started(find_trainee("resnet18").make, ("a", "b"), read_weights("bev_cluster"))


def test_a_pth_with_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(BundleError, match="was not loaded"):
        read_weights(str(tmp_path / "trap.pth"))
    assert not (tmp_path / "trapped").exists()


def test_classifiers_learn_the_boxes_of_a_detection_data_set(samples):
    trainee = find_trainee("mobilenet_v3_small")
    items = trainee.items(samples.frames, samples.labels)
    assert len(items) > len(samples.frames)
    assert {len(item.labels) for item in items} == {1}
    network, batch, losses = step(trainee, samples)
    assert batch.images.shape == (2, 3, 224, 224)
    assert losses[-1] < losses[0]
    answers = [trainee.predict(network, item) for item in items[:4]]
    score = trainee.score(items[:4], answers, samples.classes)
    assert score["accuracy"] == np.mean(
        [int(a == item.labels[0]) for a, item in zip(answers, items, strict=False)]
    )


def test_heads_that_only_training_has_count_for_less():
    class Answer(tuple):
        pass

    trainee = find_trainee("resnet18")
    logits = torch.tensor([[2.0, 0.0]])

    class Batch:
        images, labels = None, torch.tensor([0])

    plain = trainee.loss(lambda images: logits, Batch)
    both = trainee.loss(lambda images: Answer((logits, logits)), Batch)
    torch.testing.assert_close(both, plain * 1.3)


def test_pillars_learn_from_what_the_camera_sees_of_a_cloud(tmp_path):
    from perception_rt.train.pillars.trainee import points_in, visible_points

    _write_kitti(tmp_path)
    samples = read_samples(tmp_path, "0.5", (), clouds=True)
    assert samples.classes == ("Car",)
    frame = samples.frames[0]
    points = visible_points(frame)
    assert 0 < len(points) < 2000
    assert (points[:, 0] > 0).all()
    assert points_in(points, frame.solid).tolist() == [300]
    file = frame.path
    bright = np.fromfile(file, "<f4").reshape(-1, 4) * np.float32([1, 1, 1, 255])
    bright.tofile(file.with_name("bytes.bin"))
    scaled = visible_points(replace(frame, path=file.with_name("bytes.bin")))
    np.testing.assert_allclose(scaled, points, atol=1e-4)
    trainee = find_trainee("pillars")
    items = trainee.items(samples.frames, samples.labels)
    network, batch, losses = step(trainee, samples)
    assert batch.clear.tolist() == [True]
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        boxes, scores, _ = trainee.predict(network, items[0])
    assert boxes.shape == (len(scores), 7)


def test_objects_of_clouds_count_without_a_box_in_the_image_and_hidden_ones_alone_are_refused(tmp_path):
    _write_kitti(tmp_path)
    for file in (tmp_path / "label_2").iterdir():
        file.write_text(file.read_text().replace("500 150 650 280", "0 0 0 0"))
    settings = FolderSettings("pillars", str(tmp_path), "0.5")
    prepared = prepare(settings)
    (item,) = prepared.examples
    assert item.frame.ignored.tolist() == [False]
    answer = item.frame.solid, np.ones(1, np.float32), item.labels
    assert prepared.trainee.score([item], [answer], ("Car",))["ap50"] == pytest.approx(1)
    last = tmp_path / "label_2" / "000001.txt"
    last.write_text(last.read_text().replace("Car 0 0", "Car 0 3"))
    with pytest.raises(ConfigError, match="each of 1 objects to score on is ignored"):
        prepare(settings)


def _write_kitti(folder: Path) -> None:
    """Two frames: a car 12 m ahead with 300 points, and clutter all around."""
    for name in ("label_2", "calib", "velodyne"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        car = rng.uniform(-0.45, 0.45, (300, 3)) * [4.0, 1.8, 1.5] + [12.0, 0.5, -0.9]
        around = rng.uniform([-30, -30, -1.8], [30, 30, -1.7], (1700, 3))
        points = np.column_stack([np.concatenate([car, around]), np.full(2000, 0.5)]).astype("<f4")
        points.tofile(folder / "velodyne" / f"{number:06d}.bin")
        (folder / "calib" / f"{number:06d}.txt").write_text(
            "P2: 700 0 621 0 0 700 187 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\n"
            "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
        )
        # Camera: x = -0.5, y = 0.9 + half the height at the bottom, z = 12; ry of a car that points ahead.
        (folder / "label_2" / f"{number:06d}.txt").write_text(
            "Car 0 0 0 500 150 650 280 1.5 1.8 4.0 -0.5 1.65 12 -1.5707963\n"
        )


# --- augmentation, weights, scores ---------------------------------------------------------------------


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_boxes_follow_every_augmentation(name):
    """A bright square on a dark picture: its box stays around it."""
    image, box = np.full((120, 160, 3), 20, np.uint8), torch.tensor([[40.0, 30, 80, 70]])
    image[30:70, 40:80] = 220
    transform, rng = transform_of([name]), np.random.default_rng(0)
    seen = 0
    for _ in range(12):
        varied, boxes, labels = augmented(transform, image, box, torch.tensor([2]), rng)
        assert varied.dtype == torch.uint8
        assert len(boxes) == len(labels)
        grey = varied.float().mean(0)
        if not len(boxes) or grey.max() - grey.min() < 40:  # cut out, or nothing else is left
            continue
        seen += 1
        assert labels.tolist() == [2]
        left, top, right, bottom = boxes[0].round().int().tolist()
        bright = grey > (grey.max() + grey.min()) / 2
        rows, columns = (bright.any(1 - axis).nonzero()[:, 0] for axis in (0, 1))
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        slack = 6 if name in ("turn", "blur") else 2
        assert np.abs(np.array(found) - [left, top, right, bottom]).max() <= slack
    assert seen


def test_a_seed_decides_the_augmentation_and_nothing_else_changes():
    image, nothing = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), torch.zeros(0, 4)
    transform, labels = transform_of(["flip", "colour", "blur"]), torch.zeros(0, dtype=torch.int64)
    before = torch.random.get_rng_state()
    one, other, third = (
        augmented(transform, image, nothing, labels, np.random.default_rng(seed))[0] for seed in (5, 5, 6)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(before, torch.random.get_rng_state())


def test_windows_of_small_pictures_are_filled_up(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 200, np.uint8))
    frame = LabelledFrame(tmp_path / "a.png", ("x",), np.float32([[10, 10, 30, 30]]), np.zeros(1, bool))
    batch = find_trainee("camera").draw(
        [TrainingItem(frame, np.zeros(1, np.int64))], np.random.default_rng(0)
    )
    assert batch.images.shape == (1, 3, *CROP)
    assert len(batch.boxes) == 1


def test_unlabelled_regions_are_grey_and_labelled_boxes_in_them_are_not(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 200, np.uint8))
    frame = LabelledFrame(
        tmp_path / "a.png",
        ("x",),
        np.float32([[10, 10, 20, 20]]),
        np.zeros(1, bool),
        np.float32([[0, 0, 40, 30]]),
    )
    shown = training_picture(TrainingItem(frame, np.zeros(1, np.int64)))
    assert (shown[10:20, 10:20] == 200).all()
    assert (shown[:10, :40] == 114).all()
    assert (shown[30:] == 200).all()


def test_class_weights_draw_what_holds_the_class():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, bool)
    items = [
        TrainingItem(LabelledFrame(Path("x"), (), *nothing), np.array(labels, np.int64))
        for labels in ([0], [0, 1], [0], [], [0])
    ]
    assert weights_of_items(items, ("a", "b"), ()) is None
    assert weights_of_items(items, ("a", "b"), ("b=3",)).tolist() == [1, 3, 1, 1, 1]
    assert weights_of_items(items, ("a", "b"), ("balanced",)).tolist() == [1, 2, 1, 1, 1]
    for wrong in ("c=2", "a=0", "a=x", "a", "a=inf"):
        with pytest.raises(ConfigError, match="--class-weights="):
            weights_of_items(items, ("a", "b"), (wrong,))


def test_a_recipe_is_made_for_the_number_of_frames():
    recipe = find_trainee("camera").recipe
    few = recipe_of(recipe, FolderSettings("camera", ""), 3)
    assert (few.batch, few.steps, few.rounds) == (3, 1000, 20)
    many = recipe_of(recipe, FolderSettings("camera", "", epochs=2), 8000)
    assert (many.batch, many.steps, many.rounds) == (8, 2000, 2)
    assert recipe_of(recipe, FolderSettings("camera", "", steps=7, batch=4, seed=3), 50).steps == 7


def test_scores_are_those_of_a_hand_counted_case():
    frame = LabelledFrame(
        Path("x"),
        ("a", "a", "b"),
        np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]]),
        np.array([False, False, True]),
        np.float32([[40, 40, 60, 60]]),
    )
    answer = (
        np.float32([[0, 0, 10, 10], [41, 41, 59, 59], [70, 70, 80, 80], [21, 0, 31, 10]]),
        np.float32([0.9, 0.8, 0.7, 0.6]),
        np.zeros(4, np.int64),
    )
    score = detection_score([frame], [np.array([0, 0, 1])], [answer], ("a", "b"))
    assert list(score["per_class"]) == ["a"]  # b need not be found
    assert score["per_class"]["a"]["truths"] == 2
    assert score["ap50"] == pytest.approx(
        (51 + 50 * 2 / 3) / 101, abs=1e-3
    )  # the one in the region counts not
    assert score["threshold"] == pytest.approx(0.6)


def test_a_network_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match="network=yolo: must be camera, pillars, one of fasterrcnn"):
        find_trainee("yolo")
    with pytest.raises(ConfigError, match="network=maskrcnn_resnet50_fpn"):
        find_trainee("maskrcnn_resnet50_fpn")
    with pytest.raises(ConfigError, match="--augment=rotate: must be of flip, colour"):
        find_trainee("camera").use(["rotate"])


def test_reading_in_other_processes_changes_nothing(samples):
    """The same batches in the same order, whoever reads and augments them."""
    trainee = find_trainee("camera")
    items = trainee.items(samples.frames, samples.labels)
    recipe = replace(trainee.recipe, frames=len(items), steps=3, batch=2)
    networks = []
    for workers in (0, 1):
        torch.manual_seed(0)
        data = TrainingData(len(items), partial(draw_items, trainee, items), trainee.loss)
        networks.append(
            fit(trainee.make(len(SIM_CLASSES)), data, recipe, Hardware(precision="32", workers=workers))
        )
    pairs = zip(*(network.state_dict().values() for network in networks), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, str]:
    """A bundle that `perception-rt train` wrote, and its folder of checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["train", "camera", "--data", str(data), "--weights", "sim_camera", *QUICK]
    assert main([*words, "--out", str(folder / "mine.pt"), "--run", str(folder / "run")]) == 0
    return folder


def test_training_leaves_a_bundle_that_states_its_data_and_score(trained, data, capsys):
    bundle = trained / "mine.pt"
    manifest = verify(bundle)
    assert manifest.classes == SIM_CLASSES
    assert manifest.licence == "Apache-2.0"
    provenance = manifest.provenance
    assert provenance["recipe"]["steps"] == 4
    assert provenance["data"]["frames"] == 6
    assert provenance["data"]["validation_frames"] == 2
    assert provenance["start"]["weights"]["bundle"] == "sim_camera"
    assert provenance["start"]["new"] == []
    assert provenance["start"]["retain"] == 0.0  # no class is added
    assert provenance["score"]["ap50"] > 0.3  # it was trained for long before these four steps
    shipped = verify(resolve_bundle("sim_camera")).score_threshold
    assert manifest.score_threshold == shipped  # too few objects are set apart to choose another
    assert main(["train", "--evaluate", str(bundle), "--data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "8 frames" in shown
    assert "cyclist" in shown


def test_a_run_folder_has_checkpoints_logs_and_options(trained):
    assert {path.name for path in (trained / "run").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "tensorboard",
        "run.json",
    }
    record = json.loads((trained / "run" / "run.json").read_text())
    assert record["finished"]
    assert record["options"]["steps"] == 4


def test_data_that_changed_are_not_resumed_on(trained, data, capsys):
    file = data / "0.txt"
    text = file.read_text()
    try:
        file.write_text("0 0.5 0.5 0.1 0.1\n")
        assert main(["train", "--resume", str(trained / "run")]) == 2
    finally:
        file.write_text(text)
    assert "the data or the weights are no longer those of the run" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["retain", "an_option_of_tomorrow"])
def test_a_run_of_another_version_is_not_resumed(trained, tmp_path, capsys, option):
    record = json.loads((trained / "run" / "run.json").read_text())
    if record["options"].pop(option, None) is None:
        record["options"][option] = 1
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert main(["train", "--resume", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert f"of another version of perception_rt, whose options differ in {option}" in shown
    assert len(shown.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["camera", "--data", "nowhere"], "--data=nowhere: no such file or folder"),
        (["yolo", "--data", "."], "network=yolo: must be camera"),
        (["resnet18"], "network=resnet18: needs --data"),
        (["camera", "--weights", "sim_camera"], "start from these with --data"),
        (["camera", "--devices", "2"], "recipes of the simulator train on one device"),
        (["camera", "--batch", "0"], "--batch=0: must be >= 1"),
        (["camera", "--learning-rate", "2"], "--learning-rate=2.0"),
        (["camera", "--resume", "x"], "--resume cannot be combined"),
        (["--resume", "nowhere"], "--resume=nowhere: holds no run that can be resumed"),
        (["--evaluate", "sim_camera", "--data", "nowhere"], "--data=nowhere: no such"),
        (["camera", "--data", "DATA", "--weights", "pillars", "--run", "RUN"], "of another network"),
        (["camera", "--data", "DATA", "--classes", "tree", "--run", "RUN"], "'tree' is not in the data"),
        (["camera", "--data", "DATA", "--precision", "16", "--device", "cpu"], "a CPU has no fp16"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(data, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    names = {"DATA": str(data), "RUN": str(tmp_path / "run")}
    assert main(["train", *(names.get(word, word) for word in words)]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.strip().split("\n")) == 1
    assert not list(tmp_path.rglob("*.pt"))


def test_bad_labels_are_listed_before_anything_is_trained(data, tmp_path, capsys):
    for file in data.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n")
    (tmp_path / "2.txt").write_text("0 0.5 0.99 0.1 0.4\n")
    assert main(["train", "camera", "--data", str(tmp_path), "--run", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert "2 labels do not fit" in shown
    assert f"{tmp_path}/1.txt:2: class 7: must be from 0 to 2" in shown
    assert f"{tmp_path}/2.txt:1: box" in shown
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_finished_is_not_overwritten(data, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"options": {}, "finished": false}')
    words = [
        "train",
        "camera",
        "--data",
        str(data),
        *QUICK,
        "--run",
        str(run),
        "--out",
        str(tmp_path / "o.pt"),
    ]
    assert main(words) == 2
    assert "holds an unfinished run: --resume" in capsys.readouterr().err
    (run / "run.json").unlink()
    (run / "notes").write_text("mine")
    assert main(words) == 2
    assert "is not empty, and holds no run" in capsys.readouterr().err
    assert (run / "notes").is_file()


KILLED = """
import os, signal, sys
import torch
import perception_rt.train.checkpoints as checkpoints
from perception_rt.cli.main import main
def save_and_die(self, checkpoint, path, storage_options=None):
    save(self, checkpoint, path, storage_options)
    os.kill(os.getpid(), signal.SIGKILL)
save = checkpoints.WholeCheckpoints.save_checkpoint
checkpoints.WholeCheckpoints.save_checkpoint = save_and_die
checkpoints.SAVE_SECONDS = 0.0
torch.set_num_threads(1)
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_training_goes_on_to_the_same_weights(trained, data, tmp_path):
    """`kill -9` after the first checkpoint, then --resume: the weights of an uninterrupted run."""
    run = tmp_path / "run"
    options = [*QUICK, "--seed", "0", "--weights", "sim_camera", "--device", "cpu"]
    words = ["train", "camera", "--data", str(data), *options, "--out", str(tmp_path / "mine.pt")]
    process = subprocess.run([sys.executable, "-c", KILLED, *words, "--run", str(run)], timeout=600)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "mine.pt").exists()
    done = torch.load(run / "last.ckpt", weights_only=True)["global_step"]
    assert done < 4
    assert main(["train", "--resume", str(run)]) == 0
    one, other = (
        torch.load(folder / "best.ckpt", weights_only=True)["state_dict"] for folder in (trained / "run", run)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (tmp_path / "mine.pt").is_file()
