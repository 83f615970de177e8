"""What a node's logic is, and what it asks of whoever runs it: a ROS node, or the replay."""

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
from perception_rt.realtime.scheduler import FixedRateScheduler
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
        """Return (4, 4), from points of `source` to `target` at a time, ns; raises TransformError."""
        ...


class InferenceWorker(Protocol):
    """Runs a pipeline when its scheduler says so; `realtime.worker.Worker` does so on a thread."""

    def put(self, stream: str, item: PendingFrame) -> PendingFrame | None:
        """Store the newest item of `stream`; returns the one that it supersedes, if any."""
        ...

    def clear(self) -> Batch:
        """Remove and return the items that wait."""
        ...

    def pending(self) -> bool:
        """Whether items wait that are due as soon as the running batch ends."""
        ...

    def drain(self, timeout_s: float) -> bool:
        """Wait for the running batch; False where it still runs after `timeout_s`."""
        ...

    def call(self, job: Callable[[], Any]) -> Future[Any]:
        """Run `job` on the thread of the model, between two batches."""
        ...

    def stop(self, timeout_s: float) -> bool:
        """End after the running batch; False where it still runs after `timeout_s`."""
        ...


class Host(Protocol):
    """Runs a component. Topics are named as in ROS: absolute, relative, or `~/private`."""

    def get_name(self) -> str:
        """Return the node's name."""
        ...

    def now_ns(self) -> int:
        """Return the time of the clock of stamps and ages, ns."""
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
            depth: messages that are kept for a slow subscription.
            latched: subscriptions that come later get the last messages, too (transient local).
            is_result: a replay records the topic also where it takes messages of its type for visualizations.
        """
        ...

    def create_subscription(
        self, message_type: str, topic: str, callback: Callable[[bytes], None], reliability: str
    ) -> Subscription:
        """Call `callback` with every serialized message of a topic."""
        ...

    def create_timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """Call at a fixed rate of the steady clock: that of the stamps may stand still."""
        ...

    def transforms(self) -> Transforms:
        """Return the transforms of /tf and /tf_static."""
        ...

    def make_worker(
        self, pipeline: FramePipeline, scheduler: FixedRateScheduler, mailbox: Mailbox[PendingFrame]
    ) -> InferenceWorker:
        """Create what runs a pipeline."""
        ...

    def publish_diagnostics(self) -> None:
        """Publish the statuses now: a level has changed."""
        ...

    def info(self, text: str) -> None:
        """Log at INFO."""
        ...

    def warn(self, stream: str, error: Exception) -> None:
        """Log at WARN, at most once a second for each stream."""
        ...


class Component:
    """The logic of a node; the host closes what the component opened.

    Attributes:
        NAME: of the node, unless it is given another.
        active: messages are ignored while it is False.
        gate: held while a message is received.
        stats: by the absolute name of the topic.
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

    # What a node's logic fills in.

    def setup(self) -> None:
        """Acquire resources according to `values`; `teardown` follows whatever it raises."""

    def stop(self) -> None:
        """End the messages that wait; must be quick."""

    def teardown(self) -> None:
        """Release resources; also called after a failed `setup`, so each may be missing."""

    def check_parameters(self, values: Mapping[str, Any]) -> None:
        """Refuse live parameters that their table cannot judge, before they are set; raises ConfigError."""

    def on_parameters(self) -> None:
        """Apply changed live parameters; `values` is up to date."""

    def on_clock_reset(self) -> None:
        """Forget what depends on the order of time: the clock was set back. `gate` is held."""

    def statuses(self) -> list[Status]:
        """Return the diagnostics, published at 1 Hz: one status for the node, one for each stream."""
        return []

    # What it uses.

    def listen(
        self,
        message_type: str,
        topic: str,
        stats: StreamStats,
        receive: Callable[[bytes, Entry], None],
        reliability: str = "reliable",
    ) -> None:
        """Subscribe to a topic; every message that arrives while active is accounted for.

        Args:
            message_type: like ``sensor_msgs/msg/Image``.
            topic: as in the parameters.
            stats: counts the messages.
            receive: called with the serialized message and its entry, which it ends, now or later. What it
                raises before that is counted as a decode error; what it raises after that is raised.
            reliability: asked of publishers.
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
                    if entry.outcome is not None:  # it has ended: the error is not the message's
                        raise
                    self.host.warn(stream, error)
                    stats.ledger.finish(entry, Outcome.DECODE_ERROR, str(error))

        self.stats[stream] = stats
        subscription = self.host.create_subscription(message_type, topic, take, reliability)
        self._reports[stream] = StreamReport(f"{self.host.get_name()}: {stream}", stats, subscription)

    def reset_clock(self) -> None:
        """Begin all streams anew: the clock was set back."""
        with self.gate:
            for stats in self.stats.values():
                stats.reset_clock()
            self.on_clock_reset()

    def visualize(self, draw: Callable[..., None], *args: Any) -> None:
        """Call what publishes a visualization; its failure is logged and changes no result."""
        try:
            draw(*args)
        except Exception as error:  # noqa: BLE001 - a visualization must not cost a result
            self.host.warn(self.host.get_name(), error)

    def stream_statuses(
        self, hardware_id: str = "cpu", more: Callable[[str], Mapping[str, object]] = lambda stream: {}
    ) -> list[Status]:
        """Return one status for each stream, with `more` values of it."""
        now = self.host.now_ns()
        return [report.make(now, hardware_id, more(stream)) for stream, report in self._reports.items()]
