"""Score detections: as seen, at publish time, and as a stream."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from perception_rt.replay.score.confidence import calibration
from perception_rt.replay.score.counting import Precision, precision_of
from perception_rt.replay.score.outputs import Outputs, RecordedOutput
from perception_rt.replay.score.places import Places
from perception_rt.replay.score.scene import SceneBuilder, ScoredScene
from perception_rt.replay.score.truth import BoxTruth, Moment, latest
from perception_rt.types import TransformError

SAME_NS = 1_000_000  # stamps within a millisecond are the same moment

Pair = tuple[Moment, RecordedOutput | None]


def score_detections(
    truth: BoxTruth, outputs: Outputs, known: Collection[str] | None, places: Places
) -> dict:
    """Score a topic of detections.

    - `as_seen`: every truth against the output of the same stamp. A truth without one is unanswered: nothing
      was found there.
    - `at_publish`: every output against the truth of the moment when it was published (`BoxTruth.at`), in
      the image or, in space, in the world at that time: a subscriber can compensate ego motion,
      but not that of other objects.
    - `streaming`: every truth against the latest output that was published by then, as of Li, Wang and
      Ramanan, "Towards streaming perception", ECCV 2020.
    - `calibration`: of the confidences of `as_seen`, at an IoU of 0.5.

    Args:
        known: classes that the topic's models can detect; None for all.
        places: the transforms of the recording.
    """
    builder = SceneBuilder(truth, outputs, known, places)

    def scored(pairs: Iterable[Pair]) -> tuple[dict, Precision]:
        scenes, counts = scenes_of(pairs, builder)
        precision = precision_of(scenes, builder.classes, truth.flat)
        return counts | precision.figures, precision

    seen, plain = scored(as_seen(truth, outputs))
    published = [(truth.at(output.published_ns), output) for output in outputs.arrays]
    late, _ = scored((moment, output) for moment, output in published if moment is not None)
    streamed, _ = scored(streaming(truth, outputs))
    latency = [output.published_ns - output.stamp_ns for output in outputs.arrays]
    late |= {
        "beyond_truth": sum(moment is None for moment, _ in published),
        "mean_latency_ms": float(np.mean(latency)) / 1e6 if latency else None,
    }
    return {
        "classes": builder.classes,
        "as_seen": seen | {"curves": plain.curves},
        "at_publish": late,
        "streaming": streamed,
        "calibration": calibration(plain.confidences, plain.hits),
    }


def as_seen(truth: BoxTruth, outputs: Outputs) -> list[Pair]:
    """Return every truth with the output of the same moment, or None."""
    answers: dict[int, RecordedOutput] = {}
    for output in outputs.by_stamp().values():
        moment = truth.nearest(output.stamp_ns, SAME_NS)
        if moment is not None:
            answers.setdefault(moment.stamp_ns, output)
    return [(moment, answers.get(moment.stamp_ns)) for moment in truth.moments]


def streaming(truth: BoxTruth, outputs: Outputs) -> list[Pair]:
    """Return every truth with the latest output published by then, or None."""
    published = [output.published_ns for output in outputs.arrays]
    pairs: list[Pair] = []
    for moment in truth.moments:
        at = latest(published, moment.stamp_ns)
        pairs.append((moment, outputs.arrays[at] if at >= 0 else None))
    return pairs


def scenes_of(pairs: Iterable[Pair], builder: SceneBuilder) -> tuple[list[ScoredScene], dict]:
    """Return the scenes of pairs, and `{"frames", "unanswered", "unplaced"}`.

    Pairs without a recorded transform from the frame of the truth to the frame of the output are counted as
    unplaced and left out.
    """
    scenes: list[ScoredScene] = []
    unanswered = unplaced = 0
    for moment, output in pairs:
        try:
            scenes.append(builder.build(moment, output))
        except TransformError:
            unplaced += 1
            continue
        unanswered += output is None
    return scenes, {"frames": len(scenes), "unanswered": unanswered, "unplaced": unplaced}
