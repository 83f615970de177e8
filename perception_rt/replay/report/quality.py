"""Rate each output of a detector against ground truth, to choose the best and the worst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception_rt.replay.bag import Bag
from perception_rt.replay.score import BoxTruth, Places, Truth
from perception_rt.replay.score.detection import as_seen
from perception_rt.replay.score.outputs import RecordedOutput, read_outputs
from perception_rt.replay.score.scene import SceneBuilder, ScoredScene
from perception_rt.replay.score.tracking import LEAST_IOU, LEAST_IOU_2D, overlap, paired
from perception_rt.types import TransformError


@dataclass(frozen=True, slots=True, eq=False)
class AnswerQuality:
    """One output compared with ground truth.

    Attributes:
        stamp_ns: stamp of the output. published_ns: its publish time.
        right, wrong, missed: numbers of true positives, false positives and false negatives.
        truth: (T, 4) xyxy px or (T, 7) xyzlwh_yaw, ground-truth boxes in the frame of the output.
    """

    stamp_ns: int
    published_ns: int
    right: int
    wrong: int
    missed: int
    truth: np.ndarray

    @property
    def f1(self) -> float:
        """Return the F1 score in [0, 1]."""
        return 2 * self.right / (2 * self.right + self.wrong + self.missed)


def judge_answers(
    recording: Bag, outputs: Bag, topic: str, scores: Mapping[str, Mapping], truths: Sequence[Truth]
) -> Iterator[AnswerQuality]:
    """Yield the outputs of a scored topic with their ground truth.

    Boxes match at an IoU of at least 0.5 in the image and 0.25 in space. Frames without truths and boxes,
    or without a known transform, are left out.
    """
    score = scores[topic]
    truth = next((t for t in truths if isinstance(t, BoxTruth) and t.name == score["truth"]["name"]), None)
    if truth is None:
        return
    places = Places() if truth.flat else Places.of(recording)
    found = read_outputs(outputs, topic)
    builder = SceneBuilder(truth, found, set(score["classes"]), places)
    for moment, output in as_seen(truth, found):
        if output is None:
            continue
        try:
            judged = _judged(builder.build(moment, output), output, truth.flat)
        except TransformError:
            continue
        if judged.right + judged.wrong + judged.missed:
            yield judged


def _judged(scene: ScoredScene, output: RecordedOutput, flat: bool) -> AnswerQuality:
    alike = overlap(scene.boxes, scene.found, flat)
    alike = np.where(scene.labels[:, None] == scene.found_labels, alike, 0.0)
    rows, columns = paired(alike, LEAST_IOU_2D if flat else LEAST_IOU)
    asked = ~scene.ignored
    answered = np.zeros(len(asked), bool)
    answered[rows] = True
    counts = ~scene.excused
    counts[columns[scene.ignored[rows]]] = False
    right = int((asked & answered).sum())
    return AnswerQuality(
        output.stamp_ns,
        output.published_ns,
        right,
        int(counts.sum()) - right,
        int((asked & ~answered).sum()),
        scene.boxes[asked],
    )
