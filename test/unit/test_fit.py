"""Training on Lightning: repeats, is interrupted, goes on, keeps the best."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from perception_rt.train.checkpoints import BEST, LAST
from perception_rt.train.fit import LOGS, fit
from perception_rt.train.learner import TrainingData, Validation, steps_of
from perception_rt.train.recipe import Hardware, Recipe
from perception_rt.types import ConfigError, ModelError

RECIPE = Recipe(
    seed=3, frames=10, steps=12, batch=4, learning_rate=0.05, weight_decay=0.01, average=0.9, rounds=3
)
FRAMES = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
GOAL = np.arange(5, dtype=np.float32)


def make_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))


class Task:
    """Learn a plane; every draw and every prediction is recorded, and may do something else."""

    def __init__(self, at_step=None, do=lambda: None):
        self.steps, self.scored, self.frames = 0, [], []
        self._at_step, self._do = at_step, do

    def draw(self, index, rng):
        self.steps += 1
        self.frames.append(index.tolist())
        if self.steps == self._at_step:
            self._do()
        noise = rng.normal(size=(len(index), 5)).astype(np.float32)
        return torch.from_numpy(FRAMES[index] + 0.1 * noise)

    def loss(self, network, batch):
        return (network(batch)[:, 0] - batch @ torch.from_numpy(GOAL)).square().mean()

    def score(self, answers):
        assert len(answers) == 10
        self.scored.append(-float(np.mean(answers)))
        return {"fit": self.scored[-1]}

    def predict(self, network, number):
        assert not network.training
        frame = torch.from_numpy(FRAMES[number : number + 1])
        return self.loss(network, frame).item()

    def fit(self, run=None, resume=False, recipe=RECIPE, **more):
        data = TrainingData(10, self.draw, self.loss, more.pop("weights", None))
        check = Validation(10, self.predict, self.score, "fit") if more.pop("scored", True) else None
        hardware = more.pop("hardware", Hardware(precision="32"))
        return fit(make_network(), data, recipe, hardware, validation=check, run=run, resume=resume, **more)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def whole():
    return Task().fit()


def test_steps_are_rounded_up_to_whole_rounds():
    assert steps_of(RECIPE) == (4, 12)
    assert steps_of(replace(RECIPE, steps=13)) == (5, 15)
    assert steps_of(replace(RECIPE, steps=2, rounds=9)) == (1, 2)


def test_a_seed_repeats_and_another_differs(whole):
    assert same(Task().fit(), whole)
    assert not same(Task().fit(recipe=replace(RECIPE, seed=4)), whole)


def test_every_frame_is_drawn_once_an_epoch():
    task = Task()
    task.fit(scored=False)
    drawn = [frame for batch in task.frames for frame in batch]
    for epoch in range(4):
        assert sorted(drawn[10 * epoch : 10 * (epoch + 1)]) == list(range(10))
    assert drawn[:10] != drawn[10:20]


def test_weights_say_how_often_a_frame_is_drawn():
    task = Task()
    task.fit(scored=False, recipe=replace(RECIPE, steps=60), weights=np.array([4.0, *[1.0] * 8, 0.0]))
    count = np.bincount([frame for batch in task.frames for frame in batch], minlength=10)
    assert count[9] == 0
    assert count[0] > 2 * count[1:9].mean()


@pytest.mark.parametrize("at_step", range(1, 13))
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, whole, at_step):
    """At every step: the first, within a round, and the last of one."""
    stopped = Task(at_step, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    if at_step < 12:
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(tmp_path)
    else:  # it was the last one
        assert same(stopped.fit(tmp_path), whole)
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.steps == at_step
    rest = Task()
    assert same(rest.fit(tmp_path, resume=True), whole)
    assert rest.steps == 12 - at_step
    assert len(stopped.scored) + len(rest.scored) == 3


def test_sigterm_stops_and_saves_as_sigint_does(tmp_path, whole):
    stopped = Task(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(tmp_path)
    rest = Task()
    assert same(rest.fit(tmp_path, resume=True), whole)
    assert rest.steps == 6


def test_bf16_computes_in_bf16_and_keeps_weights_and_scores_in_fp32(tmp_path, whole):
    kinds = set()

    class Watched(Task):
        def loss(self, network, batch):
            hook = network.register_forward_hook(lambda net, _, found: kinds.add((net.training, found.dtype)))
            try:
                return super().loss(network, batch)
            finally:
                hook.remove()

    half, exact, hardware = Watched(), Task(), Hardware(precision="bf16")
    mixed = half.fit(hardware=hardware)
    exact.fit()
    assert kinds == {(True, torch.bfloat16), (False, torch.float32)}
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}
    assert not same(mixed, whole)
    np.testing.assert_allclose(half.scored, exact.scored, rtol=0.02)
    with pytest.raises(KeyboardInterrupt):
        Task(6, lambda: os.kill(os.getpid(), signal.SIGINT)).fit(tmp_path, hardware=hardware)
    assert same(Task().fit(tmp_path, resume=True, hardware=hardware), mixed)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at_step", [1, 4, 5, 6, 8, 9, 12])
def test_a_killed_run_goes_on_from_its_last_round(tmp_path, whole, at_step):
    def kill():
        raise Killed

    killed = Task(at_step, kill)
    with pytest.raises(Killed):
        killed.fit(tmp_path)
    rest = Task()
    assert same(rest.fit(tmp_path, resume=True), whole)
    assert rest.steps == 12 - (at_step - 1) // 4 * 4


def test_a_run_saves_within_long_rounds_too(tmp_path, whole, monkeypatch):
    monkeypatch.setattr("perception_rt.train.checkpoints.SAVE_SECONDS", 0.0)

    def kill():
        raise Killed

    with pytest.raises(Killed):
        Task(7, kill).fit(tmp_path)
    rest = Task()
    assert same(rest.fit(tmp_path, resume=True), whole)
    assert rest.steps == 6


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, whole):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # bytes of a file: a checkpoint has more

    try:
        with pytest.raises(OSError, match=str(tmp_path)):
            Task(6, fill).fit(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*.partial"))
    rest = Task()
    assert same(rest.fit(tmp_path, resume=True), whole)
    assert rest.steps == 8


def test_the_best_round_is_kept_not_the_last(tmp_path):
    class Worse(Task):
        def score(self, answers):
            self.scored.append([0.2, 0.9, 0.1][len(self.scored)])
            return {"fit": self.scored[-1]}

    best = Worse().fit()
    two_rounds = Task()
    data = TrainingData(10, two_rounds.draw, two_rounds.loss)
    states = []

    def remember(network, number):
        states.append({name: value.clone() for name, value in network.state_dict().items()})
        return 0.0

    check = Validation(10, remember, lambda answers: {"fit": float(len(states))}, "fit")
    fit(make_network(), data, RECIPE, Hardware(precision="32"), validation=check)
    second = states[10]
    assert all(torch.equal(value, second[name]) for name, value in best.state_dict().items())
    assert same(Worse().fit(tmp_path), best)
    assert {path.name for path in tmp_path.iterdir()} == {BEST, LAST, LOGS}


def test_a_run_that_was_moved_keeps_its_best(tmp_path):
    class Scored(Task):
        def score(self, answers):
            self.scored.append(self.value)
            return {"fit": self.value}

    first, rest = Scored(6, lambda: os.kill(os.getpid(), signal.SIGINT)), Scored()
    first.value, rest.value = 0.9, 0.1
    with pytest.raises(KeyboardInterrupt):
        first.fit(tmp_path / "old")
    best = (tmp_path / "old" / BEST).read_bytes()
    (tmp_path / "old").rename(tmp_path / "new")
    rest.fit(tmp_path / "new", resume=True)
    assert rest.scored == [0.1, 0.1]
    assert (tmp_path / "new" / BEST).read_bytes() == best
    assert not (tmp_path / "old").exists()


def test_without_validation_the_last_weights_are_kept(tmp_path):
    whole = Task().fit(scored=False)
    stopped = Task(5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(tmp_path, scored=False)
    assert same(Task().fit(tmp_path, resume=True, scored=False), whole)
    assert {path.name for path in tmp_path.iterdir()} == {LAST, LOGS}


def test_patience_ends_a_run_that_gets_no_better():
    class Flat(Task):
        def score(self, answers):
            self.scored.append(0.5)
            return {"fit": 0.5}

    task = Flat()
    task.fit(recipe=replace(RECIPE, steps=40, rounds=10, patience=2))
    assert len(task.scored) == 3
    assert task.steps == 12


def test_a_round_without_an_object_to_score_on_scores_0():
    class Empty(Task):
        def score(self, answers):
            self.scored.append(None)
            return {"fit": None}

    task = Empty()
    task.fit()
    assert task.scored == [None] * 3


def test_progress_tells_loss_and_score(tmp_path):
    told = []
    task = Task()
    task.fit(on_step=told.append)
    assert [at.step for at in told] == list(range(1, 13))
    assert {at.steps for at in told} == {12}
    assert [at.score for at in told] == [None] * 4 + [task.scored[0]] * 4 + [task.scored[1]] * 4
    assert all(np.isfinite(at.loss) for at in told)
    assert told[-1].best == max(task.scored[:2])


def test_tensorboard_has_losses_and_scores(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = Task()
    task.fit(tmp_path)
    events = EventAccumulator(str(tmp_path / LOGS)).Reload()
    assert {"loss", "fit"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("fit")] == pytest.approx(task.scored)


def test_what_a_user_can_mend_is_one_line(tmp_path):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")

    with pytest.raises(ModelError, match=r"--batch=4: CUDA out of memory: take a smaller") as error:
        Task(2, full).fit(tmp_path)
    assert "\n" not in str(error.value)

    class Diverged(Task):
        def loss(self, network, batch):
            return super().loss(network, batch) * float("nan")

    with pytest.raises(ModelError, match=r"step 0: the loss is nan: take a lower --learning-rate than 0\.05"):
        Diverged().fit()
    with pytest.raises(ConfigError, match="--strategy=fdsp"):
        Task().fit(hardware=Hardware(strategy="fdsp"))
    with pytest.raises(ConfigError, match="a CPU has no fp16"):
        Task().fit(hardware=Hardware(precision="16"))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    Task(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    stopped = Task(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(tmp_path)
    task = Task()
    data = TrainingData(10, task.draw, task.loss)
    with pytest.raises(ConfigError, match="another network"):
        fit(nn.Linear(5, 1), data, RECIPE, Hardware(precision="32"), run=tmp_path, resume=True)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    torch.save({"state_dict": Trap(), "pytorch-lightning_version": "2.6.0"}, tmp_path / LAST)
    whole = (tmp_path / LAST).read_bytes()
    for data in (whole, whole[:300], b"", b"no checkpoint"):
        (tmp_path / LAST).write_bytes(data)
        with pytest.raises(ConfigError, match=r"last\.ckpt: not a checkpoint"):
            Task().fit(tmp_path, resume=True)
    assert not (tmp_path / "trapped").exists()


def test_bfloat16_trains():
    task = Task()
    network = task.fit(hardware=Hardware(precision="bf16"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in network.state_dict().values())
    assert task.scored[-1] > task.scored[0]


ON_TWO = """
import os, sys
from pathlib import Path
import numpy as np, torch
from perception_rt.train.fit import fit
from perception_rt.train.learner import TrainingData, Validation
from perception_rt.train.recipe import Hardware, Recipe

frames = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32))
def loss(network, batch):
    return (network(batch)[:, 0] - batch.sum(1)).square().mean()
def predict(network, number):
    return number
def score(answers):
    assert answers == list(range(10)), answers
    return {"fit": 0.5}
torch.manual_seed(0)
recipe = Recipe(seed=3, frames=10, steps=6, batch=4, learning_rate=0.05, weight_decay=0.01, average=0.9)
hardware = Hardware(devices=int(sys.argv[1]), strategy=sys.argv[2], precision="32")
data = TrainingData(10, lambda index, rng: frames[index], loss)
check = Validation(10, predict, score, "fit")
run = Path(sys.argv[3])
network = fit(torch.nn.Linear(5, 1), data, recipe, hardware, validation=check, run=run)
if os.environ.get("LOCAL_RANK", "0") == "0":
    torch.save(network.state_dict(), run / "weights.pth")
"""


def test_two_processes_share_a_batch_and_learn_what_one_learns(tmp_path):
    script = tmp_path / "on_two.py"
    script.write_text(ON_TWO)
    weights = []
    for devices, strategy in ((1, "auto"), (2, "ddp")):
        run = tmp_path / str(devices)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, script, str(devices), strategy, run]
        subprocess.run(command, check=True, timeout=120, env=environment)
        weights.append(torch.load(run / "weights.pth"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)
