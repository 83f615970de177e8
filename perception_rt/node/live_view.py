"""Show a running graph in Foxglove or Rerun, as `perception-rt replay --live` shows a replay."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from perception_rt.node.messages import message_class
from perception_rt.node.run import spinning_node
from perception_rt.node.survey import matching_qos
from perception_rt.replay.live import Live, open_live
from perception_rt.replay.message_types import header_stamp_ns

WAITING = 200  # messages; a slow viewer misses newer ones
SEARCH_S = 1.0
ARRAYS = ("vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray")


@contextmanager
def live_view(kind: str) -> Iterator[None]:
    """Show the graph of this domain until the end of the `with` block.

    Args:
        kind: as of `--live`; see `open_live`.

    Raises:
        ConfigError: the viewer cannot be opened.
    """
    with closing(open_live(kind)) as viewer, spinning_node("_perception_rt_live") as node:
        print(viewer.where, flush=True)
        shown, stop = GraphView(node, viewer), threading.Event()
        thread = threading.Thread(target=shown.run, args=(stop,), name="live", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class GraphView:
    """Subscribes to every new topic, and passes messages to a viewer on one thread.

    Uses the time of /clock if it is published, else the system time.
    """

    def __init__(self, node: Node, viewer: Live) -> None:
        self._node, self._viewer = node, viewer
        self._known: set[str] = set()
        self._arrived: queue.Queue[tuple[str, str, int, bytes]] = queue.Queue(WAITING)
        self._clock_ns: int | None = None
        node.create_subscription(Clock, "/clock", self._on_clock, matching_qos(node, "/clock", 1))

    def run(self, stop: threading.Event) -> None:
        """Pass messages on until `stop` is set."""
        self._viewer.begin({}, 0.0)
        search_s = 0.0
        while not stop.is_set():
            if (now_s := time.monotonic()) >= search_s:
                search_s = now_s + SEARCH_S
                self._subscribe_new()
            try:
                topic, kind, time_ns, data = self._arrived.get(timeout=0.1)
            except queue.Empty:
                continue
            self._viewer.message(topic, kind, time_ns, data)
            stamp_ns = header_stamp_ns(data) if kind in ARRAYS else None
            if stamp_ns is not None:
                self._viewer.ages(topic, time_ns, (time_ns - stamp_ns) / 1e6)

    def _subscribe_new(self) -> None:
        for name, types in self._node.get_topic_names_and_types():
            if name in self._known or name == "/clock" or not self._node.count_publishers(name):
                continue
            self._known.add(name)
            message_type = message_class(types[0])
            if message_type is None:
                continue

            def take(data: bytes, name: str = name, kind: str = types[0]) -> None:
                if not self._arrived.full():
                    now_ns = time.time_ns() if self._clock_ns is None else self._clock_ns
                    self._arrived.put_nowait((name, kind, now_ns, bytes(data)))

            qos = matching_qos(self._node, name)
            self._node.create_subscription(message_type, name, take, qos, raw=True)

    def _on_clock(self, message: Clock) -> None:
        self._clock_ns = message.clock.sec * 10**9 + message.clock.nanosec
