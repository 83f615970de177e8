"""Read the outputs of the nodes from the bag of a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.codec.estimates import Estimates, parse_estimates
from perception_rt.codec.vehicle import MotionReading, parse_odometry
from perception_rt.replay.bag import Bag
from perception_rt.replay.score.sources import BOXES_2D
from perception_rt.stage.road_users import canonical
from perception_rt.types import Detections2D


@dataclass(frozen=True, slots=True, eq=False)
class RecordedOutput:
    """One published array of boxes.

    Attributes:
        stamp_ns: of the header. published_ns: publish time.
        frame_id: of the header.
        boxes: (N, 4) float64 xyxy, px, or (N, 7) float64 xyzlwh_yaw, m and rad.
        scores: (N,) float32. labels: (N,) int64, indices into the topic's classes. ids: (N,) str.
        estimates: stamp and covariance of each 3D box.
    """

    stamp_ns: int
    published_ns: int
    frame_id: str
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ids: list[str]
    estimates: Estimates | None


def estimates_of(output: RecordedOutput) -> Estimates:
    """Return the estimates of boxes in space."""
    assert output.estimates is not None, "boxes in the image have none"
    return output.estimates


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """All outputs of one topic, in order of publishing; `classes` are canonical names."""

    topic: str
    classes: tuple[str, ...]
    arrays: Sequence[RecordedOutput]

    def by_stamp(self) -> dict[int, RecordedOutput]:
        """Return the arrays by stamp; the first published one if several have the same."""
        return {output.stamp_ns: output for output in reversed(self.arrays)}


def read_outputs(bag: Bag, topic: str) -> Outputs:
    """Read all arrays of a topic of type Detection2DArray or Detection3DArray; none if it does not exist.

    Raises:
        CodecError: one of them is malformed. BagError: the bag is damaged.
    """
    if topic not in bag.topics:
        return Outputs(topic, (), [])
    flat = bag.topics[topic][0] == BOXES_2D
    classes: dict[str, int] = {}
    arrays = []
    for message in bag.messages([topic]):
        named = (decode_named_detections if flat else decode_named_detections3d)(message.data)
        found = named.detections
        index = [classes.setdefault(canonical(name), len(classes)) for name in named.classes]
        arrays.append(
            RecordedOutput(
                stamp_ns=named.stamp_ns,
                published_ns=message.log_ns,
                frame_id=named.frame_id,
                boxes=(found.xyxy if isinstance(found, Detections2D) else found.xyzlwh_yaw).astype(
                    np.float64
                ),
                scores=found.scores,
                labels=np.array([index[label] for label in found.labels], np.int64),
                ids=named.ids,
                estimates=None if flat else parse_estimates(message.data),
            )
        )
    return Outputs(topic, tuple(classes), arrays)


def read_odometry(bag: Bag, topic: str) -> list[tuple[MotionReading, int]]:
    """Read all states of a topic of type Odometry, with publish time, ns; errors as in `read_outputs`."""
    return [(parse_odometry(message.data), message.log_ns) for message in bag.messages([topic])]
