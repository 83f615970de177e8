"""The diagnostics of one stream of messages: counts, times and problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.pipeline import StreamStats
from perception_rt.types.status import Level, Status

DEPTH = 5  # of subscriptions; with 1, DDS would replace messages without counting them
FAST_DEPTH = 200  # of which hundreds may come each second, and all count, also while the process is held up
FAST = ("Imu", "Odometry", "NavSatFix", "TwistWithCovarianceStamped")
STALE_NS = 2_000_000_000  # time without messages until diagnostics warn


def depth_of(message_type: str) -> int:
    """Return the depth of a subscription of a type, like `Image` or `sensor_msgs/msg/Image`."""
    return FAST_DEPTH if message_type.rpartition("/")[2] in FAST else DEPTH


class Subscription(Protocol):
    """A subscription.

    Attributes:
        topic: its absolute name.
        lost: messages reported as lost by the transport.
        reliability: requested now: `reliable` or `best_effort`.
    """

    topic: str
    lost: int

    @property
    def reliability(self) -> str:
        """Return the requested reliability."""
        ...

    def publisher_count(self) -> int:
        """Return the number of discovered publishers on the topic."""
        ...


class StreamReport:
    """Creates a stream's status once a second; new errors since the last one are a warning.

    Args:
        name: of the status, as `camera_detector: /image_raw`.
        stats: of the stream.
        subscription: the source of its messages.
    """

    def __init__(self, name: str, stats: StreamStats, subscription: Subscription) -> None:
        self.stats = stats
        self._name = name
        self._subscription = subscription
        self._last_states: dict[str, int] = {}  # at the last report

    def make(self, now_ns: int, hardware_id: str, more: Mapping[str, object]) -> Status:
        """Return the current status, with `more` values from the node."""
        stats, subscription = self.stats, self._subscription
        book = stats.ledger.snapshot()
        values = {"received": book["received"], "pending": book["pending"], **book["states"]}
        values |= {"transport_lost": subscription.lost, "reliability": subscription.reliability}
        behind_ns = stats.offset.behind_ns()
        values["clock_offset_s"] = 0.0 if behind_ns is None else -behind_ns / 1e9
        values["rate_hz"] = stats.rate.rate_hz(now_ns)
        for stage, window in {"age": stats.age, **stats.stages}.items():
            for key, value in (window.percentiles() or {}).items():
                values[f"{stage}_ms_{key}"] = value
        values |= more
        values |= {f"last_{state}": reason for state, reason in book["reasons"].items()}
        level, message = self._judge(book, now_ns)
        return Status(self._name, level, message, hardware_id, values)

    def _judge(self, book: dict, now_ns: int) -> tuple[Level, str]:
        last, self._last_states = self._last_states, book["states"]
        arrival = self.stats.last_arrival_ns
        if arrival is None or now_ns - arrival > STALE_NS:
            topic, publishers = self._subscription.topic, self._subscription.publisher_count()
            lost = f"; {self._subscription.lost} were lost on the way" if self._subscription.lost else ""
            return Level.WARN, f"no messages; publishers on {topic}: {publishers}{lost}"
        for outcome in (Outcome.MODEL_ERROR, Outcome.DECODE_ERROR):
            if book["states"][outcome.value] > last.get(outcome.value, 0):
                return Level.WARN, f"{outcome.value}: {book['reasons'].get(outcome.value)}"
        if fault := self.stats.offset.fault():
            return Level.WARN, fault
        behind_ns = self.stats.offset.behind_ns()
        if behind_ns is not None:
            side = "behind" if behind_ns > 0 else "ahead of"
            what = f"stamps are {abs(behind_ns) / 1e9:.1f} s {side} the node's clock"
            return Level.WARN, f"{what}: set use_sim_time, or correct the sensor's clock"
        return Level.OK, "frames flow"
