"""Count what the detection, fusion and track outputs of a run contain, without ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perception_rt.codec import NamedDetections
from perception_rt.replay.bag import Bag
from perception_rt.replay.report.choose import ARRAY_3D, DECODERS
from perception_rt.stage.fusion.fuse import BOTH, iou_2d
from perception_rt.types import Detections2D

DETECTIONS, FUSED, TRACKS = "detections", "fused", "tracks"
SAME_IOU, CROWD_IOU = 0.3, 0.5
"""Minimum IoU in the image of boxes of one object in two frames, or of a crowd in one frame."""
NEAR_M, CROWD_M = 2.0, 0.5
"""The same for boxes in space, as maximum distance between centres."""
LONGEST_STEP_NS = 250_000_000
"""Frames further apart are not compared, as traffic moves too far."""


@dataclass(slots=True)
class BoxStatistics:
    """Counts over all messages of one topic.

    Attributes:
        kind: DETECTIONS, FUSED or TRACKS. node: the publisher.
        frames, boxes: numbers of messages and of boxes.
        compared: messages with a neighbour before and after within `LONGEST_STEP_NS`.
        compared_boxes: boxes of those messages. single: those without a box of the same object in a
            neighbouring frame.
        crowded: messages with three or more boxes on one object. crowd: the largest such number.
        matched: fused boxes that camera and lidar both found.
        first_ns, last_ns: stamps at which each track id was first and last published.
        begin_ns, end_ns: stamps of the first and the last message.
    """

    kind: str
    node: str
    frames: int = 0
    boxes: int = 0
    compared: int = 0
    compared_boxes: int = 0
    single: int = 0
    crowded: int = 0
    crowd: int = 0
    matched: int = 0
    lives_ns: dict[str, tuple[int, int]] = field(default_factory=dict)
    begin_ns: int = 0
    end_ns: int = 0


def read_box_statistics(outputs: Bag, metrics: Mapping[str, Any]) -> dict[str, BoxStatistics]:
    """Return the statistics of every topic of boxes in the output bag of a run, by topic.

    Raises:
        CodecError: a message is malformed. BagError: the bag is damaged.
    """
    found = {}
    for topic, kind in kinds_of(metrics):
        if topic in outputs.topics:
            statistics = BoxStatistics(kind, metrics["outputs"][topic]["node"])
            window: list[NamedDetections] = []
            for message in outputs.messages([topic]):
                named = DECODERS[message.message_type](message.data)
                _add(statistics, named)
                if kind == DETECTIONS:
                    window = [*window[-2:], named]
                    _compare(statistics, window)
            found[topic] = statistics
    return found


def kinds_of(metrics: Mapping[str, Any], three: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the topics of boxes of a run, or of boxes in space alone, each with its kind."""
    types = (ARRAY_3D,) if three else tuple(DECODERS)
    boxes = {t: row["node"] for t, row in metrics["outputs"].items() if row["type"] in types}
    for topic, node in sorted(boxes.items()):
        inputs = [s["topic"] for s in metrics["streams"].values() if s["node"] == node]
        if topic.endswith("/tracks"):
            yield topic, TRACKS
        elif topic.endswith("/detections"):
            yield topic, FUSED if any(name in boxes for name in inputs) else DETECTIONS


def _add(statistics: BoxStatistics, named: NamedDetections) -> None:
    statistics.begin_ns = statistics.begin_ns if statistics.frames else named.stamp_ns
    statistics.end_ns = named.stamp_ns
    statistics.frames += 1
    statistics.boxes += len(named.detections)
    if statistics.kind == FUSED:
        statistics.matched += Counter(named.ids)[BOTH]
    elif statistics.kind == TRACKS:
        for id_ in named.ids:
            begin_ns, _ = statistics.lives_ns.get(id_, (named.stamp_ns, 0))
            statistics.lives_ns[id_] = begin_ns, named.stamp_ns
    elif len(named.detections) > 2:
        crowd = int(alike(named, named, CROWD_IOU, CROWD_M).sum(1).max())
        statistics.crowded += crowd >= 3
        statistics.crowd = max(statistics.crowd, crowd)


def _compare(statistics: BoxStatistics, window: list[NamedDetections]) -> None:
    """Count the boxes in the middle one of three messages that neither neighbour has."""
    if len(window) < 3:
        return
    before, now, after = window
    if not all(0 < b.stamp_ns - a.stamp_ns <= LONGEST_STEP_NS for a, b in ((before, now), (now, after))):
        return
    near = [alike(now, other, SAME_IOU, NEAR_M).any(1) for other in (before, after)]
    statistics.compared += 1
    statistics.compared_boxes += len(now.detections)
    statistics.single += int((~near[0] & ~near[1]).sum())


def alike(one: NamedDetections, other: NamedDetections, iou: float, metres: float) -> np.ndarray:
    """Return which boxes of two messages may be one object, (N, M) bool, regardless of class."""
    if isinstance(one.detections, Detections2D):
        return iou_2d(one.detections.upright().xyxy, other.detections.upright().xyxy) >= iou
    between = one.detections.xyzlwh_yaw[:, None, :2] - other.detections.xyzlwh_yaw[None, :, :2]
    return np.hypot(between[..., 0], between[..., 1]) <= metres
