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
from perception_rt.realtime.pipeline import Batch, FramePipeline, StreamStats, Waiting
from perception_rt.realtime.scheduler import FixedRateScheduler
from perception_rt.types.status import Status


class Publisher(Protocol):
    """A topic that is published on."""

    def publish(self, data: bytes) -> None:
        """Publish a serialized message."""
        ...

    def get_subscription_count(self) -> int:
        """How many subscribe."""
        ...


class Transforms(Protocol):
    """The tree of frames, as far as it was heard of."""

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """(4, 4) that takes points of `source` to `target` at a time, ns; raises TransformError."""
        ...


class InferenceWorker(Protocol):
    """Whoever runs a pipeline when its scheduler says so; `realtime.worker.Worker` on a thread."""

    def put(self, stream: str, item: Waiting) -> Waiting | None:
        """Hand over the newest item of `stream`; returns the one it supersedes, if any."""
        ...

    def clear(self) -> Batch:
        """Take back whatever waits, unprocessed."""
        ...

    def drain(self, timeout_s: float) -> bool:
        """Wait for the batch in hand; False where it is still being processed."""
        ...

    def call(self, job: Callable[[], Any]) -> Future:
        """Run `job` where the model runs, between two batches."""
        ...

    def stop(self, timeout_s: float) -> bool:
        """End after the batch in hand; False where it is still busy."""
        ...


class Host(Protocol):
    """Whoever runs a component. Topics are named as in ROS: absolute, relative, or `~/private`."""

    def get_name(self) -> str:
        """The node's name."""
        ...

    def now_ns(self) -> int:
        """The clock of stamps and ages, ns."""
        ...

    def resolve_topic_name(self, topic: str) -> str:
        """The absolute name."""
        ...

    def create_publisher(self, message_type: str, topic: str, depth: int) -> Publisher:
        """Publish on a topic; `message_type` is like ``sensor_msgs/msg/Image``."""
        ...

    def create_subscription(
        self, message_type: str, topic: str, receive: Callable[[bytes], None], reliability: str
    ) -> Subscription:
        """Call `receive` with every serialized message of a topic."""
        ...

    def create_timer(self, period_s: float, call: Callable[[], None]) -> None:
        """Call at a fixed rate, by the machine's clock: that of the stamps may stand still."""
        ...

    def transforms(self) -> Transforms:
        """What /tf and /tf_static say."""
        ...

    def make_worker(
        self, pipeline: FramePipeline, scheduler: FixedRateScheduler, mailbox: Mailbox
    ) -> InferenceWorker:
        """Whoever runs a pipeline."""
        ...

    def info(self, text: str) -> None:
        """Tell people."""
        ...

    def warn(self, stream: str, error: Exception) -> None:
        """Tell people of a message that ended badly."""
        ...


class Component:
    """The logic of a node; what it opened at its host, the host closes.

    Attributes:
        NAME: of the node, if nobody gives another.
        active: nothing is worked on before, and after.
        gate: held while a message is taken.
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
        """Take resources, by `values`; whatever it raises, `teardown` follows."""

    def stop(self) -> None:
        """End what waits; must be quick."""

    def teardown(self) -> None:
        """Give resources back; also after a failed `setup`, so each may be missing."""

    def on_parameters(self) -> None:
        """Live parameters changed; `values` is up to date."""

    def statuses(self) -> list[Status]:
        """What to tell at 1 Hz: one for the node, one for each stream."""
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
        """Take serialized messages while active; each is accounted for.

        Args:
            message_type: like ``sensor_msgs/msg/Image``. topic: as in the parameters. stats: counts them.
            receive: sees to it that the message ends in the ledger, now or later; what it raises is counted
                as a decode error.
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
                except Exception as error:  # noqa: BLE001 - whatever a message holds, the next one is received
                    stats.ledger.finish(entry, Outcome.DECODE_ERROR, str(error))
                    self.host.warn(stream, error)

        self.add_stream(stream, stats, self.host.create_subscription(message_type, topic, take, reliability))

    def add_stream(self, stream: str, stats: StreamStats, subscription: Subscription) -> None:
        """Tell of a stream in the diagnostics."""
        self.stats[stream] = stats
        self._reports[stream] = StreamReport(f"{self.host.get_name()}: {stream}", stats, subscription)

    def show(self, draw: Callable[..., None], *args: Any) -> None:
        """Call what publishes for people, after the result is out: its failure is told, and costs nothing."""
        try:
            draw(*args)
        except Exception as error:  # noqa: BLE001 - a picture for people must not cost a result
            self.host.warn(self.host.get_name(), error)

    def stream_statuses(
        self, hardware_id: str = "", more: Callable[[str], Mapping[str, object]] = lambda stream: {}
    ) -> list[Status]:
        """One status for each stream, with `more` values of it."""
        now = self.host.now_ns()
        return [report.make(now, hardware_id, more(stream)) for stream, report in self._reports.items()]
