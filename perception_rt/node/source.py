"""What nodes that play something share: pacing on the machine's clock, /clock, waiting for listeners."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from perception_rt.component.parameters import Parameter
from perception_rt.node.shell import PerceptionNode

CLOCK_PERIOD_NS = 4_000_000  # simulated time steps at 250 Hz, finer than any age that matters
GRACE_S = 1.0  # between the first listener and the start: discovery is not the same for all

SOURCE_PARAMETERS = (
    Parameter("speed", 1.0, "How many times faster than recorded.", (0.01, 100.0)),
    Parameter("wait_for_listener", True, "Start only when somebody subscribes to a sensor topic."),
    Parameter("listeners", [""], "Further topics, anybody's, that must have a subscriber before the start."),
)

Event = tuple[int, Callable[[], None]]


class SourceNode(PerceptionNode):
    """Publishes timed events from a thread of its own; `finished` is set after the last.

    Attributes:
        halt: set while the node is to be still.
    """

    def __init__(self, node_name: str, **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self.halt = threading.Event()
        self._thread: threading.Thread | None = None
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._clock_publisher = self.create_publisher(Clock, "/clock", qos)

    # What a source fills in.

    def prepare(self) -> None:
        """What takes its time, done before listeners are waited for."""

    def events(self) -> Iterator[Event]:
        """`(time in ns, what to publish)` in order of time; made one ahead of its time."""
        raise NotImplementedError

    def listened(self) -> list[Publisher]:
        """The publishers of which one needs a subscriber before the start."""
        raise NotImplementedError

    # Lifecycle.

    def start(self) -> None:
        """Begin to play."""
        self.halt.clear()
        self._thread = threading.Thread(target=self._play, name="play", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End playing after the event in hand."""
        self.halt.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def _play(self) -> None:
        try:
            self.prepare()
            if self._wait_for_listener():
                self._play_events()
        except Exception as error:  # noqa: BLE001 - a thread would die unheard
            self.get_logger().error(f"playing ended: {error}\n{traceback.format_exc()}")
        if not self.halt.is_set():
            self.get_logger().info("finished")
            self.finished.set()

    def _wait_for_listener(self) -> bool:
        """False where the node was stopped meanwhile."""
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
        began_ns = clock_ns = first_ns = None
        for time_ns, emit in self.events():
            if began_ns is None:
                began_ns, first_ns, clock_ns = time.monotonic_ns(), time_ns, time_ns
            while clock_ns <= time_ns:
                if self._sleep_until(began_ns, clock_ns - first_ns):
                    return
                self.publish_clock(clock_ns)
                clock_ns += CLOCK_PERIOD_NS
            if self._sleep_until(began_ns, time_ns - first_ns):
                return
            self.publish_clock(time_ns)
            emit()

    def _sleep_until(self, began_ns: int, offset_ns: int) -> bool:
        """True where the node was stopped meanwhile."""
        wait_ns = began_ns + offset_ns / self.values["speed"] - time.monotonic_ns()
        return self.halt.wait(wait_ns / 1e9) if wait_ns > 0 else self.halt.is_set()

    def publish_clock(self, time_ns: int) -> None:
        """Let it be that time."""
        self._clock_publisher.publish(Clock(clock=to_time(time_ns)))


def to_time(stamp_ns: int) -> Time:
    """A stamp in ns as builtin_interfaces/Time."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
