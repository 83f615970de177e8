"""Subscriptions that adapt to what publishers offer, and say so, instead of staying silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from perception_rt.component.streams import DEPTH

STARVED_S = 3  # seconds of more messages lost than received, after which the other reliability is tried
SILENT_S = 8  # the same without any message: the publisher may just not have begun

BEST_EFFORT, RELIABLE = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE


class AdaptiveSubscription:
    """A raw subscription whose reliability follows the publishers.

    * Asked for reliable while a publisher offers best effort (which would match nothing): falls back to best
      effort.
    * Best effort, but most messages are lost on the way (large messages over a transport without our
      shared-memory segment) while the publishers offer reliable: changes to reliable, slower but complete.

    Attributes:
        topic: the resolved topic name.
        lost: messages that the transport reported as lost before they reached this node.
    """

    def __init__(
        self, node: Node, message_type: type, topic: str, callback: Callable[[bytes], None], reliability: str
    ) -> None:
        self._node = node
        self._type = message_type
        self._callback = callback
        self._reliability = RELIABLE if reliability == "reliable" else BEST_EFFORT
        self._adapted = False
        self._incompatible = False
        self._received = 0
        self._starved_s = 0
        self._seen = (0, 0)
        self.lost = 0
        self._subscription: Any = None
        self._name = topic  # subscribing resolves it; twice would remap twice
        self.topic = node.resolve_topic_name(topic)
        self._open()

    @property
    def reliability(self) -> str:
        """What is asked for now: `reliable` or `best_effort`."""
        return self._reliability.name.lower()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def every_second(self) -> None:
        """Look for mismatches and starvation; adapt where the publishers allow it."""
        received, lost = self._received - self._seen[0], self.lost - self._seen[1]
        self._seen = (self._received, self.lost)
        silent = self._received == 0 and self.lost == 0  # since the start; later silence is the publisher's
        self._starved_s = self._starved_s + 1 if lost > received or silent else 0
        offers = {info.qos_profile.reliability for info in self._publishers()}
        if self._incompatible and BEST_EFFORT in offers:
            self._incompatible = False
            self._change(BEST_EFFORT, "a publisher offers only best effort, which reliable does not match")
        elif (
            self._reliability == BEST_EFFORT
            and not self._adapted
            and self._starved_s >= (SILENT_S if silent else STARVED_S)
            and offers == {RELIABLE}
        ):
            what = f"{lost} of {lost + received} messages were lost" if lost else "nothing came"
            self._change(
                RELIABLE,
                f"{what} in the last second; if the publisher sends large messages, give it the "
                "shared-memory profile (FASTDDS_DEFAULT_PROFILES_FILE, see README) for lower latency",
            )

    def publisher_count(self) -> int:
        """Publishers that are known on the topic."""
        return len(self._publishers())

    def _publishers(self) -> list:
        return self._node.get_publishers_info_by_topic(self.topic)

    def _open(self) -> None:
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=self._reliability,
            durability=DurabilityPolicy.VOLATILE,
        )
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._on_incompatible, message_lost=self._on_lost, use_default_callbacks=False
        )
        self._subscription = self._node.create_subscription(
            self._type, self._name, self._on_message, profile, raw=True, event_callbacks=events
        )

    def _change(self, reliability: ReliabilityPolicy, reason: str) -> None:
        self._node.get_logger().warning(
            f"{self.topic}: subscribing as {reliability.name.lower()} instead of {self.reliability}: {reason}"
        )
        self._adapted = True
        self._starved_s = 0
        self._reliability = reliability
        self.close()
        self._open()

    def _on_message(self, message: bytes) -> None:
        self._received += 1
        self._callback(message)

    def _on_incompatible(self, info: Any) -> None:
        self._incompatible = True
        self._node.get_logger().warning(
            f"{self.topic}: a publisher offers less than asked for (policy {info.last_policy_kind.name})"
        )

    def _on_lost(self, info: Any) -> None:
        self.lost += info.total_count_change
