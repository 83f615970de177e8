"""The clock of a replay: that of the log times, or that of the stamps where the two differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median_low
from typing import NamedTuple

from perception_rt.codec.transforms import parse_transforms
from perception_rt.realtime.statistics import ANOTHER_CLOCK_NS, stamp_fault
from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.replay.message_types import has_header, header_stamp_ns, is_static
from perception_rt.types import ConfigError, PerceptionError

AUTO, LOG, STAMPS = "auto", "log", "stamps"
TIMES = (AUTO, LOG, STAMPS)
TF_TYPE = "tf2_msgs/msg/TFMessage"
FREE = (TF_TYPE, "sensor_msgs/msg/CameraInfo")
"""Types whose stamps may repeat: several nodes send transforms, and a calibration holds at any time."""
PARTS, SAMPLES = 3, 5
"""Number of parts of the recording, and of messages in each, that measure the offset of a topic."""


class StampOffset(NamedTuple):
    """How far the stamps of a topic lie behind the log times, ns: the median and the least of samples."""

    median_ns: int
    least_ns: int


@dataclass(frozen=True)
class TimeBase:
    """The clock of a replay.

    Attributes:
        follows: `log` or `stamps`.
        offsets: of the stamped topics.
        behind_ns: how far the replay's clock lies behind the log times, by topic.
        faults: what is wrong with the stamps of a topic, by topic; see `stamp_fault`. Such topics do not
            affect the clock.
    """

    follows: str
    offsets: Mapping[str, StampOffset]
    behind_ns: Mapping[str, int]
    faults: Mapping[str, str]

    def summary(self) -> dict[str, object]:
        """Return the entry `clock` of the recording in metrics.json."""
        return {
            "follows": self.follows,
            "offsets_s": {topic: round(-one.median_ns / 1e9, 3) for topic, one in self.offsets.items()},
            "behind_ns": {topic: behind for topic, behind in self.behind_ns.items() if behind},
            "faults": dict(self.faults),
        }


def choose_time_base(bag: Bag, topics: Sequence[str], how: str) -> TimeBase:
    """Choose the clock of a replay.

    * `log`: the log times.
    * `auto`: the log times, unless the stamps of most topics are of another clock (more than a second off).
      Then all log times are moved by one offset, so that the order of the messages stays as logged.
    * `stamps`: each topic is moved by its own offset where that is more than a second.

    Args:
        bag: the recording. topics: those that the nodes use. how: one of `TIMES`.

    Raises:
        ConfigError: `how` is none of these.
    """
    if how not in TIMES:
        raise ConfigError(f"--time={how}: must be one of {', '.join(TIMES)}")
    samples = dict(_stamps(bag, topics))
    faults = {
        topic: fault
        for topic, pairs in samples.items()
        if bag.topics[topic][0] not in FREE and (fault := stamp_fault([stamp_ns for _, stamp_ns in pairs]))
    }
    offsets = {
        topic: StampOffset(median_low(found), min(found))
        for topic, pairs in samples.items()
        if topic not in faults and (found := [log_ns - stamp_ns for log_ns, stamp_ns in pairs if stamp_ns])
    }
    behind = dict.fromkeys(bag.topics, 0)
    if how != LOG and offsets:
        common = _cluster(offsets.values())
        whole = min(one.least_ns for one in common) if _is_other(common[0].median_ns) else 0
        behind = dict.fromkeys(bag.topics, whole)
        if how == STAMPS:
            for topic, one in offsets.items():
                near = [other.least_ns for other in offsets.values() if _are_near(one, other)]
                behind[topic] = min(near) if _is_other(one.median_ns) else 0
    return TimeBase(STAMPS if any(behind.values()) else LOG, offsets, behind, faults)


def _is_other(offset_ns: int) -> bool:
    return abs(offset_ns) > ANOTHER_CLOCK_NS


def _are_near(one: StampOffset, other: StampOffset) -> bool:
    return abs(one.median_ns - other.median_ns) <= ANOTHER_CLOCK_NS


def _cluster(offsets: Iterable[StampOffset]) -> list[StampOffset]:
    """Return the largest group of offsets near one of them; of groups of one size that nearest to 0."""
    ordered = sorted(offsets, key=lambda one: abs(one.median_ns))
    groups = [[middle, *(one for one in ordered if _are_near(one, middle))] for middle in ordered]
    return max(groups, key=len)


def _stamps(bag: Bag, topics: Sequence[str]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield log times and stamps of samples of every stamped topic; static transforms have any stamp."""
    for topic in topics:
        kind = bag.topics[topic][0]
        if has_header(kind) or (kind == TF_TYPE and not is_static(topic)):
            samples = ((m.log_ns, _stamp_ns(m)) for m in _samples(bag, topic))
            yield topic, [(log_ns, stamp_ns) for log_ns, stamp_ns in samples if stamp_ns is not None]


def _samples(bag: Bag, topic: str) -> Iterator[BagMessage]:
    """Yield some messages from the beginning of each part of the recording."""
    step_ns = (bag.end_ns - bag.start_ns) // PARTS + 1
    for part in range(PARTS):
        start_ns = bag.start_ns + part * step_ns
        yield from islice(bag.messages([topic], start_ns, start_ns + step_ns), SAMPLES)


def _stamp_ns(message: BagMessage) -> int | None:
    """Return the stamp of a message, 0 if its driver does not know it; None where it has none."""
    if message.message_type != TF_TYPE:
        return header_stamp_ns(message.data)
    try:
        return next((one.stamp_ns for one in parse_transforms(message.data, lambda error: None)), None)
    except PerceptionError:
        return None  # it is counted where it is used
