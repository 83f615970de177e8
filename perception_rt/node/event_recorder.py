"""Node event_recorder: writes the last seconds of the graph as a bag on a fault or on request."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timezone
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_srvs.srv import Trigger

from perception_rt.component.parameters import Parameter
from perception_rt.node.messages import message_class
from perception_rt.node.run import run
from perception_rt.node.shell import PerceptionNode
from perception_rt.replay.events import EventBuffer, EventFolder, KeptMessage
from perception_rt.replay.message_types import is_latched, typestore
from perception_rt.types import BagError, PerceptionError
from perception_rt.types.status import Level, Status

NEVER_KEPT = ("/rosout", "/parameter_events")
MOVING = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STOP_S = 5.0  # to finish a bag
LEVELS = {"none": 9, "warn": 1, "error": 2}


class EventRecorderNode(PerceptionNode):
    """Keeps serialized messages in memory and writes bags on a thread of its own."""

    PARAMETERS = (
        Parameter("topics", [""], "Topics to keep; one empty name: all of known types."),
        Parameter(
            "exclude",
            ["/image_annotated", "/markers"],
            "Name endings to skip among all topics: images that are drawn only for subscribers.",
        ),
        Parameter("seconds", 10.0, "Time that messages are kept, s.", (0.5, 600.0)),
        Parameter("after_s", 1.0, "Time from an event to the writing of its bag, s.", (0.0, 60.0)),
        Parameter(
            "max_memory_mb",
            512.0,
            "Maximum size of messages in memory, MB; the oldest are dropped.",
            (1.0, 65536.0),
        ),
        Parameter("folder", "events", "Folder of the bags; each is named event_TIME."),
        Parameter("max_bags", 10, "Maximum number of bags; the oldest are removed.", (1, 10000)),
        Parameter("max_disk_mb", 4096.0, "Maximum size of all bags, MB; the oldest are removed.", (1.0, 1e7)),
        Parameter("quiet_s", 10.0, "Minimum time between two bags caused by faults, s.", (0.0, 3600.0)),
        Parameter(
            "fault_level",
            "warn",
            "Minimum level on /diagnostics of a fault that is an event.",
            choices=("none", "warn", "error"),
        ),
        Parameter(
            "fault_nodes",
            ["sensor_health: "],
            "Status name prefixes whose faults are events; the camera-lidar status is one of them.",
        ),
    )

    def __init__(self, node_name: str = "event_recorder", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._buffer: EventBuffer | None = None
        self._store: EventFolder | None = None
        self._kept_topics: dict[str, list[Any]] = {}
        self._diagnostics_subscription: Any = None
        self._levels: dict[str, int] = {}
        # On the machine's monotonic clock, as the system's may be set.
        self._due: tuple[float, str] | None = None  # when the bag of a fault is written, s, and why
        self._last_s: float | None = None  # of the last fault with a bag
        self._writer: threading.Thread | None = None
        self._written = self._failed = 0
        self._last = self._error = ""
        self.create_service(Trigger, "~/save", self._on_save)

    # Lifecycle.

    def setup(self) -> None:
        """Create the buffer and subscribe to /diagnostics; other topics are added once a second."""
        values = self.values
        self._buffer = EventBuffer(values["seconds"], round(values["max_memory_mb"] * 1e6))
        folder = Path(values["folder"]).expanduser()
        self._store = EventFolder(folder, values["max_bags"], round(values["max_disk_mb"] * 1e6))
        self._diagnostics_subscription = self.create_subscription(
            DiagnosticArray, "/diagnostics", self.guard(self._on_diagnostics), QoSProfile(depth=100)
        )

    def start(self) -> None:
        """Find the topics."""
        self._discover()

    def stop(self) -> None:
        """Write the bag of a fault now that would be due later."""
        self._write_due()

    def finishing(self) -> bool:
        """Return whether a bag is being written."""
        return self._writer is not None and self._writer.is_alive()

    def teardown(self) -> None:
        """Unsubscribe, and finish the current bag."""
        for subscription in (*chain(*self._kept_topics.values()), self._diagnostics_subscription):
            if subscription is not None:
                self.destroy_subscription(subscription)
        self._kept_topics, self._diagnostics_subscription = {}, None
        if self._writer is not None:
            self._writer.join(STOP_S)
        self._buffer = self._store = self._writer = self._due = None
        self._levels.clear()

    def on_clock_reset(self) -> None:
        """Write a bag that is due now, as the messages of the new time replace those of the old one."""
        self._write_due()

    def every_second(self) -> None:
        """Find new topics, and write a bag that is due."""
        self._discover()
        if self._due is not None and time.monotonic() >= self._due[0]:
            self._write_due()

    def _write_due(self) -> None:
        """Begin the bag of a fault; while another one is being written, it stays due."""
        if self._due is None or self.finishing():
            return
        reason, self._due = self._due[1], None
        try:
            self._begin(reason)
        except PerceptionError as error:
            self._fail(error)

    # Messages.

    def _discover(self) -> None:
        wanted = [self.resolve_topic_name(topic) for topic in self.values["topics"] if topic]
        excluded = tuple(filter(None, self.values["exclude"]))
        for topic, types in self.get_topic_names_and_types():
            if topic in self._kept_topics or topic in NEVER_KEPT or len(types) != 1:
                continue
            left_out = topic not in wanted if wanted else topic.endswith(excluded)
            if left_out or types[0] not in typestore().types:
                continue
            message_type = message_class(types[0])
            if message_type is not None:
                latched = is_latched(topic, types[0])
                keep = self.guard(partial(self._keep, topic, types[0]))
                # Only a reliable reader gets what was published before it came.
                self._kept_topics[topic] = [
                    self.create_subscription(message_type, topic, keep, qos, raw=True)
                    for qos in ((LATCHED, MOVING) if latched else (MOVING,))
                ]

    def _keep(self, topic: str, message_type: str, data: bytes) -> None:
        now_ns = self.now_ns()
        if self._buffer is not None and self.active and now_ns > 0:
            self._buffer.add(KeptMessage(now_ns, topic, message_type, data))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if not status.name.startswith(tuple(filter(None, self.values["fault_nodes"])) or "\0"):
                continue
            level, before = status.level[0], self._levels.get(status.name, 0)
            self._levels[status.name] = level
            if level > before and level >= LEVELS[self.values["fault_level"]] and self.active:
                self._on_event(f"{status.name}: {status.message}")

    def _on_event(self, reason: str) -> None:
        if self._due is None:
            now_s = time.monotonic()
            quiet_until_s = 0.0 if self._last_s is None else self._last_s + self.values["quiet_s"]
            self._last_s = max(now_s, quiet_until_s)
            self._due = self._last_s + self.values["after_s"], reason

    async def _on_save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Respond with the folder of the complete bag, or with the reason for a failure."""
        done: Future = Future(executor=self.executor)
        try:
            if not self.active:
                raise BagError("event_recorder is not active: nothing is kept")
            self._begin("asked for by ~/save", done)
        except PerceptionError as error:
            response.message = self._fail(error)
            return response
        answer: Any = await done
        response.success, response.message = answer
        return response

    # Bags.

    def _begin(self, reason: str, done: Future | None = None) -> None:
        """Start to write the kept messages; raises BagError if that is impossible."""
        store, buffer = self._store, self._buffer
        assert store is not None
        assert buffer is not None
        if self.finishing():
            raise BagError("another bag is being written: call again when it is complete")
        messages = buffer.messages()
        if not messages:
            raise BagError("no message has come yet: there is nothing to write")
        self._writer = threading.Thread(
            target=self._write, args=(store, messages, reason, done), name="event bag", daemon=True
        )
        self._writer.start()

    def _write(
        self, store: EventFolder, messages: list[KeptMessage], reason: str, done: Future | None
    ) -> None:
        answer = (False, "the bag could not be written: the log says why")
        try:
            path = store.write(datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S_%fZ"), messages)
            self._written += 1
            self._last, self._error = str(path), ""
            self.get_logger().info(f"{path}: {len(messages)} messages: {reason}")
            answer = (True, str(path))
        except PerceptionError as error:
            answer = (False, self._fail(error))
        finally:
            if done is not None:
                done.set_result(answer)

    def _fail(self, error: PerceptionError) -> str:
        self._failed += 1
        self._error = str(error)
        self.get_logger().error(self._error, throttle_duration_sec=1.0)
        return self._error

    def diagnostics(self) -> list[Status]:
        """Return one status."""
        buffer = self._buffer
        if buffer is None:
            return []
        values = {
            "topics": len(self._kept_topics),
            "held_mb": buffer.held_bytes / 1e6,
            "cut": buffer.cut,
            "bags": self._written,
            "failed": self._failed,
            "last_bag": self._last,
            "last_error": self._error,
        }
        if not self.active:
            return [Status(self.get_name(), Level.OK, "inactive", "", values)]
        level, message = (Level.ERROR, self._error) if self._error else (Level.OK, "running")
        return [Status(self.get_name(), level, message, "", values)]


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run([EventRecorderNode], args)
