"""Choose the moments of a run to show as pictures, by a fixed rule.

Of each camera and lidar, one of each part of the run: the best and the worst frame by the truth; where there
is none, the frames whose boxes are the surest and the least sure on average, which is what the model thinks
of itself, not what is true. Then the answer that was the oldest when it came, and messages that were not
answered, of every outcome that occurs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from perception_rt.codec import NamedDetections, decode_named_detections, decode_named_detections3d
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
SUREST, LEAST_SURE, BEST, WORST, OLDEST = "surest", "least sure", "best", "worst", "oldest answer"
_OLDEST = 1
_LOST = 3


@dataclass(frozen=True, slots=True)
class SensorStream:
    """A camera or a lidar of a run.

    Attributes:
        node, topic: who hears what. message_type: of the topic.
        output: the detector's topic; None where it published nothing. output_type: of it.
    """

    node: str
    topic: str
    message_type: str
    output: str | None
    output_type: str

    @property
    def is_camera(self) -> bool:
        """Or else a lidar."""
        return self.message_type in IMAGES


@dataclass(frozen=True, slots=True, eq=False)
class MomentChoice:
    """A message of a sensor to show.

    Attributes:
        why: a heading, of all reasons. detail: figures, as text.
        stamp_ns: of its header; None where it could not be read.
        near_ns: when it arrived, or when its answer was published.
        lost: whether it has no answer.
        truth: boxes that had to be found, in the frame of the answer; None where that is not known.
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
            found.append(
                SensorStream(node, topic, kind, _output_of(metrics["outputs"], node, topic, wanted), wanted)
            )
    return sorted(found, key=lambda sensor: (not sensor.is_camera, sensor.node, sensor.topic))


def _output_of(outputs: Mapping, node: str, topic: str, kind: str) -> str | None:
    """A detector names its output after itself, and after the sensor where it has several."""
    prefix = topic.removesuffix("/compressed").rpartition("/")[0]
    for name in (f"{node}{prefix}/detections", f"{node}/detections"):
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
        sensor: whose messages.
        parts: how many parts of the run give a good and a bad frame.
        judged: the sensor's answers held to the truth; None where there is none.
    """
    stream = view.streams.get(f"{sensor.node}: {sensor.topic}")
    choices = []
    if judged is not None:
        choices += _extremes(view, parts, _by_truth(judged), (BEST, WORST))
    elif sensor.output is not None and sensor.output in outputs.topics:
        choices += _extremes(view, parts, _by_confidence(outputs, sensor.output), (SUREST, LEAST_SURE))
    if stream is not None:
        choices += [_oldest(row) for row in stream.oldest[:_OLDEST]]
        choices += [_lost(row) for row in _unanswered(stream)]
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
    """Rate answers by the mean score of their boxes; skip answers without boxes."""
    for message in outputs.messages([topic]):
        found = DECODERS[message.message_type](message.data)
        count = len(found.detections)
        if count:
            mean = float(found.detections.scores.mean())
            boxes = "1 box" if count == 1 else f"{count} boxes"
            detail = f"mean confidence {mean:.2f} of {boxes}"
            yield mean, MomentChoice("", detail, found.stamp_ns, message.log_ns)


def _oldest(row: Row) -> MomentChoice:
    near_ns = row.ended_ns or row.arrival_ns
    assert near_ns is not None  # it has an age, so it ended
    return MomentChoice(OLDEST, f"{row.age_ms:.1f} ms old when published", row.stamp_ns, near_ns)


def _unanswered(stream: StreamView) -> Sequence[Row]:
    """Some of every outcome that occurs, in turns."""
    known = {
        outcome: [row for row in stream.examples.get(outcome, []) if row.arrival_ns is not None]
        for outcome in LOST
    }
    rows = [
        (place, rank, row) for rank, outcome in enumerate(LOST) for place, row in enumerate(known[outcome])
    ]
    return [row for _, _, row in sorted(rows, key=lambda item: item[:2])[:_LOST]]


def _lost(row: Row) -> MomentChoice:
    assert row.arrival_ns is not None  # as `_unanswered` chooses them
    why = row.outcome.replace("_", " ")
    return MomentChoice(why, row.reason or "no answer", row.stamp_ns, row.arrival_ns, lost=True)
