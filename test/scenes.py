"""Truths and outputs by hand, for the tests of scores."""

from __future__ import annotations

import numpy as np

from perception_rt.codec.estimates import Estimates
from perception_rt.replay.score import BoxTruth, Places
from perception_rt.replay.score.detection import score_detections
from perception_rt.replay.score.outputs import Outputs, RecordedOutput
from perception_rt.replay.score.truth import Moment

S = 1_000_000_000
STEP = S // 10


def moment(stamp_ns, boxes, labels=None, ids=None, ignored=None, regions=()) -> Moment:
    boxes = np.array(boxes, np.float64)
    boxes = boxes if boxes.ndim == 2 else boxes.reshape(0, 4)
    n = len(boxes)
    return Moment(
        stamp_ns,
        boxes,
        np.array(labels if labels is not None else [0] * n, np.int64),
        np.array(ids if ids is not None else range(n), np.int64),
        np.array(ignored if ignored is not None else [False] * n, bool),
        np.array(regions, np.float64).reshape(-1, 4),
    )


def output(
    stamp_ns, boxes, labels=None, scores=None, latency=0, ids=None, stamps=None, frame="f"
) -> RecordedOutput:
    n = len(boxes)
    boxes = np.array(boxes, np.float64)
    boxes = boxes if boxes.ndim == 2 else boxes.reshape(0, 4)
    stamps = np.full(n, stamp_ns) if stamps is None else np.array(stamps)
    return RecordedOutput(
        stamp_ns,
        stamp_ns + latency,
        frame,
        boxes,
        np.array(scores if scores is not None else [0.9] * n, np.float32),
        np.array(labels if labels is not None else [0] * n, np.int64),
        ids or [""] * n,
        Estimates(stamps.astype(np.int64), np.tile(np.eye(3), (n, 1, 1))),
    )


def image_truth(*moments, classes=("car",), **changes) -> BoxTruth:
    return BoxTruth("t", "f", classes, moments, flat=True, **changes)


def space_truth(*moments, classes=("car",), **changes) -> BoxTruth:
    return BoxTruth("t", "f", classes, moments, flat=False, **changes)


def outputs(*arrays, classes=("car",)) -> Outputs:
    return Outputs("/n/detections", classes, arrays)


BOX = (10.0, 10.0, 50.0, 50.0)
FAR = (200.0, 10.0, 250.0, 50.0)
CAR = (10.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0)


def scored(truth, found, known=None, places=None) -> dict:
    return score_detections(truth, found, known, places or Places())
