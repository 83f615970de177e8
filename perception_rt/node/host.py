"""A ROS node around a component: topics, timers, parameters and diagnostics are rclpy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecyclePublisher

from perception_rt.component.component import Component
from perception_rt.node.messages import message_class
from perception_rt.node.qos import AdaptiveSubscription
from perception_rt.node.shell import PerceptionNode
from perception_rt.node.transforms import Transforms, listen_to_transforms
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import FramePipeline
from perception_rt.realtime.scheduler import FixedRateScheduler
from perception_rt.realtime.worker import Worker
from perception_rt.types import ConfigError
from perception_rt.types.status import Status


class TopicOutput:
    """A publisher of serialized messages."""

    def __init__(self, publisher: LifecyclePublisher) -> None:
        self.publisher = publisher
        self.publish = publisher.publish
        self.listeners = publisher.get_subscription_count


class ComponentNode(PerceptionNode):
    """The `Host` of one component; it lives from configure to cleanup.

    Attributes:
        component: None while the node is not configured.
    """

    COMPONENT: ClassVar[type[Component]] = Component

    def __init_subclass__(cls) -> None:
        cls.PARAMETERS = cls.COMPONENT.PARAMETERS

    def __init__(self, node_name: str = "", **kwargs: Any) -> None:
        super().__init__(node_name or self.COMPONENT.NAME, **kwargs)
        self.component: Component | None = None
        self._inputs: list[AdaptiveSubscription] = []
        self._outputs: list[TopicOutput] = []
        self._ticks: list[Any] = []
        self._listener: Transforms | None = None

    # Host.

    def steady(self) -> bool:
        """False under simulated time."""
        return self.get_parameter("use_sim_time").value is False

    def advertise(self, message_type: str, topic: str, depth: int) -> TopicOutput:
        """A lifecycle publisher."""
        output = TopicOutput(self.create_lifecycle_publisher(_installed(message_type), topic, depth))
        self._outputs.append(output)
        return output

    def hear(
        self, message_type: str, topic: str, receive: Callable[[bytes], None], reliability: str
    ) -> AdaptiveSubscription:
        """A subscription that adapts to the publishers."""

        def take(data: bytes) -> None:
            self._begin()
            receive(data)

        heard = AdaptiveSubscription(self, _installed(message_type), topic, take, reliability)
        self._inputs.append(heard)
        return heard

    def every(self, period_s: float, call: Callable[[], None]) -> None:
        """A timer of the machine's time."""
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._ticks.append(self.create_timer(period_s, call, clock=clock))

    def transforms(self) -> Transforms:
        """Listens from the first call on."""
        if self._listener is None:
            self._listener = listen_to_transforms(self)
        return self._listener

    def make_worker(self, pipeline: FramePipeline, scheduler: FixedRateScheduler, mailbox: Mailbox) -> Worker:
        """A thread."""
        return Worker(pipeline.process, scheduler, mailbox, self, self.steady())

    def inform(self, text: str) -> None:
        """Log."""
        self.get_logger().info(text)

    # Lifecycle.

    def setup(self) -> None:
        """Make the component."""
        self.component = self.COMPONENT(self, self.values)
        self.component.setup()

    def start(self) -> None:
        """Let it work; under simulated time from the first /clock on, as nothing can be dated before it."""
        self.component.active = self.steady() or self.now_ns() > 0

    def stop(self) -> None:
        """End what waits."""
        if self.component is not None:
            self.component.active = False
            self.component.stop()

    def teardown(self) -> None:
        """Close what the component opened, and drop it."""
        for tick in self._ticks:
            self.destroy_timer(tick)
        for heard in self._inputs:
            heard.close()
        if self.component is not None:
            self.component.teardown()
        if self._listener is not None:
            self._listener.close()
        for output in self._outputs:
            self.destroy_lifecycle_publisher(output.publisher)
        self._ticks, self._inputs, self._outputs = [], [], []
        self.component = self._listener = None

    def on_parameters(self) -> None:
        """Live parameters changed."""
        self.component.values = self.values
        self.component.on_parameters()

    def every_second(self) -> None:
        """Let subscriptions adapt."""
        self._begin()
        if not self.component.active:
            self.get_logger().info("use_sim_time is true: waiting for /clock", once=True)
        for heard in self._inputs:
            heard.every_second()

    def _begin(self) -> None:
        """Let the component work if simulated time has begun meanwhile."""
        if self.active and not self.component.active and self.now_ns() > 0:
            self.component.active = True

    def diagnostics(self) -> list[Status]:
        """The component's."""
        component = self.component  # another thread may be configuring or cleaning up
        return component.statuses() if self._configured and component is not None else []


def _installed(message_type: str) -> type:
    """The class of a message.

    Raises:
        ConfigError: its package is not installed.
    """
    found = message_class(message_type)
    if found is None:
        raise ConfigError(f"{message_type}: its package is not installed")
    return found
