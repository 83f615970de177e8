"""How well a bundle does on simulated drives that no training ever used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from perception_rt.model.class_thresholds import one_threshold
from perception_rt.model.runtime import Runtime
from perception_rt.replay.metrics import average_precision
from perception_rt.sim import SIM_CLASSES
from perception_rt.train.camera.data import drive_samples
from perception_rt.train.drives import shares
from perception_rt.types import ConfigError, Detections2D

LOWEST_SCORE = 0.01  # average precision wants the weak boxes too


def evaluate(
    runtime: Runtime, seeds: Sequence[int], frames: int, on_frame: Callable[[], None] = lambda: None
) -> dict:
    """Score a bundle on simulated frames at their native size, without its thresholds of single classes.

    Args:
        runtime: an open bundle whose classes are the simulator's.
        seeds: of the drives; `perception_rt.train.drives.evaluation_seeds` gives unseen ones.
        frames: how many in all, spread evenly over the drives.
        on_frame: called after each frame.

    Returns:
        What `average_precision` returns, and ``"frames"`` and ``"seeds"`` (first and last).

    Raises:
        ConfigError: the bundle has other classes.
    """
    if runtime.manifest.classes != SIM_CLASSES:
        raise ConfigError(f"classes={runtime.manifest.classes}: the simulator has {SIM_CLASSES}")
    truths, found = [], []
    for seed, count in zip(seeds, shares(frames, len(seeds)), strict=True):
        for sample in drive_samples(seed, count):
            with one_threshold(runtime):
                boxes, scores, labels, _ = runtime(sample.image[None], score_threshold=LOWEST_SCORE)
            truths.append(sample.truth)
            found.append(Detections2D(boxes, scores, labels))
            on_frame()
    return {
        **average_precision(truths, found, SIM_CLASSES),
        "frames": frames,
        "seeds": [min(seeds), max(seeds)],
    }
