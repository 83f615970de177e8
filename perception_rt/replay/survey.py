"""Survey a recording or a running graph: topics, rates, frames and transforms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.transforms import parse_transforms
from perception_rt.replay.bag import Bag
from perception_rt.replay.message_types import has_header
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.types import PerceptionError

TF_TYPE = "tf2_msgs/msg/TFMessage"
SAMPLES = 5  # messages of a topic that are read
MOST_TRANSFORMS = 500  # enough to know the tree


@dataclass
class SurveyedTopic:
    """A topic.

    Attributes:
        name: absolute. message_type: as ``sensor_msgs/msg/Image``.
        rate_hz: mean; 0 for a single message.
        sample: its first serialized message; None if none was received.
        qos: what its publishers offer, in words; empty if not known.
        spare: the messages after the first, which may be a broken one.
    """

    name: str
    message_type: str
    rate_hz: float = 0.0
    sample: bytes | None = None
    qos: str = ""
    spare: tuple[bytes, ...] = ()

    @property
    def frame_id(self) -> str:
        """The frame of the sample's header, without a leading slash; empty if there is none."""
        if self.sample is None or not has_header(self.message_type):
            return ""
        try:
            return CdrReader(self.sample).header()[1].removeprefix("/")
        except PerceptionError:
            return ""


@dataclass
class Survey:
    """All topics of a source, and its transforms.

    Attributes:
        parents: by frame, its parent and whether the transform is static.
        transforms: as many as were read.
        faults: messages that cannot be used, with the reason.
    """

    topics: list[SurveyedTopic] = field(default_factory=list)
    parents: dict[str, tuple[str, bool]] = field(default_factory=dict)
    transforms: TransformBuffer = field(default_factory=lambda: TransformBuffer(10**18))
    faults: list[str] = field(default_factory=list)

    def of_type(self, *message_types: str) -> list[SurveyedTopic]:
        """Return the topics that have one of some types, by name."""
        found = [topic for topic in self.topics if topic.message_type in message_types]
        return sorted(found, key=lambda topic: topic.name)

    def add_transforms(self, topic: str, messages: Sequence[bytes] | Iterator[bytes]) -> None:
        """Add the transforms of serialized messages of /tf or /tf_static."""
        static = topic.endswith("tf_static")
        for data in messages:
            try:
                for one in parse_transforms(data, lambda error: self.faults.append(f"{topic}: {error}")):
                    self.parents.setdefault(one.child, (one.parent, static))
                    self.transforms.add(
                        one.parent, one.child, one.stamp_ns, one.translation, one.quaternion, static
                    )
            except PerceptionError as error:
                self.faults.append(f"{topic}: {error}")

    def way_up(self, frame: str) -> list[str]:
        """Return a frame and those above it."""
        way = [frame]
        while way[-1] in self.parents and (parent := self.parents[way[-1]][0]) not in way:
            way.append(parent)
        return way

    def connected(self, one: str, other: str) -> bool:
        """Return whether transforms lead from one frame to another."""
        return bool(one) and (one == other or bool(set(self.way_up(one)) & set(self.way_up(other))))


def survey_bag(bag: Bag, most_transforms: int | None = MOST_TRANSFORMS) -> Survey:
    """Survey a recording; reads the first messages of each topic and the first transforms.

    Args:
        most_transforms: number of messages that are read of each topic of transforms; None for all.
    """
    survey = Survey()
    for name, (kind, count) in bag.topics.items():
        samples = [message.data for message in islice(bag.messages([name]), SAMPLES)]
        rate_hz = (count - 1) / bag.duration_s if count > 1 and bag.duration_s > 0 else 0.0
        topic = SurveyedTopic(name, kind, rate_hz, next(iter(samples), None), bag.offers.get(name, ""))
        topic.spare = tuple(samples[1:])
        survey.topics.append(topic)
    for topic in survey.of_type(TF_TYPE):
        messages = islice(bag.messages([topic.name]), most_transforms)
        survey.add_transforms(topic.name, (message.data for message in messages))
    return survey
