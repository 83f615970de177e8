"""What a node's logic is, and what it asks of whoever runs it: a ROS node, or the replay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

import numpy as np

from perception_rt.component.parameters import Parameter
from perception_rt.component.streams import Input, StreamReport
from perception_rt.realtime.ledger import Entry, Fate
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import Account, Batch, FramePipeline, Waiting
from perception_rt.realtime.scheduler import FixedRateScheduler
from perception_rt.types.status import Status


class Output(Protocol):
    """A topic that is published on."""

    def publish(self, data: bytes) -> None:
        """Publish a serialized message."""
        ...

    def listeners(self) -> int:
        """How many subscribe."""
        ...


class Transforms(Protocol):
    """The tree of frames, as far as it was heard of."""

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """(4, 4) that takes points of `source` to `target` at a time, ns; raises TransformError."""
        ...


class Worker(Protocol):
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

    def advertise(self, message_type: str, topic: str, depth: int) -> Output:
        """Publish on a topic; `message_type` is like ``sensor_msgs/msg/Image``."""
        ...

    def hear(
        self, message_type: str, topic: str, receive: Callable[[bytes], None], reliability: str
    ) -> Input:
        """Call `receive` with every serialized message of a topic."""
        ...

    def every(self, period_s: float, call: Callable[[], None]) -> None:
        """Call at a fixed rate, by the machine's clock: that of the stamps may stand still."""
        ...

    def transforms(self) -> Transforms:
        """What /tf and /tf_static say."""
        ...

    def make_worker(self, pipeline: FramePipeline, scheduler: FixedRateScheduler, mailbox: Mailbox) -> Worker:
        """Whoever runs a pipeline."""
        ...

    def inform(self, text: str) -> None:
        """Tell people."""
        ...

    def complain(self, stream: str, error: Exception) -> None:
        """Tell people of a message that ended badly."""
        ...


class Component:
    """The logic of a node; what it opened at its host, the host closes.

    Attributes:
        NAME: of the node, if nobody gives another.
        active: nothing is worked on before, and after.
        gate: held while a message is taken.
        accounts: by the absolute name of the topic.
    """

    NAME: ClassVar[str]
    PARAMETERS: ClassVar[Sequence[Parameter]] = ()

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        self.host = host
        self.values = values
        self.active = False
        self.gate = threading.Lock()
        self.accounts: dict[str, Account] = {}
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
        account: Account,
        receive: Callable[[bytes, Entry], None],
        reliability: str = "reliable",
    ) -> None:
        """Take serialized messages while active; each is accounted for.

        Args:
            message_type: like ``sensor_msgs/msg/Image``. topic: as in the parameters. account: counts them.
            receive: sees to it that the message ends in the ledger, now or later; what it raises is counted
                as a decode error.
            reliability: asked of publishers.
        """
        stream = self.host.resolve_topic_name(topic)

        def take(data: bytes) -> None:
            with self.gate:
                if not self.active:
                    return
                entry = account.receive(self.host.now_ns())
                try:
                    receive(data, entry)
                except Exception as error:  # noqa: BLE001 - whatever a message holds, the next one is received
                    account.ledger.settle(entry, Fate.DECODE_ERROR, str(error))
                    self.host.complain(stream, error)

        self.account_for(stream, account, self.host.hear(message_type, topic, take, reliability))

    def account_for(self, stream: str, account: Account, heard: Input) -> None:
        """Tell of a stream in the diagnostics."""
        self.accounts[stream] = account
        self._reports[stream] = StreamReport(f"{self.host.get_name()}: {stream}", account, heard)

    def show(self, draw: Callable[..., None], *args: Any) -> None:
        """Call what publishes for people, after the result is out: its failure is told, and costs nothing."""
        try:
            draw(*args)
        except Exception as error:  # noqa: BLE001 - a picture for people must not cost a result
            self.host.complain(self.host.get_name(), error)

    def stream_statuses(
        self, hardware_id: str = "", more: Callable[[str], Mapping[str, object]] = lambda stream: {}
    ) -> list[Status]:
        """One status for each stream, with `more` values of it."""
        now = self.host.now_ns()
        return [report.make(now, hardware_id, more(stream)) for stream, report in self._reports.items()]
