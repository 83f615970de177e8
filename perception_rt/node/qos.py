"""Subscriptions that adapt their reliability to the publishers and log the reason."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from perception_rt.component.streams import depth_of
from perception_rt.node.transport import PROFILE

STARVED_S = 3  # seconds with more messages lost than received, until the other reliability is tried
SILENT_S = 8  # the same if a publisher exists but no message arrived
ALONE_S = 5  # seconds without a publisher until a warning
TRIAL_S = 5  # until a change without effect is undone
# Types that an image topic may have instead, and how to convert them.
REPUBLISH = {
    "FFMPEGPacket": ": run `ros2 run image_transport republish --ros-args -p in_transport:=ffmpeg "
    "-p out_transport:=raw`",
    "CompressedVideo": ": decode it to images first",
    "CompressedImage": ": its name must end in /compressed, or be remapped from one that does",
}
LARGE = ("Image", "CompressedImage", "PointCloud2")  # types whose messages a transport may lose

BEST_EFFORT, RELIABLE = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE


class AdaptiveSubscription:
    """A raw subscription whose reliability follows the publishers.

    * Reliable, but a publisher offers only best effort, which does not match: falls back to best effort.
    * Best effort, but most messages are lost (large messages over a transport without our shared-memory
      segment) and the publishers offer reliable: changes to reliable, which is slower but complete. It does
      the same if publishers of a large type exist but no message arrives. The change is undone if still no
      message arrives, and when the publishers are gone.

    Attributes:
        topic: the resolved topic name.
        lost: messages that the transport reported as lost.
        silent_s: seconds since anything came or was lost, while the same matching publishers existed.
    """

    def __init__(
        self, node: Node, message_type: type, topic: str, callback: Callable[[bytes], None], reliability: str
    ) -> None:
        self._node = node
        self._type = message_type
        self._callback = callback
        self._asked = self._reliability = RELIABLE if reliability == "reliable" else BEST_EFFORT
        self._adapted = False
        self._trial_s: int | None = None  # seconds since a change on trial
        self._silence_tried = False  # in vain, with these publishers
        self._incompatible = False
        self._received = 0
        self._starved_s = 0
        self._alone_s = 0
        self._seen = (0, 0)
        self._matching: set[tuple[int, ...]] = set()  # ids of the publishers
        self.lost = self.silent_s = 0
        self._subscription: Any = None
        self._name = topic  # subscribing resolves it; twice would remap twice
        self.topic = node.resolve_topic_name(topic)
        self._open()

    @property
    def reliability(self) -> str:
        """The requested reliability: `reliable` or `best_effort`."""
        return self._reliability.name.lower()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def every_second(self) -> None:
        """Check for mismatches and losses; adapt if the publishers allow it."""
        self._check_publishers()
        received, lost = self._received - self._seen[0], self.lost - self._seen[1]
        self._seen = (self._received, self.lost)
        self._count_silence(bool(received or lost))
        offers = {info.qos_profile.reliability for info in self._publishers()}
        if self._incompatible and BEST_EFFORT in offers:
            self._incompatible = False
            self._change(BEST_EFFORT, "a publisher offers only best effort, which reliable does not match")
        elif self._reliability == BEST_EFFORT:
            self._check_losses(received, lost, offers)
        elif self._asked == BEST_EFFORT:
            self._check_change(received, offers)

    def listen_on(self, node: Node, callback: Callable[[bytes], None]) -> None:
        """Subscribe another node to the topic, with the same QoS."""
        node.create_subscription(self._type, self.topic, callback, self._profile(), raw=True)

    def _type_name(self) -> str:
        return self._type.__module__.split(".")[0] + "/msg/" + self._type.__name__

    def _count_silence(self, heard: bool) -> None:
        before = self._matching
        self._matching = {
            tuple(info.endpoint_gid)
            for info in self._publishers()
            if info.topic_type == self._type_name()
            and self._reliability in (BEST_EFFORT, info.qos_profile.reliability)
        }
        same = bool(before) and self._matching == before
        self.silent_s = self.silent_s + 1 if same and not heard else 0

    def _check_publishers(self) -> None:
        """Warn once if a topic has no publisher for a while, with similar names that have one."""
        name = self._type_name()
        types = {info.topic_type for info in self._publishers()}
        self._alone_s = 0 if name in types else self._alone_s + 1
        if self._alone_s != ALONE_S:
            return
        if types:
            hint = next((text for kind, text in REPUBLISH.items() if any(kind in one for one in types)), "")
            self._node.get_logger().warning(
                f"{self.topic} is published as {', '.join(sorted(types))}, not as {name}{hint}"
            )
            return
        offered = [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if name in types and topic != self.topic and self._node.count_publishers(topic)
        ]
        close = difflib.get_close_matches(self.topic, offered, 3, 0.4) or sorted(offered)[:3]
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        self._node.get_logger().warning(f"no publisher of {self.topic} for {ALONE_S} s{hint}")

    def _check_losses(self, received: int, lost: int, offers: set[ReliabilityPolicy]) -> None:
        """Change to reliable if messages are lost and the publishers offer it."""
        if not offers:
            self._adapted, self._starved_s, self._silence_tried = False, 0, False
            return
        # Silence counts only until the first message; later the publisher may be silent.
        never = self._received == 0 and self.lost == 0 and self._type.__name__ in LARGE
        silent = never and not self._silence_tried
        self._starved_s = self._starved_s + 1 if lost > received or silent else 0
        if lost > received and self._starved_s == STARVED_S and BEST_EFFORT in offers:
            self._warn_of_losses(lost, received)
        if self._adapted or offers != {RELIABLE} or self._starved_s < (SILENT_S if silent else STARVED_S):
            return
        if silent:
            self._trial_s = 0
            what = f"{len(self._publishers())} publisher, but no message came for {SILENT_S} s"
        else:
            what = f"{lost} of {lost + received} messages were lost in the last second"
        self._change(
            RELIABLE,
            f"{what}; if the publisher sends large messages, give it the shared-memory profile "
            "(FASTDDS_DEFAULT_PROFILES_FILE, see README) for lower latency",
        )

    def _warn_of_losses(self, lost: int, received: int) -> None:
        """Log a remedy if the publisher offers only best effort."""
        names = ", ".join(sorted({info.node_name for info in self._publishers()}))
        self._node.get_logger().warning(
            f"{self.topic}: {lost} of {lost + received} messages of one second were lost on the way from "
            f"{names}: start it with FASTDDS_DEFAULT_PROFILES_FILE={PROFILE}, which gives large messages "
            "shared memory, or let it offer reliable"
        )

    def _check_change(self, received: int, offers: set[ReliabilityPolicy]) -> None:
        """Go back to best effort if reliable had no effect, or its publishers are gone."""
        if not offers:
            self._change(BEST_EFFORT, "its publishers are gone")
            self._adapted, self._trial_s, self._silence_tried = False, None, False
        elif self._trial_s is not None:
            self._trial_s = None if received else self._trial_s + 1
            if self._trial_s == TRIAL_S:
                self._trial_s, self._silence_tried = None, True
                self._change(BEST_EFFORT, "no message came as reliable either: the publisher is silent")
                self._adapted = False  # it may still lose messages once it sends

    def publisher_count(self) -> int:
        """Return the number of discovered publishers on the topic."""
        return len(self._publishers())

    def _publishers(self) -> list:
        return self._node.get_publishers_info_by_topic(self.topic)

    def _profile(self) -> QoSProfile:
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=depth_of(self._type.__name__),
            reliability=self._reliability,
            durability=DurabilityPolicy.VOLATILE,
        )

    def _open(self) -> None:
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._on_incompatible, message_lost=self._on_lost, use_default_callbacks=False
        )
        self._subscription = self._node.create_subscription(
            self._type, self._name, self._on_message, self._profile(), raw=True, event_callbacks=events
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
