"""The interfaces between a node's logic and its host: a ROS node, or the replay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

import numpy as np

from perception_rt.component.parameters import Parameter
from perception_rt.component.streams import StreamReport, Subscription
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import Batch, FramePipeline, PendingFrame, StreamStats
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.types.status import Status


class Publisher(Protocol):
    """Publishes serialized messages on a topic."""

    def publish(self, data: bytes) -> None:
        """Publish a serialized message."""
        ...

    def get_subscription_count(self) -> int:
        """Return the number of subscriptions."""
        ...


class Transforms(Protocol):
    """The tree of coordinate frames over time."""

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return the (4, 4) transform from `source` to `target` at a time, ns; raises TransformError."""
        ...


class InferenceWorker(Protocol):
    """Runs a pipeline at the times of its scheduler, like `realtime.worker.Worker` on a thread."""

    def put(self, stream: str, item: PendingFrame) -> PendingFrame | None:
        """Store the newest item of `stream`; return the item it replaces, if any."""
        ...

    def clear(self) -> Batch:
        """Remove and return the waiting items."""
        ...

    def pending(self) -> bool:
        """Return whether items are due as soon as the running batch ends."""
        ...

    def drain(self, timeout_s: float) -> bool:
        """Wait for the running batch; return False if it still runs after `timeout_s`."""
        ...

    def call(self, job: Callable[[], Any]) -> Future[Any]:
        """Run `job` on the model's thread, between two batches."""
        ...

    def stop(self, timeout_s: float) -> bool:
        """Stop after the running batch; return False if it still runs after `timeout_s`."""
        ...


class Host(Protocol):
    """Runs a component. Topics are named as in ROS: absolute, relative, or `~/private`."""

    def get_name(self) -> str:
        """Return the node's name."""
        ...

    def now_ns(self) -> int:
        """Return the time of the clock used for stamps and ages, ns."""
        ...

    def resolve_topic_name(self, topic: str) -> str:
        """Return the absolute name."""
        ...

    def create_publisher(
        self,
        message_type: str,
        topic: str,
        depth: int,
        *,
        latched: bool = False,
        is_result: bool = False,
    ) -> Publisher:
        """Create a publisher.

        Args:
            message_type: like ``sensor_msgs/msg/Image``.
            topic: absolute, relative, or `~/private`.
            depth: queue size for a slow subscription.
            latched: late subscriptions receive the last messages too (transient local).
            is_result: a replay records the topic even if its type is one of visualizations.
        """
        ...

    def create_subscription(
        self, message_type: str, topic: str, callback: Callable[[bytes], None], reliability: str
    ) -> Subscription:
        """Call `callback` with every serialized message of a topic."""
        ...

    def create_timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """Create a timer on the steady clock, as the clock of the stamps may stand still."""
        ...

    def transforms(self) -> Transforms:
        """Return the transforms of /tf and /tf_static."""
        ...

    def make_worker(
        self, pipeline: FramePipeline, scheduler: FairScheduler, mailbox: Mailbox[PendingFrame]
    ) -> InferenceWorker:
        """Create a worker that runs a pipeline."""
        ...

    def publish_diagnostics(self) -> None:
        """Publish the statuses at once, as a level has changed."""
        ...

    def info(self, text: str) -> None:
        """Log at INFO."""
        ...

    def warn(self, stream: str, error: Exception) -> None:
        """Log at WARN, at most once a second for each stream."""
        ...


class Component:
    """The logic of a node. The host closes the component's topics and timers.

    Attributes:
        NAME: default name of the node.
        active: messages are ignored while False.
        gate: lock, held while a message is received.
        stats: counts of messages, by absolute topic name.
    """

    NAME: ClassVar[str]
    PARAMETERS: ClassVar[Sequence[Parameter]] = ()

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        self.host = host
        self.values = values
        self.active = False
        self.gate = threading.Lock()
        self.stats: dict[str, StreamStats] = {}
        self._reports: dict[str, StreamReport] = {}

    # Subclasses implement these.

    def setup(self) -> None:
        """Acquire resources according to `values`; if this raises, `teardown` is called."""

    def stop(self) -> None:
        """End waiting messages; must be quick."""

    def teardown(self) -> None:
        """Release resources; also called after a failed `setup`, so any of them may be missing."""

    def check_parameters(self, values: Mapping[str, Any]) -> None:
        """Check live parameters beyond their bounds, before they are set; raises ConfigError."""

    def on_parameters(self) -> None:
        """Apply changed live parameters; `values` is up to date."""

    def on_clock_reset(self) -> None:
        """Forget state that depends on the order of time, as the clock was set back. `gate` is held."""

    def statuses(self) -> list[Status]:
        """Return the diagnostics, published at 1 Hz: one status for the node, one for each stream."""
        return []

    # Subclasses use these.

    def listen(
        self,
        message_type: str,
        topic: str,
        stats: StreamStats,
        receive: Callable[[bytes, Entry], None],
        reliability: str = "reliable",
    ) -> None:
        """Subscribe to a topic and account for every message that arrives while active.

        Args:
            message_type: like ``sensor_msgs/msg/Image``.
            topic: as in the parameters.
            stats: counts of its messages.
            receive: called with the serialized message and its entry; it ends the entry, now or later. An
                exception before that counts as a decode error; a later one is raised.
            reliability: requested from publishers.
        """
        stream = self.host.resolve_topic_name(topic)

        def take(data: bytes) -> None:
            with self.gate:
                if not self.active:
                    return
                entry = stats.receive(self.host.now_ns())
                try:
                    receive(data, entry)
                except Exception as error:
                    if entry.outcome is not None:  # the entry has ended: the error is not the message's fault
                        raise
                    self.host.warn(stream, error)
                    stats.ledger.finish(entry, Outcome.DECODE_ERROR, str(error))

        self.stats[stream] = stats
        subscription = self.host.create_subscription(message_type, topic, take, reliability)
        self._reports[stream] = StreamReport(f"{self.host.get_name()}: {stream}", stats, subscription)

    def reset_clock(self) -> None:
        """Restart all streams, as the clock was set back."""
        with self.gate:
            for stats in self.stats.values():
                stats.reset_clock()
            self.on_clock_reset()

    def visualize(self, draw: Callable[..., None], *args: Any) -> None:
        """Call `publish` for a visualization; a failure is logged and does not affect the results."""
        try:
            draw(*args)
        except Exception as error:  # noqa: BLE001 - a visualization must not cost a result
            self.host.warn(self.host.get_name(), error)

    def stream_statuses(
        self, hardware_id: str = "cpu", more: Callable[[str], Mapping[str, object]] = lambda stream: {}
    ) -> list[Status]:
        """Return one status for each stream; `more` gives further values of a stream."""
        now = self.host.now_ns()
        return [report.make(now, hardware_id, more(stream)) for stream, report in self._reports.items()]
