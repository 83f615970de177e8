"""Choose the moments of a run to show as pictures, by a fixed rule.

Each part of the run gives, for every camera and lidar, the best and the worst frame by ground truth. Without
ground truth it gives the frames with the highest and lowest mean confidence. Then follow the output with the
greatest age and examples of lost messages for each outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from perception_rt.codec import NamedDetections, decode_named_detections, decode_named_detections3d
from perception_rt.codec.segmentation import decode_segmentation
from perception_rt.replay.bag import Bag
from perception_rt.replay.report.ledger import LOST, LedgerView, Row, StreamView
from perception_rt.replay.report.quality import AnswerQuality

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CLOUDS = ("sensor_msgs/msg/PointCloud2",)
ARRAY_2D, ARRAY_3D = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray"
DECODERS: dict[str, Callable[[bytes], NamedDetections]] = {
    ARRAY_2D: decode_named_detections,
    ARRAY_3D: decode_named_detections3d,
}
HIGHEST, LOWEST = "highest confidence", "lowest confidence"
MOST, FEWEST = "most classes", "fewest classes"
BEST, WORST, OLDEST = "best", "worst", "oldest output"
_OLDEST = 1
_SEEN = 0.005  # of the picture
_LOST = 3


@dataclass(frozen=True, slots=True)
class SensorStream:
    """A camera or a lidar of a run.

    Attributes:
        node, topic: the subscriber and its topic. message_type: type of the topic.
        output: the detector's output topic; None if it published nothing. output_type: type of the output.
        labels: the topic with the labels of pixels; None if the node publishes none.
        classes: names by label of the node's bundle.
    """

    node: str
    topic: str
    message_type: str
    output: str | None
    output_type: str
    labels: str | None = None
    classes: tuple[str, ...] = ()

    @property
    def is_camera(self) -> bool:
        """True for a camera, False for a lidar."""
        return self.message_type in IMAGES


@dataclass(frozen=True, slots=True, eq=False)
class MomentChoice:
    """A message of a sensor to show.

    Attributes:
        why: heading with all reasons. detail: figures, as text.
        stamp_ns: header stamp; None if the message is unreadable.
        near_ns: arrival time, or publish time of its output.
        lost: True if the message has no output.
        truth: ground-truth boxes in the frame of the output; None if unknown.
    """

    why: str
    detail: str
    stamp_ns: int | None
    near_ns: int
    lost: bool = False
    truth: np.ndarray | None = None


def sensors_of(metrics: Mapping) -> list[SensorStream]:
    """Return the cameras and lidars of a run, cameras first."""
    topics, found = metrics["bag"]["topics"], []
    for stream in metrics["streams"].values():
        node, topic = stream["node"], stream["topic"]
        kind = topics.get(topic, {}).get("type", "")
        if kind in IMAGES + CLOUDS:
            wanted = ARRAY_2D if kind in IMAGES else ARRAY_3D
            output = _output_of(metrics["outputs"], node, topic, "detections", wanted)
            labels = _output_of(metrics["outputs"], node, topic, "segmentation", IMAGES[0])
            classes = tuple(metrics.get("bundles", {}).get(node, {}).get("classes", ()))
            found.append(SensorStream(node, topic, kind, output, wanted, labels, classes))
    return sorted(found, key=lambda sensor: (not sensor.is_camera, sensor.node, sensor.topic))


def _output_of(outputs: Mapping, node: str, topic: str, output: str, kind: str) -> str | None:
    """Return an output topic of a node; with several sensors its name contains the sensor."""
    whole = topic.removesuffix("/compressed")
    for name in (f"{node}{whole}/{output}", f"{node}{whole.rpartition('/')[0]}/{output}", f"{node}/{output}"):
        if outputs.get(name, {}).get("type") == kind:
            return name
    return None


def choose(
    view: LedgerView,
    outputs: Bag,
    sensor: SensorStream,
    parts: int,
    judged: Iterable[AnswerQuality] | None = None,
) -> list[MomentChoice]:
    """Choose the messages of a sensor to show, without duplicates.

    Args:
        view: the run's ledger.
        outputs: the bag that the run wrote.
        sensor: the stream to choose from.
        parts: number of parts of the run; each gives a good and a bad frame.
        judged: outputs compared with the ground truth; None without ground truth.
    """
    stream = view.streams.get(f"{sensor.node}: {sensor.topic}")
    choices = []
    if judged is not None:
        choices += _extremes(view, parts, _by_truth(judged), (BEST, WORST))
    elif sensor.output is not None and sensor.output in outputs.topics:
        choices += _extremes(view, parts, _by_confidence(outputs, sensor.output), (HIGHEST, LOWEST))
    elif sensor.labels is not None and sensor.labels in outputs.topics:
        choices += _extremes(view, parts, _by_classes(outputs, sensor), (MOST, FEWEST))
    if stream is not None:
        choices += [_oldest(row) for row in stream.oldest[:_OLDEST]]
        choices += [_lost(row) for row in _lost_messages(stream)]
    merged: dict[tuple, MomentChoice] = {}
    for choice in choices:
        key = (choice.stamp_ns, choice.near_ns if choice.stamp_ns is None else 0)
        first = merged.get(key)
        if first is None:
            merged[key] = choice
        elif choice.why not in first.why:
            why, detail = f"{first.why}, {choice.why}", f"{first.detail}; {choice.detail}"
            merged[key] = replace(first, why=why, detail=detail)
    return list(merged.values())


def _extremes(
    view: LedgerView, parts: int, rated: Iterable[tuple[float, MomentChoice]], why: tuple[str, str]
) -> list[MomentChoice]:
    """Return the choices with the highest and lowest rating in each part of the run."""
    highest: dict[int, tuple[float, MomentChoice]] = {}
    lowest: dict[int, tuple[float, MomentChoice]] = {}
    for rating, choice in rated:
        share = (choice.near_ns - view.start_ns) / 1e9 / view.duration_s
        part = min(max(int(share * parts), 0), parts - 1)
        if part not in highest or rating > highest[part][0]:
            highest[part] = rating, replace(choice, why=why[0])
        if part not in lowest or rating < lowest[part][0]:
            lowest[part] = rating, replace(choice, why=why[1])
    return [found[part][1] for found in (highest, lowest) for part in sorted(found)]


def _by_truth(judged: Iterable[AnswerQuality]) -> Iterator[tuple[float, MomentChoice]]:
    for answer in judged:
        told = f"{answer.right} of {answer.right + answer.missed} found, {answer.wrong} wrong"
        detail = f"F1 {answer.f1:.2f}: {told}"
        yield answer.f1, MomentChoice("", detail, answer.stamp_ns, answer.published_ns, truth=answer.truth)


def _by_confidence(outputs: Bag, topic: str) -> Iterator[tuple[float, MomentChoice]]:
    """Rate outputs by the mean score of their boxes; skip empty outputs."""
    for message in outputs.messages([topic]):
        found = DECODERS[message.message_type](message.data)
        count = len(found.detections)
        if count:
            mean = float(found.detections.scores.mean())
            boxes = "1 box" if count == 1 else f"{count} boxes"
            detail = f"mean confidence {mean:.2f} of {boxes}"
            yield mean, MomentChoice("", detail, found.stamp_ns, message.log_ns)


def _by_classes(outputs: Bag, sensor: SensorStream) -> Iterator[tuple[float, MomentChoice]]:
    """Rate labels of pixels by how many classes cover a part of the image that can be seen."""
    for message in outputs.messages([str(sensor.labels)]):
        stamp_ns, _, found = decode_segmentation(message.data, sensor.classes)
        shares = [share for share in found.shares().values() if share >= _SEEN]
        told = f"{len(shares)} classes on {sum(shares):.0%} of the picture"
        yield float(len(shares)), MomentChoice("", told, stamp_ns, message.log_ns)


def _oldest(row: Row) -> MomentChoice:
    near_ns = row.ended_ns or row.arrival_ns
    assert near_ns is not None  # it has an age, so it ended
    return MomentChoice(OLDEST, f"{row.age_ms:.1f} ms old when published", row.stamp_ns, near_ns)


def _lost_messages(stream: StreamView) -> Sequence[Row]:
    """Choose lost messages, alternating between the outcomes that occur."""
    known = {
        outcome: [row for row in stream.examples.get(outcome, []) if row.arrival_ns is not None]
        for outcome in LOST
    }
    rows = [
        (place, rank, row) for rank, outcome in enumerate(LOST) for place, row in enumerate(known[outcome])
    ]
    return [row for _, _, row in sorted(rows, key=lambda item: item[:2])[:_LOST]]


def _lost(row: Row) -> MomentChoice:
    assert row.arrival_ns is not None  # as `_lost_messages` chooses them
    why = row.outcome.replace("_", " ")
    return MomentChoice(why, row.reason or "no output", row.stamp_ns, row.arrival_ns, lost=True)
