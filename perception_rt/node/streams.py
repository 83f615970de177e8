"""What /diagnostics says of one stream of messages: its ledger, its times, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus

from perception_rt.node.qos import AdaptiveSubscription
from perception_rt.node.shell import status
from perception_rt.realtime.ledger import Fate
from perception_rt.realtime.pipeline import Account

STALE_NS = 2_000_000_000  # silence after which diagnostics warn


class StreamReport:
    """Makes a stream's status, once a second; an error is a warning while it is news.

    Args:
        name: of the status, as `camera_detector: /image_raw`.
        account: of the stream.
        subscription: where its messages come from.
    """

    def __init__(self, name: str, account: Account, subscription: AdaptiveSubscription) -> None:
        self.account = account
        self._name = name
        self._subscription = subscription
        self._told: dict[str, int] = {}  # the states at the last report

    def make(self, now_ns: int, hardware_id: str, more: Mapping[str, object]) -> DiagnosticStatus:
        """The status now, with `more` values of the node's own."""
        account, subscription = self.account, self._subscription
        book = account.ledger.snapshot()
        values = {"received": book["received"], "pending": book["pending"], **book["states"]}
        values |= {"transport_lost": subscription.lost, "reliability": subscription.reliability}
        values["rate_hz"] = account.rate.rate_hz(now_ns)
        for stage, window in {"age": account.age, **account.stages}.items():
            for key, value in (window.percentiles() or {}).items():
                values[f"{stage}_ms_{key}"] = value
        values |= more
        values |= {f"last_{state}": reason for state, reason in book["reasons"].items()}
        level, message = self._judge(book, now_ns)
        return status(self._name, level, message, hardware_id, values)

    def _judge(self, book: dict, now_ns: int) -> tuple[bytes, str]:
        told, self._told = self._told, book["states"]
        arrival = self.account.last_arrival_ns
        if arrival is None or now_ns - arrival > STALE_NS:
            count = self._subscription.publisher_count()
            return DiagnosticStatus.WARN, f"no frames; publishers on {self._subscription.topic}: {count}"
        for fate in (Fate.MODEL_ERROR, Fate.DECODE_ERROR):
            if book["states"][fate.value] > told.get(fate.value, 0):
                return DiagnosticStatus.WARN, f"{fate.value}: {book['reasons'].get(fate.value)}"
        return DiagnosticStatus.OK, "frames flow"
