"""The check of words finds what it is for, and leaves other words alone."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
words = importlib.import_module("words")


@pytest.mark.parametrize(
    "line",
    [
        "self.host.hear(kind, topic)",
        "class Fate(Enum):",
        "entry.fate",
        "ledger.settle(entry)",
        "needs no ROS and no patience",
        "published while somebody looks",
        "whatever a model does",
        "What its filter does not believe",
        "prints what became of every frame",
        "a topic that nobody needs",
    ],
)
def test_old_words_are_found(line):
    assert words.find(f"first\n{line}\n")[0][0] == 2


@pytest.mark.parametrize(
    "line", ["every second frame", "node.create_timer(1.0, tick)", "an accountable fatest"]
)
def test_other_words_are_left_alone(line):
    assert words.find(line) == []
