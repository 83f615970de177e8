"""Record a replay: the bag, the ledger, and the counts and times of every stream."""

from __future__ import annotations

import csv
import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pipeline import STAGES, StreamStats
from perception_rt.realtime.statistics import nearest_rank
from perception_rt.replay.bag import BagMessage, Damage
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.live import Live

LEDGER = "ledger.csv"
BAG = "bag"
COLUMNS = (
    *("node", "topic", "number", "arrival_ns", "stamp_ns"),
    *(f"{stage}_ms" for stage in STAGES),
    *("ended_ns", "age_ms", "outcome", "reason"),
)
RECORDING = "bag"
"""Value of the column `node` in rows about unreadable parts of the recording."""
UNREADABLE = "unreadable"


class RecordedStream:
    """The outcomes and times, in ms, of all messages of one topic at one node."""

    def __init__(self, node: str, topic: str, stats: StreamStats) -> None:
        self.node, self.topic, self.stats = node, topic, stats
        self.ages = array("d")
        self.stages = {stage: array("d") for stage in STAGES}
        self.first_ns = self.last_ns = 0

    def take(self, entry: Entry, ended_ns: int) -> float | None:
        """Record a finished message and return its age in ms; None if nothing was published."""
        for stage, took_ms in entry.stages_ms.items():
            self.stages[stage].append(took_ms)
        if entry.outcome is not Outcome.PUBLISHED:
            return None
        self.first_ns = self.first_ns if self.ages else ended_ns
        self.last_ns = ended_ns
        assert entry.stamp_ns is not None  # it was read, or nothing could be published
        self.ages.append((ended_ns - entry.stamp_ns) / 1e6)
        return self.ages[-1]

    def summary(self) -> dict[str, Any]:
        """Return the stream's entry in metrics.json."""
        counts = self.stats.ledger.snapshot()
        span_s = (self.last_ns - self.first_ns) / 1e9
        return {
            "node": self.node,
            "topic": self.topic,
            "received": counts["received"],
            "states": counts["states"],
            "reasons": counts["reasons"],
            "rate_hz": round((len(self.ages) - 1) / span_s, 3) if span_s > 0 else 0.0,
            "age_ms": percentiles(self.ages, (50, 90, 99)),
            "stages_ms": {stage: percentiles(times, (50, 99)) for stage, times in self.stages.items()},
        }


class Published:
    """The number of messages published on one topic, and the hash of their times and bytes."""

    def __init__(self) -> None:
        self.count = 0
        self.sha256 = hashlib.sha256()

    def add(self, time_ns: int, data: bytes) -> None:
        """Add a message."""
        self.count += 1
        self.sha256.update(time_ns.to_bytes(8, "little", signed=True))
        self.sha256.update(data)


class Recorder:
    """The `ReplayObserver` of a router; it also records every ledger.

    Args:
        live: viewer that shows the messages; None for no viewer.
    """

    def __init__(self, live: Live | None) -> None:
        self.streams: dict[str, RecordedStream] = {}
        self.outputs: defaultdict[str, Published] = defaultdict(Published)
        self.read: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.unreadable = 0
        self._live = live

    @contextmanager
    def writing(self, folder: Path) -> Iterator[None]:
        """Write everything inside the `with` block to a folder, which must exist and be empty."""
        with (folder / LEDGER).open("w", newline="") as file, BagWriter(folder / BAG) as self._bag:
            self._rows = csv.writer(file, lineterminator="\n")
            self._rows.writerow(COLUMNS)
            yield

    def add_stream(self, node: str, stats: Mapping[str, StreamStats], now_ns: Callable[[], int]) -> None:
        """Write a row for every message that these ledgers finish."""
        for topic, one in stats.items():
            stream = RecordedStream(node, topic, one)
            self.streams[f"{node}: {topic}"] = stream
            one.ledger.on_end = lambda entry, stream=stream: self._ended(stream, entry, now_ns())

    def delivered(self, message: BagMessage) -> None:
        """Count a recorded message and pass it to the live viewer."""
        self.read[message.topic] += 1
        if self._live is not None:
            self._live.message(message.topic, message.message_type, message.log_ns, message.data)

    def published(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """Write a published message to the bag and pass it to the live viewer."""
        if self._live is not None:
            self._live.message(topic, message_type, time_ns, data)
        self._bag.write(topic, message_type, time_ns, data)
        self.outputs[topic].add(time_ns, data)

    def shown(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """Pass a visualization message to the live viewer."""
        if self._live is not None:
            self._live.message(topic, message_type, time_ns, data)

    def refused(self, topic: str, time_ns: int, error: Exception, partly: bool = False) -> None:
        """Record a message that cannot be used (partly: in part), and that no node's ledger counts."""
        self._unreadable(topic, 0 if partly else 1, time_ns, str(error))

    def damaged(self, damage: Damage) -> None:
        """Record a part of the recording that cannot be read."""
        self._unreadable(damage.topic, damage.messages, damage.log_ns, damage.reason)

    def _unreadable(self, topic: str, messages: int | None, time_ns: int | None, reason: str) -> None:
        if messages == 0:
            self.faults[reason] += 1
        else:
            self.unreadable += messages or 0
            self.reasons[reason] += messages or 1
        row = [RECORDING, topic, "" if messages is None else messages, "" if time_ns is None else time_ns]
        self._rows.writerow([*row, *[""] * (len(COLUMNS) - 6), UNREADABLE, reason])

    def _ended(self, stream: RecordedStream, entry: Entry, ended_ns: int) -> None:
        assert entry.outcome is not None  # it has ended
        age_ms = stream.take(entry, ended_ns)
        if self._live is not None and age_ms is not None:
            self._live.ages(f"{stream.node}{stream.topic}", ended_ns, age_ms)
        self._rows.writerow(
            [
                stream.node,
                stream.topic,
                entry.number,
                entry.arrival_ns,
                "" if entry.stamp_ns is None else entry.stamp_ns,
                *(_ms(entry.stages_ms.get(stage)) for stage in STAGES),
                ended_ns,
                _ms(age_ms),
                entry.outcome.value,
                entry.reason,
            ]
        )


def percentiles(values: array, ranks: tuple[int, ...]) -> dict[str, float] | None:
    """Return `{"p50": ..., "max": ...}` by nearest rank, in ms with 3 decimals; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    found = {f"p{rank}": nearest_rank(ordered, rank) for rank in ranks}
    return {name: round(value, 3) for name, value in {**found, "max": ordered[-1]}.items()}


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
