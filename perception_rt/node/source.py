"""The base of player nodes: pacing by the system clock, /clock, waiting for subscribers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from perception_rt.codec.cdr import CDR_LITTLE_ENDIAN, stamp_bytes
from perception_rt.component.parameters import Parameter
from perception_rt.node.shell import PerceptionNode

CLOCK_PERIOD_NS = 4_000_000  # simulated time steps at 250 Hz, fine enough for ages
SLEEP_S = 0.02  # waits up to here are slept: Event.wait costs a lock and a queue each time
MAX_GAP_NS = 60 * 10**9  # longer gaps between messages are skipped
REPORT_S = 1.3  # nodes report at 1 Hz
DEAD_S = 4.0  # a node without a report for so long
GRACE_S = 1.0  # from the first subscriber to the start, as others are discovered later

SOURCE_PARAMETERS = (
    Parameter("speed", 1.0, "Speed, as a multiple of the recorded one.", (0.01, 100.0)),
    Parameter("wait_for_listener", True, "Start only once a sensor topic has a subscriber."),
    Parameter("listeners", [""], "Further topics that must have a subscriber before the start."),
)

Event = tuple[int, Callable[[], None]]


class _Account(NamedTuple):
    """What a stream last reported, and when it last had work; seconds of the system's clock."""

    received: str
    reported_s: float
    worked_s: float


class SourceNode(PerceptionNode):
    """Publishes timed events from a thread of its own; `finished` is set after the last.

    Attributes:
        halt: set while the node must not publish.
    """

    def __init__(self, node_name: str, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self.halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._clock_ns = 0  # the last published time
        self._finished_s = 0.0
        self._publishing = threading.Lock()  # held while publishing; not after `stop`
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._clock_publisher = self.create_publisher(Clock, "/clock", qos)
        self._accounts: dict[str, _Account] = {}  # of streams of other processes, by status
        self.create_subscription(DiagnosticArray, "/diagnostics", self.guard(self._on_diagnostics), 100)

    def pending(self) -> int:
        """Return the number of streams of other processes that still work, by their diagnostics.

        A stream works while it holds a message or received one since its report before, and until its first
        report after the end of playing. A node that no longer reports has died.
        """
        now_s, end_s = time.monotonic(), self._finished_s
        return sum(
            now_s - one.worked_s < REPORT_S or (one.reported_s < end_s and now_s - one.reported_s < DEAD_S)
            for one in list(self._accounts.values())
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now_s = time.monotonic()
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            if "pending" not in values or status.name.partition(":")[0] in self.companions:
                continue
            before = self._accounts.get(status.name)
            idle = values["pending"] == "0" and before is not None and before.received == values["received"]
            worked_s = before.worked_s if idle and before is not None else now_s
            self._accounts[status.name] = _Account(values["received"], now_s, worked_s)

    # Subclasses implement these.

    def prepare(self) -> None:
        """Do slow preparations, before the wait for subscribers."""

    def events(self) -> Iterator[Event]:
        """Yield `(time in ns, publishing function)` in order of time; called one event ahead."""
        raise NotImplementedError

    def listened(self) -> list[Publisher]:
        """Return the publishers; one of them needs a subscriber before the start."""
        raise NotImplementedError

    # Lifecycle.

    def start(self) -> None:
        """Start to play."""
        self._clock_ns = 0
        self.halt.clear()
        self._thread = threading.Thread(target=self._play, name="play", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop playing; nothing is published after this returns."""
        self.halt.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)
        with self._publishing:
            pass

    def _play(self) -> None:
        try:
            self.prepare()
            if self._wait_for_listener():
                self._play_events()
        except Exception as error:  # noqa: BLE001 - the thread would end silently
            if self.halt.is_set():  # the publishers may have been destroyed
                return
            self.count_error(error)
            self.get_logger().error(f"playing ended: {error}")
        if not self.halt.is_set():
            self.get_logger().info("finished")
            self._finished_s = time.monotonic()
            self.finished.set()
        # Messages that wait in simulated time for partners or transforms still get an answer.
        period_s = CLOCK_PERIOD_NS / 1e9 / min(self.values["speed"], 1.0)
        while not self.halt.wait(period_s) and self._clock_ns:
            self.publish_clock(self._clock_ns + CLOCK_PERIOD_NS)

    def _wait_for_listener(self) -> bool:
        """Return False if the node was stopped meanwhile."""
        if not self.values["wait_for_listener"]:
            return not self.halt.is_set()
        others = [topic for topic in self.values["listeners"] if topic]
        while not (
            any(publisher.get_subscription_count() for publisher in self.listened())
            and all(self.count_subscribers(topic) for topic in others)
        ):
            if self.halt.wait(0.05):
                return False
        return not self.halt.wait(GRACE_S)

    def _play_events(self) -> None:
        began_ns = first_ns = clock_ns = -1
        for time_ns, emit in self.events():
            if began_ns < 0:
                began_ns, first_ns, clock_ns = time.monotonic_ns(), time_ns, time_ns
            if time_ns - clock_ns > MAX_GAP_NS:
                self.get_logger().warning(f"{(time_ns - clock_ns) / 1e9:.1f} s without a message: skipped")
                first_ns, clock_ns = first_ns + time_ns - clock_ns, time_ns
            while clock_ns <= time_ns:
                if self._sleep_until(began_ns, clock_ns - first_ns):
                    return
                self.publish_clock(clock_ns)
                clock_ns += CLOCK_PERIOD_NS
            if self._sleep_until(began_ns, time_ns - first_ns):
                return
            self.publish_clock(time_ns)
            with self._publishing:
                if self.halt.is_set():
                    return
                emit()

    def _sleep_until(self, began_ns: int, offset_ns: int) -> bool:
        """Return True if the node was stopped meanwhile."""
        wait_s = (began_ns + offset_ns / self.values["speed"] - time.monotonic_ns()) / 1e9
        if wait_s > SLEEP_S:
            return self.halt.wait(wait_s)
        if wait_s > 0:
            time.sleep(wait_s)
        return self.halt.is_set()

    def publish_clock(self, time_ns: int) -> None:
        """Publish the simulated time, if it has a subscriber."""
        with self._publishing:
            if not self.halt.is_set():
                self._clock_ns = time_ns
                # To count costs a fraction of publishing, at some 400 times a second.
                if self._clock_publisher.get_subscription_count():
                    self._clock_publisher.publish(CDR_LITTLE_ENDIAN + stamp_bytes(time_ns))


def to_time(stamp_ns: int) -> Time:
    """Return a stamp in ns as builtin_interfaces/Time."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
