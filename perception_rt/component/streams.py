"""What /diagnostics says of one stream of messages: its ledger, its times, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.pipeline import StreamStats
from perception_rt.types.status import Level, Status

DEPTH = 5  # of subscriptions: of one, DDS would replace frames uncounted; the mailbox keeps the newest
STALE_NS = 2_000_000_000  # silence after which diagnostics warn


class Subscription(Protocol):
    """A topic that is subscription.

    Attributes:
        topic: its absolute name.
        lost: messages that the transport reported as lost before they came.
        reliability: what is asked for now: `reliable` or `best_effort`.
    """

    topic: str
    lost: int
    reliability: str

    def publisher_count(self) -> int:
        """Publishers that are known on the topic."""
        ...


class StreamReport:
    """Makes a stream's status, once a second; an error is a warning while it is news.

    Args:
        name: of the status, as `camera_detector: /image_raw`.
        stats: of the stream.
        subscription: where its messages come from.
    """

    def __init__(self, name: str, stats: StreamStats, subscription: Subscription) -> None:
        self.stats = stats
        self._name = name
        self._subscription = subscription
        self._told: dict[str, int] = {}  # the states at the last report

    def make(self, now_ns: int, hardware_id: str, more: Mapping[str, object]) -> Status:
        """The status now, with `more` values of the node's own."""
        stats, subscription = self.stats, self._subscription
        book = stats.ledger.snapshot()
        values = {"received": book["received"], "pending": book["pending"], **book["states"]}
        values |= {"transport_lost": subscription.lost, "reliability": subscription.reliability}
        values["rate_hz"] = stats.rate.rate_hz(now_ns)
        for stage, window in {"age": stats.age, **stats.stages}.items():
            for key, value in (window.percentiles() or {}).items():
                values[f"{stage}_ms_{key}"] = value
        values |= more
        values |= {f"last_{state}": reason for state, reason in book["reasons"].items()}
        level, message = self._judge(book, now_ns)
        return Status(self._name, level, message, hardware_id, values)

    def _judge(self, book: dict, now_ns: int) -> tuple[Level, str]:
        told, self._told = self._told, book["states"]
        arrival = self.stats.last_arrival_ns
        if arrival is None or now_ns - arrival > STALE_NS:
            topic, publishers = self._subscription.topic, self._subscription.publisher_count()
            return Level.WARN, f"no messages; publishers on {topic}: {publishers}"
        for outcome in (Outcome.MODEL_ERROR, Outcome.DECODE_ERROR):
            if book["states"][outcome.value] > told.get(outcome.value, 0):
                return Level.WARN, f"{outcome.value}: {book['reasons'].get(outcome.value)}"
        return Level.OK, "frames flow"
