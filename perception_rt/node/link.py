"""Find out that messages no longer reach this process although they are sent.

Fast DDS removes the shared-memory port of a process that was stopped for a while, and other programs remove
files from /dev/shm. No subscription of the process hears a publisher through a removed port, nor does a new
one: the port belongs to the DDS participant, which a process keeps. Another participant, with a port of its
own, hears. That tells a dead link from a publisher that is silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

from rclpy.node import Node

from perception_rt.node.qos import AdaptiveSubscription
from perception_rt.node.run import spinning_node

SILENT_S = 10  # silence of a topic that has a publisher, until another participant listens
PROBE_S = 5.0  # for that, with discovery
PAUSE_S = 60  # least time from one probe to the next
HEARD = 2  # messages that the probe must hear: DDS may have lost a single one
DEAF = 75  # exit code, EX_TEMPFAIL of sysexits.h


class LinkWatch:
    """Lets a new participant listen to topics that are silent; call `every_second` on the node's executor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._closed = threading.Event()
        self._probe: threading.Thread | None = None
        self._heard: dict[str, int] = {}  # messages by topic
        self._pause_s = 0
        self._settled = False

    def every_second(self, subscriptions: Sequence[AdaptiveSubscription]) -> str:
        """Return why the process has to end; empty while it receives what is sent."""
        self._pause_s -= 1
        silent = [one for one in subscriptions if one.silent_s >= SILENT_S]
        if self._probe is not None:
            if self._probe.is_alive():
                return ""
            if not self._settled:  # what the probe heard may still wait here for its callback
                self._settled = True
                return ""
            self._probe = None
            for one in silent:
                if self._heard.get(one.topic, 0) >= HEARD:
                    return (
                        f"{one.topic}: nothing came for {one.silent_s} s, but another DDS participant hears "
                        "it: the shared-memory port of this process was removed from /dev/shm, or Fast DDS "
                        "took the process for dead while it was stopped. It ends with exit code "
                        f"{DEAF}; `perception-rt up` and launch start it again, else start it by hand"
                    )
        if silent and self._pause_s <= 0 and not self._closed.is_set():
            self._pause_s, self._settled = PAUSE_S, False
            self._heard = {one.topic: 0 for one in silent}
            self._probe = threading.Thread(target=self._listen, args=(silent,), name="link", daemon=True)
            self._probe.start()
        return ""

    def close(self) -> None:
        """End a probe that runs."""
        self._closed.set()
        if self._probe is not None:
            self._probe.join(PROBE_S)

    def _listen(self, silent: Sequence[AdaptiveSubscription]) -> None:
        node, heard, end_s = self._node, self._heard, time.monotonic() + PROBE_S
        own = node.get_name(), node.get_namespace()
        found = node.get_node_names_and_namespaces_with_enclaves()
        # Topics are resolved already: of the ROS arguments of the process only the enclave counts.
        args = [word for *name, enclave in found if tuple(name) == own for word in ("--enclave", enclave)]

        def count(topic: str, data: bytes) -> None:
            heard[topic] += 1

        try:
            domain = node.context.get_domain_id()
            with spinning_node("_perception_rt_link", domain, ["--ros-args", *args[:2]]) as other:
                for one in silent:
                    one.listen_on(other, partial(count, one.topic))
                while time.monotonic() < end_s and max(heard.values()) < HEARD:
                    if self._closed.wait(0.1):
                        return
        except RuntimeError as error:  # of rcl
            node.get_logger().warning(f"cannot listen as another DDS participant: {error}")
