"""A ROS node around a component, with topics, timers, parameters and diagnostics of rclpy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.timer import Timer

from perception_rt.component.component import Component
from perception_rt.node.link import DEAF, LinkWatch
from perception_rt.node.messages import installed_class
from perception_rt.node.qos import AdaptiveSubscription
from perception_rt.node.shell import PerceptionNode
from perception_rt.node.transforms import TransformSubscriber, subscribe_transforms
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import FramePipeline, PendingFrame
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.realtime.worker import Worker
from perception_rt.types.status import Status


class TopicPublisher:
    """A lifecycle publisher of serialized messages; does nothing after `close`."""

    def __init__(self, node: PerceptionNode, publisher: LifecyclePublisher) -> None:
        self._node = node
        self._publisher: LifecyclePublisher | None = publisher
        self._lock = threading.Lock()  # no publish on a destroyed handle

    def publish(self, data: bytes) -> None:
        """Publish a serialized message."""
        with self._lock:
            if self._publisher is not None:
                self._publisher.publish(data)

    def get_subscription_count(self) -> int:
        """Return the number of subscriptions; 0 once it is closed."""
        with self._lock:
            return 0 if self._publisher is None else self._publisher.get_subscription_count()

    @property
    def topic(self) -> str:
        """The absolute name; empty once it is closed."""
        with self._lock:
            return "" if self._publisher is None else str(self._publisher.topic_name)

    def close(self) -> None:
        """Destroy the publisher."""
        with self._lock:
            if self._publisher is not None:
                self._node.destroy_lifecycle_publisher(self._publisher)
                self._publisher = None


class NodeHost:
    """The `Host` of a component in a ROS node; it closes the component's topics and timers.

    Args:
        node: provides topics, timers and the log.
        on_message: called before each message is passed to the component.
    """

    def __init__(self, node: PerceptionNode, on_message: Callable[[], None]) -> None:
        self._node = node
        self._on_message = on_message
        self._timers: list[Timer] = []
        self._publishers: list[TopicPublisher] = []
        self._transforms: TransformSubscriber | None = None
        self._link = LinkWatch(node)
        self.subscriptions: list[AdaptiveSubscription] = []

    def get_name(self) -> str:
        """Return the node's name."""
        return self._node.get_name()

    def now_ns(self) -> int:
        """Return ROS time, ns."""
        return self._node.now_ns()

    def resolve_topic_name(self, topic: str) -> str:
        """Return the absolute name, remapped."""
        return self._node.resolve_topic_name(topic)

    def create_publisher(
        self,
        message_type: str,
        topic: str,
        depth: int,
        *,
        latched: bool = False,
        is_result: bool = False,
    ) -> TopicPublisher:
        """Create a lifecycle publisher."""
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        publisher: LifecyclePublisher = self._node.create_lifecycle_publisher(
            installed_class(message_type), topic, QoSProfile(depth=depth, durability=durability)
        )
        self._publishers.append(TopicPublisher(self._node, publisher))
        return self._publishers[-1]

    def create_subscription(
        self, message_type: str, topic: str, callback: Callable[[bytes], None], reliability: str
    ) -> AdaptiveSubscription:
        """Create a subscription that adapts to the publishers' QoS."""

        def receive(data: bytes) -> None:
            self._on_message()
            callback(data)

        guarded = self._node.guard(receive)
        subscription = AdaptiveSubscription(
            self._node, installed_class(message_type), topic, guarded, reliability
        )
        self.subscriptions.append(subscription)
        return subscription

    def describe(self) -> str:
        """Return the subscriptions, with publishers and reliability, and the publishers as text."""
        inputs = [
            f"{one.topic} ({one.publisher_count()} publisher{'s' * (one.publisher_count() != 1)}, "
            f"{one.reliability.replace('_', ' ')})"
            for one in self.subscriptions
        ]
        outputs = [publisher.topic for publisher in self._publishers]
        return f"subscribes to {', '.join(inputs) or 'nothing'}; publishes {', '.join(outputs) or 'nothing'}"

    def create_timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """Create a timer on the steady clock."""
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers.append(self._node.create_timer(period_s, self._node.guard(callback), clock=clock))

    def transforms(self) -> TransformSubscriber:
        """Return the transform buffer; it subscribes to /tf on the first call."""
        if self._transforms is None:
            self._transforms = subscribe_transforms(self._node)
        return self._transforms

    def clear_transforms(self) -> None:
        """Drop the transforms from before a jump of the clock."""
        if self._transforms is not None:
            self._transforms.clear()

    def make_worker(
        self, pipeline: FramePipeline, scheduler: FairScheduler, mailbox: Mailbox[PendingFrame]
    ) -> Worker[PendingFrame]:
        """Start a thread that runs the pipeline."""
        node = self._node
        return Worker(pipeline.process, scheduler, mailbox, node, node.steady(), node.count_error)

    def publish_diagnostics(self) -> None:
        """Publish the node's diagnostics now."""
        self._node.publish_diagnostics()

    def info(self, text: str) -> None:
        """Log at INFO."""
        self._node.get_logger().info(text)

    def warn(self, stream: str, error: Exception) -> None:
        """Log at WARN, at most once a second."""
        self._node.warn(stream, error)

    def check_subscriptions(self) -> None:
        """Adapt the subscriptions to their publishers; end the process if messages no longer reach it."""
        for subscription in list(self.subscriptions):
            subscription.every_second()
        if reason := self._link.every_second(self.subscriptions):
            self._node.get_logger().error(reason)
            self._node.exit_code = DEAF

    def stop(self) -> None:
        """Destroy timers and subscriptions, so that no more callbacks run."""
        self._link.close()
        for timer in self._timers:
            self._node.destroy_timer(timer)
        for subscription in self.subscriptions:
            subscription.close()
        self._timers, self.subscriptions = [], []

    def close(self) -> None:
        """Destroy everything."""
        self.stop()
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None
        for publisher in self._publishers:
            publisher.close()
        self._publishers = []


class ComponentNode(PerceptionNode):
    """A ROS node around one component, which exists from configure to cleanup.

    Attributes:
        component: None while the node is not configured.
    """

    COMPONENT: ClassVar[type[Component]] = Component

    def __init_subclass__(cls) -> None:
        cls.PARAMETERS = cls.COMPONENT.PARAMETERS

    def __init__(self, node_name: str = "", **kwargs: Any) -> None:
        super().__init__(node_name or self.COMPONENT.NAME, **kwargs)
        self.component: Any = None
        self._host: NodeHost | None = None

    # Lifecycle.

    def setup(self) -> None:
        """Create the component."""
        self._host = NodeHost(self, self._begin)
        self.component = self.COMPONENT(self._host, self.values)
        self.component.setup()

    def start(self) -> None:
        """Activate the component; under simulated time wait for the first /clock."""
        self.component.active = self.steady() or self.now_ns() > 0

    def stop(self) -> None:
        """Deactivate the component and end pending messages."""
        if self.component is not None:
            self.component.active = False
            self.component.stop()

    def teardown(self) -> None:
        """Destroy the component with its topics and timers."""
        if self._host is not None:
            self._host.stop()
        if self.component is not None:
            self.component.teardown()
        if self._host is not None:
            self._host.close()
        self.component = self._host = None

    def check_values(self, values: dict[str, Any]) -> None:
        """Refuse values that the component refuses."""
        if self.component is not None:
            self.component.check_parameters(values)

    def on_parameters(self) -> None:
        """Apply changed live parameters."""
        self.component.values = self.values
        self.component.on_parameters()

    def every_second(self) -> None:
        """Adapt the subscriptions to their publishers."""
        self._begin()
        component, host = self.component, self._host  # another thread may be cleaning up
        if component is None or host is None:
            return
        self.get_logger().info(f"active: {host.describe()}", once=True)
        if not component.active:
            self.get_logger().info("use_sim_time is true: waiting for /clock", once=True)
        host.check_subscriptions()

    def _begin(self) -> None:
        """Activate the component once simulated time has begun."""
        component = self.component
        if component is not None and self.active and not component.active and self.now_ns() > 0:
            component.active = True

    def pending(self) -> int:
        """Return the number of messages that the component has not finished."""
        component = self.component  # another thread may be cleaning up
        books = [] if component is None else list(component.stats.values())
        return sum(stats.ledger.snapshot()["pending"] for stats in books)

    def on_clock_reset(self) -> None:
        """Drop transforms and other state that depends on the order of time."""
        component, host = self.component, self._host  # another thread may be cleaning up
        if component is None or host is None:
            return
        host.clear_transforms()  # an inactive node receives them, too
        if self._configured:
            self.get_logger().warning("ROS time jumped back: starting over")
            component.reset_clock()

    def diagnostics(self) -> list[Status]:
        """Return the component's diagnostics."""
        component = self.component  # another thread may be configuring or cleaning up
        return component.statuses() if self._configured and component is not None else []
