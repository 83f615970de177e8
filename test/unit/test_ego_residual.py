"""The residual of ego prediction: its bundles, its geometry, and that it learns."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from perception_rt.model import bundle
from perception_rt.model.archive import write_archive
from perception_rt.model.golden import golden_input
from perception_rt.model.manifest import CloudSpec, StateSpec, parse_manifest
from perception_rt.model.runtime import PathRuntime, Runtime
from perception_rt.stage.ego_prediction import predict_path
from perception_rt.stage.ego_residual import refine_path
from perception_rt.train.loop import Recipe
from perception_rt.train.residual.data import SPEC, ctra, drive_pairs, make_histories
from perception_rt.train.residual.task import RESIDUAL, evaluate, make_network
from perception_rt.train.task import train
from perception_rt.types import BundleError, ConfigError, ModelError
from perception_rt.types.state import VehicleState


class Shift(nn.Module):
    """The same residual at each step, and a hundredth of the speed of now along."""

    def __init__(self, along: float, across: float, share: float = 0.0, steps: int = 30) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([along, across]).repeat(steps, 1))
        self.share = share

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """(N, T, 3) to (N, H, 2)."""
        more = self.share * history[:, -1, 0]
        return self.shift + torch.stack([more, torch.zeros_like(more)], 1)[:, None]


def save_shift(path, *values, **changes):
    fields = {"name": "shift", "classes": (), "task": "predict", "input_spec": SPEC, "licence": "Apache-2.0"}
    return bundle.save(path, Shift(*values), **{**fields, **changes})


def opened(folder, *values) -> PathRuntime:
    save_shift(folder / "shift.pt", *values)
    return Runtime.open(folder / "shift.pt", "cpu")


def path_of(yaw=0.0, speed=10.0, **options):
    return predict_path(VehicleState(5 * 10**9, 3.0, -2.0, yaw, speed, 0.1, 0.2, np.eye(6)), **options)


HISTORY = np.tile([10.0, 0.1, 0.2], (20, 1))


def test_a_bundle_comes_back_without_classes_or_thresholds(tmp_path):
    saved = save_shift(tmp_path / "a.pt", 1.0, 2.0, 0.01)
    assert bundle.verify(tmp_path / "a.pt") == saved
    assert parse_manifest(saved.to_json()) == saved
    assert (saved.task, saved.classes, saved.input) == ("predict", (), StateSpec(2.0, 0.1, 3.0))
    assert saved.score_threshold is saved.nms_threshold is None
    assert (saved.input.rows, saved.input.steps) == (20, 30)
    assert saved.golden.shape == (16, 20, 3)
    history = golden_input(saved.golden.seed, saved.golden.shape)
    expected = [[1 + 0.01 * row[-1, 0], 2.0] * 30 for row in history]
    np.testing.assert_allclose(saved.golden.boxes, expected, atol=1e-4)


def test_golden_histories_are_those_of_vehicles():
    histories = golden_input(0, (64, 20, 3))
    assert histories.dtype == np.float32
    assert np.array_equal(histories, golden_input(0, (64, 20, 3)))
    assert not np.array_equal(histories, golden_input(1, (64, 20, 3)))
    low, high = histories.min((0, 1)), histories.max((0, 1))
    assert (low > [0, -0.4, -3]).all()
    assert (high < [36, 0.4, 3]).all()
    assert (high - low > [20, 0.4, 3]).all()


def test_other_weights_fail_the_golden_test(tmp_path):
    path = tmp_path / "a.pt"
    manifest = save_shift(path, 1.0, 2.0)
    boxes = (*manifest.golden.boxes[:-1], tuple(v + 0.1 for v in manifest.golden.boxes[-1]))
    module, _ = bundle.load(path)
    for wrong in (boxes, tuple(tuple(v + 0.1 for v in row) for row in manifest.golden.boxes)):
        golden = dataclasses.replace(manifest.golden, boxes=wrong)
        write_archive(module, dataclasses.replace(manifest, golden=golden), path)
        with pytest.raises(BundleError, match="golden mismatch"):
            bundle.verify(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("car",)}, "classes"),
        ({"input_spec": CloudSpec((0, 0, 0, 1, 1, 1), "unit")}, "not an input of task predict"),
        ({"input_spec": StateSpec(2.0, 0.1, 2.0)}, "golden.boxes"),
        ({"task": "detect3d"}, "not an input of task detect3d"),
    ],
)
def test_what_does_not_fit_the_task_is_not_saved(tmp_path, changes, message):
    with pytest.raises(BundleError, match=message):
        save_shift(tmp_path / "a.pt", 1.0, 2.0, **changes)
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("values", [(2.0, 4.0, 5.0), (2.0, 1.0, 0.5), (2.0, 0.0, 3.0)])
def test_a_step_longer_than_the_window_or_the_horizon_is_refused(values):
    with pytest.raises(BundleError, match=r"input\.step_s="):
        StateSpec(*values)


def test_the_runtime_answers_each_history_and_refuses_others(tmp_path):
    runtime = opened(tmp_path, 1.0, 2.0, 0.01)
    assert isinstance(runtime, PathRuntime)
    history = np.zeros((3, 20, 3), np.float32)
    history[:, -1, 0] = [0, 10, 20]
    answer = runtime(history)
    assert (answer.shape, answer.dtype) == ((3, 30, 2), np.float32)
    np.testing.assert_allclose(answer[:, 7], [[1.0, 2.0], [1.1, 2.0], [1.2, 2.0]], rtol=1e-6)
    assert runtime(history[:0]).shape == (0, 30, 2)
    for wrong in (history[0], history[:, 1:], history.astype(np.float64)):
        with pytest.raises(ModelError, match=r"history must be \(N, 20, 3\) float32"):
            runtime(wrong)


def test_a_residual_is_along_and_across_the_heading_of_now(tmp_path):
    runtime = opened(tmp_path, 2.0, 0.5)
    path = path_of(yaw=math.pi / 2)  # forward is y, left is -x
    moved = refine_path(path, HISTORY, runtime)
    np.testing.assert_allclose(moved.states[1:, :2] - path.states[1:, :2], [[-0.5, 2.0]] * 30, atol=1e-6)
    assert np.array_equal(moved.states[0], path.states[0])
    assert np.array_equal(moved.states[:, 3:], path.states[:, 3:])
    assert np.array_equal(moved.covariance, path.covariance)
    assert np.array_equal(moved.stamps_ns, path.stamps_ns)


def test_yaw_turns_as_the_course_does(tmp_path):
    # The first step goes from (1, 0) to (1, 1), an eighth of a turn to the left; the others stay parallel.
    runtime = opened(tmp_path, 0.0, 1.0)
    state = VehicleState(0, 0.0, 0.0, math.pi - 0.1, 10.0, 0.0, 0.0, np.eye(6))
    turned = refine_path(predict_path(state), HISTORY, runtime).states[:, 2]
    assert turned[1] == pytest.approx(-math.pi - 0.1 + math.pi / 4, abs=1e-6)  # wrapped
    np.testing.assert_allclose(turned[2:], math.pi - 0.1, atol=1e-6)


def test_who_stands_does_not_turn(tmp_path):
    runtime = opened(tmp_path, 0.0, 0.001)
    path = predict_path(VehicleState(0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, np.eye(6)))
    np.testing.assert_array_equal(refine_path(path, HISTORY, runtime).states[:, 2], path.states[:, 2])


def test_no_residual_changes_nothing(tmp_path):
    path = path_of(yaw=2.0, horizon_s=2.0)
    same = refine_path(path, HISTORY, opened(tmp_path, 0.0, 0.0))
    np.testing.assert_allclose(same.states, path.states, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"step_s": 0.2}, {"horizon_s": 3.5}])
def test_a_path_of_other_steps_is_refused(tmp_path, options):
    with pytest.raises(ConfigError, match=r"path: .* steps"):
        refine_path(path_of(**options), HISTORY, opened(tmp_path, 1.0, 0.0))


def test_truths_are_ctra_and_the_residual():
    """Where the noise is small the residual is, and the first steps hardly miss at all."""
    for history, residual in drive_pairs(5, 6):
        assert history.shape == (20, 3)
        assert residual.shape == (30, 2)
        assert np.abs(residual[0]).max() < 0.06  # 0.1 s of at most 0.5 m/s
        assert 5 < ctra(history[-1])[-1, 0] < 60
    first, second = (drive_pairs(7, 2)[0][0] for _ in range(2))
    assert np.array_equal(first, second)


def test_training_beats_ctra_on_drives_that_it_learned_from(tmp_path):
    data = make_histories(range(40, 80), 5)
    recipe = Recipe(
        seed=0, frames=len(data), steps=300, batch=64, learning_rate=3e-3, weight_decay=0.01, average=0.9
    )
    losses: list[float] = []
    network = train(RESIDUAL, data, recipe, torch.device("cpu"), lambda step, loss: losses.append(loss))
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])
    with torch.inference_mode():
        assert not make_network().eval()(data.history).any()  # untrained, it is CTRA
    RESIDUAL.save(tmp_path / "r.pt", network, {})
    score = evaluate(Runtime.open(tmp_path / "r.pt", "cpu"), list(range(40, 80)), 200)
    assert score["refined"][2] < 0.8 * score["ctra"][2]
    assert score["ctra"] == sorted(score["ctra"])
    assert (tmp_path / "r.pt").stat().st_size < 100_000


def test_only_bundles_of_the_same_histories_are_scored(tmp_path):
    other = StateSpec(1.0, 0.1, 3.0)
    save_shift(tmp_path / "a.pt", 0.0, 0.0, input_spec=other)
    with pytest.raises(ConfigError, match="input="):
        evaluate(Runtime.open(tmp_path / "a.pt", "cpu"), [1], 1)
