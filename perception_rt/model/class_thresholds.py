"""Which classes a detector returns, and the lowest score of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from perception_rt.types.errors import ConfigError

SHOWN_CLASSES = 12


def check_classes(names: Iterable[str], classes: Sequence[str]) -> None:
    """Check that every name is a class.

    Raises:
        ConfigError: the message has the unknown name, similar ones, and the classes.
    """
    for name in names:
        if name in classes:
            continue
        close = difflib.get_close_matches(name, classes, 2) or [
            known for known in classes if known.lower() == name.lower()
        ]
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        shown = ", ".join(classes[:SHOWN_CLASSES]) + (", ..." if len(classes) > SHOWN_CLASSES else "")
        raise ConfigError(f"class {name!r}: not one of this bundle's {len(classes)} ({shown}){hint}")


def parse_score_threshold(text: str) -> tuple[str, float]:
    """Parse ``car=0.4`` into a class name and its lowest score.

    Raises:
        ConfigError: the text has another form, or the score is not within 0 and 1.
    """
    name, equals, value = text.rpartition("=")
    try:
        score = float(value)
    except ValueError:
        score = np.nan
    if not (equals and name.strip() and 0 <= score <= 1):
        raise ConfigError(f"score_thresholds={text!r}: must be NAME=X like car=0.4, X within 0 and 1")
    return name.strip(), score


def lowest_scores(
    classes: Sequence[str], thresholds: Mapping[str, float], wanted: Sequence[str]
) -> np.ndarray:
    """Return (C,) the lowest score of each class: NaN for the general one, infinity for an unwanted class.

    Args:
        classes: class names, by label.
        thresholds: by class name.
        wanted: class names; empty for all.

    Raises:
        ConfigError: a name is not a class.
    """
    check_classes((*thresholds, *wanted), classes)
    least = np.array([thresholds.get(name, np.nan) for name in classes])
    if wanted:
        least[[name not in wanted for name in classes]] = np.inf
    return least


@contextmanager
def one_threshold(runtime: Any) -> Iterator[None]:
    """Let the threshold of a call apply to every class that a runtime keeps.

    Average precision needs the weak boxes, which the bundle's own thresholds of classes would cut off.
    """
    saved = runtime.class_thresholds
    runtime.class_thresholds = np.where(np.isposinf(saved), saved, np.nan)
    try:
        yield
    finally:
        runtime.class_thresholds = saved
