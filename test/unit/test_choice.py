"""The trial that chooses an engine, with scripted engines: right under load, and not repeated for ever."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from perception_rt.model import bundle, choice, runtime
from perception_rt.model.engine.torchscript import TorchScriptEngine
from perception_rt.model.export import torchscript_program
from perception_rt.model.manifest import ImageSpec
from perception_rt.model.runtime import Runtime
from perception_rt.types import BundleError, ModelError

SIZE = (32, 48)


class Decoder(nn.Module):
    """One box for each cell of (1, 3, h, w): its score, and the sides of the box as shares of the input."""

    def forward(self, outputs: list[torch.Tensor], height: int, width: int, score_threshold: float):
        out = outputs[0][0].flatten(1)
        zero = torch.zeros_like(out[0])
        return torch.stack([zero, zero, out[1] * width, out[2] * height], 1), out[0], zero.long()


class Machine:
    """A clock that only engines move, by what `calls` say of each call: wall and processor time, ms."""

    def __init__(self) -> None:
        self.wall = self.used = 0.0
        self.calls: dict[str, object] = {}
        self.log: list[str] = []
        self.wrong: set[str] = set()
        self.broken: set[str] = set()

    def engine(self, name: str):
        machine = self

        class Scripted(TorchScriptEngine):
            def __init__(self, program, data, options):
                super().__init__(program, data, options)
                self.name, self.count = f"{name}/{options.threads}", itertools.count()

            def run(self, inputs):
                number = next(self.count)
                machine.log.append(self.name)
                if number and name in machine.broken:
                    raise ModelError("out of memory")
                script = machine.calls.get(self.name, machine.calls.get(name, 50.0))
                took = script(number) if callable(script) else script
                wall, used = took if isinstance(took, tuple) else (took, took)
                machine.wall += wall / 1e3
                machine.used += used / 1e3
                outputs = super().run(inputs)
                return [out * 0.5 for out in outputs] if name in machine.wrong else outputs

        return Scripted


@pytest.fixture
def machine(monkeypatch, tmp_path):
    made = Machine()
    kinds = {name: made.engine(name) for name in ("a", "b", "c")}
    clock = SimpleNamespace(perf_counter=lambda: made.wall, process_time=lambda: made.used)
    monkeypatch.setattr(choice, "time", clock)
    monkeypatch.setattr(choice, "engine_names", lambda: tuple(kinds))
    for module in (choice, runtime):
        monkeypatch.setattr(module, "find_engine", kinds.__getitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 3, 8, stride=8), nn.Sigmoid()).eval()
    path = tmp_path_factory.mktemp("choice") / "cells.pt"
    program = torchscript_program(network, torch.zeros(1, 3, *SIZE), ("images",), ("raw",))
    golden = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    fields = {"name": "cells", "classes": ("a",), "licence": "Apache-2.0", "golden": golden}
    limits = {"score_threshold": 0.3, "nms_threshold": 0.5}
    spec = ImageSpec(SIZE, "letterbox", "bilinear", "rgb")
    bundle.save_network(path, [program], decoder=Decoder(), input_spec=spec, **fields, **limits)
    return path


def opened(cells, machine, threads=1):
    """The choice of a start, and the calls that it made of each engine after its golden answer."""
    machine.log.clear()
    found = Runtime.open(cells, "cpu", threads=threads).choice
    return found, list(machine.log)


def trials(machine, cells):
    """Whether the next start tries again."""
    return len(set(opened(cells, machine)[1])) > 1


def bursts(ms, waits):
    """Calls of `ms` that wait for a processor as long as `waits` says in turn."""
    waiting = itertools.cycle(waits)
    return lambda number: (ms + next(waiting), ms)


def test_a_quiet_trial_takes_turns_keeps_the_fastest_and_is_not_repeated(machine, cells):
    machine.calls = {"a": 12.0, "b": 10.0, "c": 11.0}
    found, log = opened(cells, machine)
    assert (found.engine, found.ms, found.note) == ("b", pytest.approx(10.0), "")
    assert log[:9] == ["a/1", "b/1", "c/1"] * 3  # the golden answers, then rounds
    assert found.others == {"a/fp32/1": pytest.approx(12.0), "c/fp32/1": pytest.approx(11.0)}
    again, log = opened(cells, machine)
    assert set(log) == {"b/1"}
    assert str(again) == str(found)


NOISE = {
    "on the fastest in two rounds of three": {"a": 12.0, "b": bursts(10.0, (30.0, 25.0, 0.0)), "c": 13.0},
    "on the fastest at first": {
        "a": 12.0,
        "b": lambda n: (10.0 + 40.0 * (n < 3), 10.0),
        "c": 13.0,
    },
    "on the others": {"a": bursts(12.0, (5.0, 20.0)), "b": 10.0, "c": bursts(13.0, (9.0, 1.0))},
    "on all": {
        "a": bursts(12.0, (30.0, 0.0, 8.0)),
        "b": bursts(10.0, (0.0, 20.0, 12.0)),
        "c": bursts(13.0, (15.0, 7.0, 0.0)),
    },
    "on all, always the same": {name: (2 * ms, ms) for name, ms in {"a": 12.0, "b": 10.0, "c": 13.0}.items()},
    "without waiting, as of a shared cache": {
        "a": 12.0,
        "b": lambda n: 10.0 + 6.0 * (n % 3 > 0),
        "c": lambda n: 13.0 + 8.0 * (n % 2),
    },
}


@pytest.mark.parametrize("kind", NOISE)
def test_a_disturbed_trial_finds_the_fastest_says_so_and_is_repeated(machine, cells, kind):
    machine.calls = NOISE[kind]
    found, _ = opened(cells, machine)
    assert found.engine == "b"
    assert found.note == choice.DISTURBED
    assert str(found).endswith(f"; {choice.DISTURBED})")
    machine.calls = {"a": 12.0, "b": 10.0, "c": 13.0}
    assert trials(machine, cells)  # quiet now: kept
    assert not trials(machine, cells)


def test_on_a_computer_that_is_always_busy_the_third_trial_is_the_last(machine, cells):
    machine.calls = NOISE["on all"]
    assert all(opened(cells, machine)[0].note == choice.DISTURBED for _ in range(choice.TRIALS - 1))
    assert opened(cells, machine)[0].note == ""
    assert not trials(machine, cells)
    assert opened(cells, machine)[0].engine == "b"


def test_disturbed_trials_decide_together_by_the_shortest_calls(machine, cells):
    machine.calls = {"a": 12.0, "b": bursts(10.0, (1.0, 20.0)), "c": 13.0}
    assert opened(cells, machine)[0].engine == "b"
    machine.calls["b"] = bursts(10.0, (30.0, 20.0))  # no call without waiting this time
    found, _ = opened(cells, machine)
    assert (found.engine, found.ms) == ("b", pytest.approx(11.0))


def test_a_rare_disturbance_does_not_spoil_a_trial(machine, cells):
    machine.calls = {"a": 12.0, "b": lambda n: (10.0 + 5.0 * (n % 7 == 3), 10.0), "c": 13.0}
    assert opened(cells, machine)[0].engine == "b"
    assert not trials(machine, cells)


def test_more_threads_are_taken_only_where_they_save_a_tenth(machine, cells):
    machine.calls = {"a/1": 10.0, "a/2": (9.5, 19.0), "b": 14.0, "c": 14.0}
    found, _ = opened(cells, machine, threads=2)
    assert (found.engine, found.options.threads) == ("a", 1)
    choice.cache_folder().joinpath(choice.CACHE_FILE).unlink()
    machine.calls["a/2"] = (6.0, 12.0)
    found, _ = opened(cells, machine, threads=2)
    assert (found.engine, found.options.threads) == ("a", 2)


def test_an_engine_that_disagrees_or_fails_is_left_out_and_named(machine, cells):
    machine.calls = {"a": 12.0, "b": 10.0, "c": 5.0}
    machine.wrong, machine.broken = {"c"}, {"b"}
    found, _ = opened(cells, machine)
    assert found.engine == "a"
    assert "golden mismatch" in found.others["c/fp32/1"]
    assert "out of memory" in found.others["b/fp32/1"]
    machine.wrong = {"a", "b", "c"}
    choice.cache_folder().joinpath(choice.CACHE_FILE).unlink()
    with pytest.raises(BundleError, match="golden mismatch"):
        opened(cells, machine)


def test_what_was_kept_is_tried_again_where_it_gives_another_answer_now(machine, cells):
    machine.calls = {"a": 12.0, "b": 10.0, "c": 11.0}
    opened(cells, machine)
    machine.wrong = {"b"}
    assert opened(cells, machine)[0].engine == "c"
    assert not trials(machine, cells)


@pytest.mark.parametrize("changed", ["libraries", "trial"])
def test_a_choice_of_other_libraries_or_of_an_older_trial_is_not_taken(machine, cells, monkeypatch, changed):
    machine.calls = {"a": 12.0, "b": 10.0, "c": 11.0}
    with monkeypatch.context() as older:
        if changed == "libraries":
            older.setattr(choice, "hardware", lambda: "x86_64; onnxruntime 1.0")
        else:
            older.setattr(choice, "TRIAL_VERSION", 1)
        opened(cells, machine)
        assert not trials(machine, cells)
    machine.calls["c"] = 8.0
    assert opened(cells, machine)[0].engine == "c"


def test_the_trial_of_slow_engines_ends(machine, cells):
    machine.calls = {"a": 2000.0, "b": 1900.0, "c": 2100.0}
    found, log = opened(cells, machine)
    assert found.engine == "b"
    assert len(log) <= 3 + 6  # the golden answers, then no call later than LONGEST_S


def test_a_hopeless_engine_is_called_twice(machine, cells):
    machine.calls = {"a": 100.0, "b": 10.0, "c": 11.0}
    _, log = opened(cells, machine)
    assert log.count("a/1") == 1 + 2
    assert log.count("b/1") == 1 + choice.ROUNDS[1]
