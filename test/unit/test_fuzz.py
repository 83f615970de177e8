"""Some hundred mutated inputs for every reader, and what failed once; `make fuzz` runs a million."""

from __future__ import annotations

import functools
import traceback

import pytest

from test.fuzz.__main__ import TooLong, attempt, corpus, fuzz
from test.fuzz.mutate import mutate
from test.fuzz.targets import TARGETS, Target

FEW = {"sqlite": 20, "mcap": 60, "onnx": 40, "archive": 60}


@functools.cache
def seeds(name):
    return TARGETS[name].seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_its_seeds_and_refuses_damage_with_a_typed_error(name, capfd):
    ends = [attempt(TARGETS[name], data) for data in seeds(name)]
    assert all(error is None for _, error in ends)
    assert any("read" in end.split() for end, _ in ends) or name in ("archive", "sequence", "kitti")
    found = fuzz(name, [*seeds(name), *corpus(name)], FEW.get(name, 150), seed=1)
    for data, error in found["failures"]:
        traceback.print_exception(error)
        pytest.fail(f"{data[:200]!r}: {error!r}")


def test_what_is_not_typed_is_found_and_told_apart():
    def read(data):
        if len(data) % 2:
            raise ZeroDivisionError
        if data.startswith(b"x"):
            raise TooLong
        return data

    target = Target(read, lambda: [b"ab"])
    assert attempt(target, b"ab") == ("read", None)
    assert isinstance(attempt(target, b"abc")[1], ZeroDivisionError)
    assert isinstance(attempt(target, b"xx")[1], TooLong)


def test_a_mutation_is_within_its_limit_and_the_same_for_one_seed():
    import random

    one, two = random.Random(3), random.Random(3)
    made = [mutate(one, b"abcdef" * 9, [b"xyz"], 60) for _ in range(300)]
    assert made == [mutate(two, b"abcdef" * 9, [b"xyz"], 60) for _ in range(300)]
    assert max(map(len, made)) <= 60
    assert len(set(made)) > 250
