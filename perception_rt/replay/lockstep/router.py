"""Route messages and transforms between the recording and the nodes, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple, Protocol

from perception_rt.replay.bag import BagMessage
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.types import ConfigError, PerceptionError

COMPRESSED = "sensor_msgs/msg/CompressedImage"
VISUALIZATION_TYPES = ("sensor_msgs/msg/Image", "visualization_msgs/msg/MarkerArray")
TF, TF_STATIC = "/tf", "/tf_static"
TF_TYPE = "tf2_msgs/msg/TFMessage"
DIAGNOSTICS, DIAGNOSTICS_TYPE = "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"


def compressed_hint(topic: str) -> str:
    """Return how a node gets a CompressedImage whose name does not say that it is one."""
    return f"a CompressedImage: name it {topic}/compressed in the node's parameters"


class RouterSubscription(NamedTuple):
    """A node's subscription to a topic."""

    node: str
    message_type: str
    receive: Callable[[bytes], None]


class ReplayObserver(Protocol):
    """The interface of an object that observes all messages of a router."""

    def delivered(self, message: BagMessage) -> None:
        """Observe a recorded message after its delivery to the subscribers."""
        ...

    def published(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """Observe a message that a node published."""
        ...

    def shown(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """Observe a visualization message that a node published."""
        ...

    def refused(self, topic: str, time_ns: int, error: Exception, partly: bool = False) -> None:
        """Observe a message that cannot be used (partly: in part), and that no node's ledger counts."""
        ...


class Router:
    """Deliver messages from the recording and from the nodes to the subscribed nodes.

    Args:
        recorded: message types by recorded topic. remaps: new topic name by old name.
        observer: sees every message. watched: whether a live viewer shows visualization messages.

    Attributes:
        transforms: all transforms so far. transform_users: the nodes that use them.
        foreseen: all transforms before the message that is computed ahead of time.
        subscriptions: by topic.
        announced: publishing node and message type, by topic.
        visualizations: topics that are shown and not recorded.
    """

    def __init__(
        self,
        loop: EventLoop,
        recorded: Mapping[str, str],
        remaps: Mapping[str, str],
        observer: ReplayObserver,
        watched: bool,
    ) -> None:
        self.transforms, self.foreseen = TransformBuffer(), TransformBuffer()
        self.transform_users: list[str] = []
        self.subscriptions: dict[str, list[RouterSubscription]] = {}
        self.announced = {DIAGNOSTICS: ("", DIAGNOSTICS_TYPE)}  # "": every node publishes it
        self.visualizations: set[str] = set()
        self._loop = loop
        self._recorded = recorded
        self._remaps = remaps
        self._unused = dict(remaps)
        self._tf = self.remapped(TF), self.remapped(TF_STATIC)
        self._observer = observer
        self._watched = watched

    def remapped(self, topic: str) -> str:
        """Return the name of a topic after remapping.

        Nodes know a CompressedImage by a name that ends in /compressed, and so get one of any name.
        """
        self._unused.pop(topic, None)
        topic = self._remaps.get(topic, topic)
        whole = topic.removesuffix("/compressed")
        if topic not in self._recorded and self._recorded.get(whole) == COMPRESSED:
            return whole
        return topic

    def check_remaps(self) -> None:
        """Check that every remapping was used; call it after all nodes were created.

        Raises:
            ConfigError: no node uses the topic; lists the topics that are used.
        """
        for name, topic in self._unused.items():
            used = ", ".join(sorted({*self.subscriptions, *self.announced}))
            raise ConfigError(f"-r {name}:={topic}: no node uses {name}; the topics are {used}")

    def check_inputs(self) -> None:
        """Check that a node subscribes to at least one topic of the recording.

        Raises:
            ConfigError: there is none, or no message; lists wanted and recorded topics, and similar names.
        """
        if any(self.users(topic) for topic in self._recorded):
            return
        if not self._recorded:
            raise ConfigError("the recording has no messages")
        wanted = sorted(set(self.subscriptions) - set(self.announced))
        others = [topic for topic in self._recorded if topic not in wanted]
        near = [found for topic in wanted for found in get_close_matches(topic, others, 1)]
        guess = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        compressed = [topic for topic in wanted if self._recorded.get(topic) == COMPRESSED]
        guess += "".join(f"; {topic} is {compressed_hint(topic)}" for topic in compressed)
        recorded = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(self._recorded.items()))
        if " encoded as " in recorded:
            guess += "; only CDR and ROS 1 messages are read: convert the recording"
        raise ConfigError(
            f"no node uses a recorded topic: wanted are {', '.join(wanted)}{guess}; recorded: {recorded}"
        )

    def announce(self, node: str, topic: str, message_type: str, is_result: bool = False) -> None:
        """Announce that a node publishes a topic; a result of any type is recorded.

        Raises:
            ConfigError: another node publishes this topic.
        """
        if topic in self.announced:
            other = self.announced[topic][0] or "every node"
            raise ConfigError(f"{topic}: both {other} and {node} publish it")
        self.announced[topic] = node, message_type
        if message_type in VISUALIZATION_TYPES and not is_result:
            self.visualizations.add(topic)

    def subscribe(self, node: str, message_type: str, topic: str, receive: Callable[[bytes], None]) -> None:
        """Subscribe a node to a topic."""
        self.subscriptions.setdefault(topic, []).append(RouterSubscription(node, message_type, receive))

    def publishers(self, topic: str) -> int:
        """Return the number of publishers of a topic: 0 or 1."""
        return int(topic in self._recorded or topic in self.announced)

    def get_subscription_count(self, topic: str) -> int:
        """Return the number of subscribers; visualization messages are not recorded."""
        recorder = self._watched or topic not in self.visualizations
        return len(self.subscriptions.get(topic, ())) + recorder

    def missing(self) -> dict[str, list[str]]:
        """Return the topics without a publisher of the subscribed type, with the subscribing nodes."""
        offered = {**self._recorded, **{topic: kind for topic, (_, kind) in self.announced.items()}}
        found: dict[str, list[str]] = {}
        for topic, subscriptions in self.subscriptions.items():
            for one in subscriptions:
                if offered.get(topic) != one.message_type:
                    found.setdefault(topic, []).append(one.node)
        return found

    def users(self, topic: str) -> list[str]:
        """Return the nodes that subscribe to a recorded topic."""
        if self.replaced(topic):
            return []
        kind = self._recorded.get(topic)
        if topic in self._tf and kind == TF_TYPE:
            return list(self.transform_users)
        return [one.node for one in self.subscriptions.get(topic, ()) if one.message_type == kind]

    def replaced(self, topic: str) -> bool:
        """Return whether a node publishes this topic, so that its recorded messages are skipped."""
        return topic in self.announced

    def foresee(self, message: BagMessage) -> None:
        """Take a recorded message's transforms, if it has any, for what is computed ahead of time."""
        if self._has_transforms(message):
            self.foreseen.add_message(message.data, message.topic == self._tf[1])  # reported when delivered

    def deliver(self, message: BagMessage) -> None:
        """Deliver a recorded message to its subscribers now."""
        if self._has_transforms(message):
            errors: list[PerceptionError] = []
            used = self.transforms.add_message(message.data, message.topic == self._tf[1], errors.append)
            for error in errors:
                self._observer.refused(message.topic, self._loop.now_ns(), error, used > 0)
        self._deliver(message.topic, message.message_type, message.data)
        self._observer.delivered(message)

    def publish(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """Deliver a node's message to its subscribers at the given time."""

        def arrive() -> None:
            now = self._loop.now_ns()
            if topic in self.visualizations:
                self._observer.shown(topic, message_type, now, data)
            else:
                self._observer.published(topic, message_type, now, data)
            self._deliver(topic, message_type, data)

        self._loop.at(time_ns, arrive)

    def refused(self, topic: str, error: Exception) -> None:
        """Report a message that cannot be used and that no node's ledger counts."""
        self._observer.refused(topic, self._loop.now_ns(), error)

    def _deliver(self, topic: str, message_type: str, data: bytes) -> None:
        for subscription in self.subscriptions.get(topic, ()):
            if subscription.message_type == message_type:
                subscription.receive(data)

    def _has_transforms(self, message: BagMessage) -> bool:
        return message.topic in self._tf and message.message_type == TF_TYPE
