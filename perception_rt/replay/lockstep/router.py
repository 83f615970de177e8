"""What ROS does between nodes, in virtual time: topics, transforms; and whoever writes down what flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import NamedTuple, Protocol

from perception_rt.codec.transforms import parse_transforms
from perception_rt.replay.bag import BagMessage
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.types import ConfigError, PerceptionError

VISUALIZATION_TYPES = ("sensor_msgs/msg/Image", "visualization_msgs/msg/MarkerArray")
TF, TF_STATIC = "/tf", "/tf_static"
TF_TYPE = "tf2_msgs/msg/TFMessage"
DIAGNOSTICS, DIAGNOSTICS_TYPE = "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"


class RouterSubscription(NamedTuple):
    """Who hears a topic."""

    node: str
    message_type: str
    receive: Callable[[bytes], None]


class ReplayObserver(Protocol):
    """Writes down what flows."""

    def heard(self, message: BagMessage) -> None:
        """A message of the recording went to those who hear its topic."""
        ...

    def published(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """A node published."""
        ...

    def shown(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """A node published a visualization message."""
        ...

    def refused(self, topic: str, time_ns: int, error: Exception) -> None:
        """A message that no node's ledger stats for cannot be used."""
        ...


class Router:
    """Brings messages from the recording and from the nodes to the nodes.

    Args:
        recorded: types of the recording's topics. remaps: topics by the names that they stand for.
        observer: of all that flows. watched: whether a live viewer shows visualization messages.

    Attributes:
        transforms: as far as they came. transform_users: the nodes that look at them.
        subscriptions: by topic.
        announced: by topic, the node and the type.
    """

    def __init__(
        self,
        loop: EventLoop,
        recorded: Mapping[str, str],
        remaps: Mapping[str, str],
        observer: ReplayObserver,
        watched: bool,
    ) -> None:
        self.transforms = TransformBuffer()
        self.transform_users: list[str] = []
        self.subscriptions: dict[str, list[RouterSubscription]] = {}
        self.announced = {DIAGNOSTICS: ("", DIAGNOSTICS_TYPE)}  # "": that of all nodes
        self._loop = loop
        self._recorded = recorded
        self._remaps = remaps
        self._unused = dict(remaps)
        self._tf = self.remapped(TF), self.remapped(TF_STATIC)
        self._observer = observer
        self._watched = watched

    def remapped(self, topic: str) -> str:
        """The topic that is used in its place."""
        self._unused.pop(topic, None)
        return self._remaps.get(topic, topic)

    def check_remaps(self) -> None:
        """Refuse a remapping that nobody needed, once all nodes are there.

        Raises:
            ConfigError: names it, and the topics that are used.
        """
        for name, topic in self._unused.items():
            used = ", ".join(sorted({*self.subscriptions, *self.announced}))
            raise ConfigError(f"-r {name}:={topic}: no node uses {name}; the topics are {used}")

    def check_inputs(self) -> None:
        """Refuse a recording that has no topic which a node subscribes to.

        Raises:
            ConfigError: names the topics, near misses, and what is recorded.
        """
        if any(self.users(topic) for topic in self._recorded):
            return
        wanted = sorted(set(self.subscriptions) - set(self.announced))
        near = [found for topic in wanted for found in get_close_matches(topic, self._recorded, 1)]
        guess = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        recorded = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(self._recorded.items()))
        raise ConfigError(
            f"no node uses a recorded topic: wanted are {', '.join(wanted)}{guess}; recorded: {recorded}"
        )

    def announce(self, node: str, topic: str, message_type: str) -> None:
        """A node is going to publish.

        Raises:
            ConfigError: another one does on this topic.
        """
        if topic in self.announced:
            other = self.announced[topic][0] or "every node"
            raise ConfigError(f"{topic}: both {other} and {node} publish it")
        self.announced[topic] = node, message_type

    def subscribe(self, node: str, message_type: str, topic: str, receive: Callable[[bytes], None]) -> None:
        """Hear a topic."""
        self.subscriptions.setdefault(topic, []).append(RouterSubscription(node, message_type, receive))

    def publishers(self, topic: str) -> int:
        """How many publish a topic."""
        return int(topic in self._recorded or topic in self.announced)

    def get_subscription_count(self, topic: str) -> int:
        """Return the number of subscribers; visualization messages are not recorded."""
        recorder = self._watched or self.announced[topic][1] not in VISUALIZATION_TYPES
        return len(self.subscriptions.get(topic, ())) + recorder

    def missing(self) -> dict[str, list[str]]:
        """Topics that nodes want and that nobody publishes in the wanted type, with the nodes."""
        offered = {**self._recorded, **{topic: kind for topic, (_, kind) in self.announced.items()}}
        found: dict[str, list[str]] = {}
        for topic, subscriptions in self.subscriptions.items():
            for one in subscriptions:
                if offered.get(topic) != one.message_type:
                    found.setdefault(topic, []).append(one.node)
        return found

    def users(self, topic: str) -> list[str]:
        """The nodes that hear what is recorded of a topic."""
        if self.replaced(topic):
            return []
        kind = self._recorded.get(topic)
        if topic in (TF, TF_STATIC) and kind == TF_TYPE:
            return list(self.transform_users)
        return [one.node for one in self.subscriptions.get(topic, ()) if one.message_type == kind]

    def replaced(self, topic: str) -> bool:
        """Whether a recorded topic is made anew by a node: then the recorded one is left out."""
        return topic in self.announced

    def deliver(self, message: BagMessage) -> None:
        """Bring a recorded message to who hears it, now."""
        if message.topic in self._tf and message.message_type == TF_TYPE:
            self._learn(message)
        self._deliver(message.topic, message.message_type, message.data)
        self._observer.heard(message)

    def publish(self, topic: str, message_type: str, time_ns: int, data: bytes) -> None:
        """Bring a node's message to who hears it, at its time."""

        def arrive() -> None:
            now = self._loop.now_ns()
            if message_type in VISUALIZATION_TYPES:
                self._observer.shown(topic, message_type, now, data)
            else:
                self._observer.published(topic, message_type, now, data)
            self._deliver(topic, message_type, data)

        self._loop.at(time_ns, arrive)

    def refused(self, topic: str, error: Exception) -> None:
        """A message that no node's ledger stats for cannot be used."""
        self._observer.refused(topic, self._loop.now_ns(), error)

    def _deliver(self, topic: str, message_type: str, data: bytes) -> None:
        for subscription in self.subscriptions.get(topic, ()):
            if subscription.message_type == message_type:
                subscription.receive(data)

    def _learn(self, message: BagMessage) -> None:
        try:
            static = message.topic == self._tf[1]
            for t in parse_transforms(message.data):
                self.transforms.add(t.parent, t.child, t.stamp_ns, t.translation, t.quaternion, static)
        except PerceptionError as error:
            self.refused(message.topic, error)
