"""Sensors in their own process: publish one message repeatedly, stamped with the current time.

`python -m bench.publisher TOPICS TYPE FILE RELIABILITY` publishes on each of the comma-separated topics in
turn, nothing until told. Commands, a line each on standard input: `rate HZ` (of all topics together; 0
pauses), `count`, which answers `{"sent": n, "subscribers": n}` (of the topic that has the fewest). The
process ends with its standard input.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STAMP = slice(4, 12)  # after the four bytes of the encapsulation header
READY_S = 30.0


class Sensor:
    """The publisher, controlled by the measuring process.

    Args:
        topic: topic, or several, comma-separated: sensors that take turns.
        kind: of the message, in sensor_msgs: ``Image`` or ``PointCloud2``.
        file: the serialized message; its header comes first.
        reliability: ``best_effort`` or ``reliable``.
        environment: of the process.
    """

    def __init__(
        self, topic: str, kind: str, file: Path, reliability: str, environment: dict[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.publisher", topic, kind, str(file), reliability],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # the measuring process handles Ctrl-C and ends this one
        )

    def __enter__(self) -> Sensor:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def rate(self, hz: float) -> None:
        """Publish at `hz` (all topics together) from now on; 0 pauses."""
        self._tell(f"rate {hz}")

    def sent(self) -> int:
        """Return the number of messages published so far."""
        return self._ask()["sent"]

    def wait_until_heard(self, timeout_s: float = READY_S) -> None:
        """Wait until a subscription matches, and shortly longer, as discovery differs on both sides.

        Raises:
            TimeoutError: there is no subscription.
        """
        end = time.monotonic() + timeout_s
        while not self._ask()["subscribers"]:
            if time.monotonic() > end:
                raise TimeoutError(f"no subscription within {timeout_s:g} s")
            time.sleep(0.05)
        time.sleep(1.0)

    def _ask(self) -> dict[str, int]:
        self._tell("count")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the publisher ended with status {self._process.wait()}; its log is above")
        return json.loads(answer)

    def _tell(self, command: str) -> None:
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()


class Pace:
    """Emits at a rate that may change at any time; keeps its phase and never catches up."""

    def __init__(self, emit: Callable[[], None]) -> None:
        self.sent = 0
        self._emit = emit
        self._period_s: float | None = None
        self._ended = False
        self._changed = threading.Event()

    def set_rate(self, hz: float) -> None:
        """Emit at `hz`, the first one now; 0 pauses."""
        self._period_s = 1 / hz if hz else None
        self._changed.set()

    def end(self) -> None:
        """Let `run` return."""
        self._ended = True
        self._changed.set()

    def run(self) -> None:
        """Emit until `end`."""
        due = time.monotonic()
        while not self._ended:
            period = self._period_s
            wait = None if period is None else due - time.monotonic()
            if wait is None or wait > 0:
                if self._changed.wait(wait):
                    self._changed.clear()
                    due = time.monotonic()
                continue
            self._emit()
            self.sent += 1
            due += period
            if due < time.monotonic() - period:
                due = time.monotonic()


def main(topic: str, kind: str, file: str, reliability: str) -> int:
    """Publish until standard input ends."""
    import rclpy
    import sensor_msgs.msg
    from rclpy._rclpy_pybind11 import RCLError
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    from perception_rt.codec.cdr import stamp_bytes
    from perception_rt.node.run import keep_large_blocks

    keep_large_blocks()
    rclpy.init()
    node = rclpy.create_node("bench_sensor")
    qos = QoSProfile(
        depth=10 if reliability == "reliable" else 1, reliability=ReliabilityPolicy[reliability.upper()]
    )
    kind_of = getattr(sensor_msgs.msg, kind)
    publishers = [node.create_publisher(kind_of, name, qos) for name in topic.split(",")]
    turn = itertools.cycle(publishers)
    message = bytearray(Path(file).read_bytes())

    def emit() -> None:
        message[STAMP] = stamp_bytes(time.time_ns())
        # A reliable writer whose reader is behind refuses the message: a frame that the sensor lost.
        with contextlib.suppress(RCLError):
            next(turn).publish(bytes(message))

    pace = Pace(emit)

    def listen() -> None:
        for line in sys.stdin:
            command, *values = line.split()
            if command == "rate":
                pace.set_rate(float(values[0]))
            else:
                subscribers = min(publisher.get_subscription_count() for publisher in publishers)
                print(json.dumps({"sent": pace.sent, "subscribers": subscribers}))
                sys.stdout.flush()
        pace.end()

    threading.Thread(target=listen, daemon=True).start()
    pace.run()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
