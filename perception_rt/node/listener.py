"""What nodes of light work share: it is done on the executor's thread, every message accounted for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from perception_rt.node.qos import AdaptiveSubscription
from perception_rt.node.shell import PerceptionNode
from perception_rt.node.streams import StreamReport
from perception_rt.realtime.ledger import Fate
from perception_rt.realtime.pipeline import Account


class ListenerNode(PerceptionNode):
    """Subscriptions with a ledger each.

    Attributes:
        gate: held while a message is worked on; nothing is worked on once the node was deactivated.
    """

    def __init__(self, node_name: str, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self.gate = threading.Lock()
        self._subscriptions_in: list[AdaptiveSubscription] = []
        self._reports: list[StreamReport] = []

    def subscribe(
        self, kind: type, topic: str, callback: Callable[[bytes], None], reliability: str
    ) -> AdaptiveSubscription:
        """Take serialized messages that no ledger accounts for, until `close_inputs`."""
        subscription = AdaptiveSubscription(self, kind, topic, callback, reliability)
        self._subscriptions_in.append(subscription)
        return subscription

    def listen(
        self,
        kind: type,
        topic: str,
        account: Account,
        receive: Callable[[bytes], None],
        reliability: str = "reliable",
    ) -> None:
        """Take serialized messages while the node is active, until `close_inputs`.

        Args:
            kind: of the messages. topic: as in the parameters. account: counts them.
            receive: sees to it that the message ends in the ledger, now or later; what it raises is counted
                as a decode error.
            reliability: asked of publishers.
        """
        stream = self.resolve_topic_name(topic)
        subscription = self.subscribe(
            kind, topic, lambda data: self._take(stream, account, receive, data), reliability
        )
        self._reports.append(StreamReport(f"{self.get_name()}: {stream}", account, subscription))

    def close_inputs(self) -> None:
        """Unsubscribe from everything."""
        for subscription in self._subscriptions_in:
            subscription.close()
        self._subscriptions_in, self._reports = [], []

    def _take(self, stream: str, account: Account, receive: Callable[[bytes], None], data: bytes) -> None:
        with self.gate:
            if not self.active:
                return
            account.ledger.receive()
            account.last_arrival_ns = self.now_ns()
            try:
                receive(data)
            except Exception as error:  # noqa: BLE001 - whatever a message holds, the next one is received
                account.ledger.settle(Fate.DECODE_ERROR, str(error))
                self.complain(stream, error)

    def show(self, draw: Callable[..., None], *args: Any) -> None:
        """Call what publishes for people, after the result is out: its failure is told, and costs nothing."""
        try:
            draw(*args)
        except Exception as error:  # noqa: BLE001 - a picture for people must not cost a result
            self.complain(self.get_name(), error)

    def every_second(self) -> None:
        """Let subscriptions adapt."""
        for subscription in self._subscriptions_in:
            subscription.every_second()

    def stream_statuses(self, more: Mapping[str, object] | None = None) -> list[DiagnosticStatus]:
        """One status for each stream."""
        return [report.make(self.now_ns(), "", more or {}) for report in self._reports]
