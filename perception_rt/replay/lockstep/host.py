"""Host a component in virtual time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from perception_rt.codec.diagnostics import encode_diagnostics
from perception_rt.component.component import Component
from perception_rt.component.graph import GraphNode
from perception_rt.component.parameters import check_names, resolve
from perception_rt.component.streams import depth_of
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import FramePipeline
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.replay.lockstep.clock import NodeClock
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.lockstep.router import DIAGNOSTICS, DIAGNOSTICS_TYPE, Router
from perception_rt.replay.lockstep.timing import Timing
from perception_rt.replay.lockstep.transforms import TransformView
from perception_rt.replay.lockstep.worker import LockstepWorker
from perception_rt.types import ConfigError

DIAGNOSTICS_PERIOD_NS = 10**9
LOG = logging.getLogger(__name__)


class LockstepHost:
    """Run one component; the router stands in for the ROS middleware.

    Callbacks take no virtual time unless time is measured. Measured callbacks run one after the other, as on
    a node's single-threaded executor.

    Args:
        node: of the graph. overrides: parameters that take precedence over the graph's.
        timing: duration of inference; None to measure it.
    """

    def __init__(
        self,
        make: type[Component],
        node: GraphNode,
        overrides: dict[str, Any],
        loop: EventLoop,
        router: Router,
        timing: Timing | None,
    ) -> None:
        self.path = node.path
        self.loop = loop
        self.clock = NodeClock(loop, timing)
        self.now_ns = self.clock.now_ns
        self.workers: list[LockstepWorker] = []
        self._name, self._namespace = node.name, node.namespace.rstrip("/")
        self._router, self._view = router, TransformView(router)
        self._subscribed: set[str] = set()
        self._free_ns = 0
        self._calls: deque[Callable[[], None]] = deque()  # pending callbacks; the first is running
        try:
            check_names(make.PARAMETERS, node.parameters)
            values = resolve(make.PARAMETERS, {**node.inherited, **node.parameters, **overrides})
        except ConfigError as error:
            raise ConfigError(f"{node.path}: {error}") from error
        self.component = make(self, values)

    # Host.

    def get_name(self) -> str:
        """Return the node's name."""
        return self._name

    def resolve_topic_name(self, topic: str) -> str:
        """Return the absolute, remapped name of a topic, as ROS resolves it."""
        if topic.startswith("~"):
            topic = f"{self.path}/{topic[1:].lstrip('/')}"
        elif not topic.startswith("/"):
            topic = f"{self._namespace}/{topic}"
        return self._router.remapped(topic)

    def create_publisher(
        self,
        message_type: str,
        topic: str,
        depth: int,
        *,
        latched: bool = False,
        is_result: bool = False,
    ) -> LockstepOutput:
        """Create a publisher that sends to the router."""
        resolved = self.resolve_topic_name(topic)
        return LockstepOutput(self, self._router, message_type, resolved, is_result)

    def create_subscription(
        self, message_type: str, topic: str, receive: Callable[[bytes], None], reliability: str
    ) -> LockstepInput:
        """Subscribe to a topic; messages arrive in the order of recording or publishing.

        While the node is busy (only if time is measured), the newest messages are queued.
        """
        resolved = self.resolve_topic_name(topic)
        self._subscribed.add(resolved)
        subscription = LockstepInput(self._router, resolved, reliability)
        waiting: deque[bytes] = deque()
        depth = depth_of(message_type)

        def arrive(data: bytes) -> None:
            waiting.append(data)
            if len(waiting) > depth:
                waiting.popleft()  # its pending call takes the next message instead
                subscription.lost += 1
            else:
                self._execute(lambda: receive(waiting.popleft()))

        self._router.subscribe(self.path, message_type, resolved, arrive)
        return subscription

    def create_timer(self, period_s: float, call: Callable[[], None]) -> None:
        """Call at a fixed rate in virtual time; like a ROS timer, make up for missed calls only once."""

        def tick() -> None:
            if call not in self._calls:
                self._execute(call)

        self.loop.every(round(period_s * 1e9), tick)

    def transforms(self) -> TransformView:
        """Return the transforms so far, which all nodes share."""
        self._router.transform_users.append(self.path)
        self._view.used = True
        return self._view

    def make_worker(
        self, pipeline: FramePipeline, scheduler: FairScheduler, mailbox: Mailbox
    ) -> LockstepWorker:
        """Create a worker that runs in virtual time."""
        self.workers.append(LockstepWorker(self.path, self.clock, pipeline, scheduler, mailbox, self._view))
        return self.workers[-1]

    def info(self, text: str) -> None:
        """Do nothing: a replay prints its own summary."""

    def warn(self, stream: str, error: Exception) -> None:
        """Report a bad message to the router unless a ledger of the node counts it; log other errors."""
        if stream in self.component.stats:
            return
        if stream in self._subscribed:
            self._router.refused(stream, error)
        else:
            LOG.warning("%s: %s: %s", self.path, type(error).__name__, error)

    # Used by the runner.

    def activate(self) -> None:
        """Activate the component, and publish its diagnostics once a second."""
        self.component.active = True
        self.loop.every(DIAGNOSTICS_PERIOD_NS, self.publish_diagnostics)

    def deactivate(self) -> None:
        """Stop the component and publish its diagnostics a last time."""
        self.component.active = False
        self.component.stop()
        self.publish_diagnostics()

    def publish_diagnostics(self) -> None:
        """Publish the component's diagnostics."""
        statuses = self.component.statuses()
        if statuses:
            now = self.loop.now_ns()
            data = encode_diagnostics(statuses, now)
            self._router.publish(DIAGNOSTICS, DIAGNOSTICS_TYPE, now, data)

    def _execute(self, call: Callable[[], None]) -> None:
        """Queue a callback; it runs when those before it have finished."""
        self._calls.append(call)
        if len(self._calls) == 1:
            self._next()

    def _next(self) -> None:
        if self._free_ns > self.loop.now_ns():
            self.loop.at(self._free_ns, self._next)
            return
        with self.clock.timed():
            self._calls[0]()
            self._free_ns = self.now_ns()
        self._calls.popleft()
        if self._calls:
            self._next()


class LockstepOutput:
    """A publisher of a component."""

    def __init__(
        self, host: LockstepHost, router: Router, message_type: str, topic: str, is_result: bool = False
    ) -> None:
        self._host, self._router = host, router
        self._type, self._topic = message_type, topic
        router.announce(host.path, topic, message_type, is_result)

    def publish(self, data: bytes) -> None:
        """Publish a serialized message."""
        self._router.publish(self._topic, self._type, self._host.now_ns(), data)

    def get_subscription_count(self) -> int:
        """Return 0 for visualization topics, unless a live viewer is connected."""
        return self._router.get_subscription_count(self._topic)


class LockstepInput:
    """A subscription of a component; `lost` counts the messages that the full queue dropped."""

    def __init__(self, router: Router, topic: str, reliability: str) -> None:
        self.lost = 0
        self.topic = topic
        self.reliability = reliability
        self._router = router

    def publisher_count(self) -> int:
        """Return the number of publishers: 1 for a recorded topic or one of a node, else 0."""
        return self._router.publishers(self.topic)
