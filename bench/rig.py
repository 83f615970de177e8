"""Sensors, a detector node in its own process, and an observer that measures it from outside.

The observer sees what any subscriber sees: which results arrive, and how old their stamps are then.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.publisher import Sensor
from perception_rt.node.transport import PROFILE_VARIABLES

READY_S = 120.0
SETTLE_S = 2.0
ARRAYS = {"Image": "Detection2DArray", "PointCloud2": "Detection3DArray"}


@dataclass(frozen=True)
class Scene:
    """The input of a measurement and its node.

    Attributes:
        kind: message type in sensor_msgs: ``Image`` or ``PointCloud2``.
        file: the serialized message.
        bundle: the detector.
        sensors: how many topics.
        hz: rate of each.
        node: ``perception_rt``, or the engine of a peer: ``torch``, ``onnxruntime``.
    """

    kind: str
    file: Path
    bundle: str
    sensors: int
    hz: float
    node: str

    @property
    def topics(self) -> list[str]:
        """The sensors' topics."""
        return [f"/bench/sensor_{number}" for number in range(self.sensors)]


@dataclass(frozen=True)
class Observed:
    """The results of the observer in a run.

    Attributes:
        sent: messages of the sensors in the time of the measurement.
        ages_ms: age of each result when it arrived.
        seconds: length of the measurement.
        cpu_ms: processor time of the node's process.
        forward_ms: median that the node states; None if it states none.
    """

    sent: int
    ages_ms: np.ndarray
    seconds: float
    cpu_ms: float
    forward_ms: float | None

    @property
    def answered(self) -> int:
        """Number of results."""
        return len(self.ages_ms)

    def age(self, q: float) -> float:
        """Return a percentile of the ages, ms; NaN without results."""
        return float(np.percentile(self.ages_ms, q)) if self.answered else float("nan")


@contextmanager
def busy_core(core: int | None) -> Iterator[None]:
    """Keep one core busy with a process that is pinned to it; None does nothing."""
    if core is None:
        yield
        return
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    os.sched_setaffinity(spin.pid, {core})
    try:
        yield
    finally:
        spin.kill()
        spin.wait()


def observe(scene: Scene, seconds: float, folder: Path) -> Observed:
    """Start sensors and node, wait until results come, measure, and stop both.

    Raises:
        RuntimeError: no result within `READY_S`, or the node ended; its log is in the message.
    """
    environment = dict(os.environ)
    if scene.node != "perception_rt":  # Fast DDS as it comes
        environment = {key: value for key, value in environment.items() if key not in PROFILE_VARIABLES}
    log = folder / "node.log"
    reliability = "best_effort" if scene.node == "perception_rt" else "reliable"
    topics = ",".join(scene.topics)
    with (
        log.open("w") as output,
        Sensor(topics, scene.kind, scene.file, reliability, environment) as sensors,
        _process(_command(scene, folder), environment, output) as process,
        Observer(ARRAYS[scene.kind]) as observer,
    ):
        sensors.wait_until_heard(READY_S)
        sensors.rate(scene.hz * scene.sensors)
        if not observer.wait_for_results(READY_S) or process.poll() is not None:
            raise RuntimeError(f"no results of {scene}: {log.read_text()[-2000:]}")
        time.sleep(SETTLE_S)
        observer.clear()
        sent, cpu_s = sensors.sent(), _cpu_s(process.pid)
        time.sleep(seconds)
        sent, cpu_s = sensors.sent() - sent, _cpu_s(process.pid) - cpu_s
        ages, forward = observer.ages(), observer.forward_ms()
        sensors.rate(0)
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):  # it is killed then, and states no forward
            process.wait(20)
    if forward is None:
        lines = [line for line in log.read_text().splitlines() if line.startswith('{"forward_p50_ms"')]
        forward = json.loads(lines[-1])["forward_p50_ms"] if lines else None
    return Observed(sent, ages, seconds, 1e3 * cpu_s, forward)


def _command(scene: Scene, folder: Path) -> list[str]:
    if scene.node != "perception_rt":
        peer = [scene.node, scene.bundle, ",".join(scene.topics), scene.kind]
        return [sys.executable, "-m", "bench.peer_node", *peer]
    name, topics = {
        "Image": ("camera_detector", "image_topics"),
        "PointCloud2": ("lidar_detector", "points_topics"),
    }[scene.kind]
    config = folder / "node.yaml"
    parameters = {"bundle": scene.bundle, topics: scene.topics, "rate_hz": max(30.0, scene.hz)}
    config.write_text(yaml.safe_dump({name: {"ros__parameters": parameters}}))
    return [sys.executable, "-m", "perception_rt.cli.main", "up", str(config)]


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process and of those that it started, s."""
    parents, spent = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        one = int(file.parent.name)
        parents[one], spent[one] = int(fields[1]), int(fields[11]) + int(fields[12])
    tree = {pid}
    while more := {one for one, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(spent.get(one, 0) for one in tree) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Observer:
    """Subscribes to every detection topic and to /diagnostics, on a thread of its own."""

    def __init__(self, array: str) -> None:
        self._array = f"vision_msgs/msg/{array}"
        self._lock = threading.Lock()
        self._ages: list[float] = []
        self._forward: float | None = None
        self._ended = False

    def __enter__(self) -> Observer:
        import rclpy

        rclpy.init()
        self._node = rclpy.create_node("bench_observer")
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        import rclpy

        self._ended = True
        self._thread.join()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def wait_for_results(self, timeout_s: float) -> bool:
        """Return whether a result came in time."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.ages().size:
                return True
            time.sleep(0.1)
        return False

    def clear(self) -> None:
        """Forget the results so far."""
        with self._lock:
            self._ages.clear()

    def ages(self) -> np.ndarray:
        """Return the age of every result since `clear`, ms."""
        with self._lock:
            return np.array(self._ages)

    def forward_ms(self) -> float | None:
        """Return the median forward on /diagnostics, ms; None for a node without."""
        return self._forward

    def _spin(self) -> None:
        import rclpy
        import vision_msgs.msg
        from diagnostic_msgs.msg import DiagnosticArray

        subscribed: set[str] = set()
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        kind = getattr(vision_msgs.msg, self._array.rpartition("/")[2])
        due = 0.0
        while not self._ended:
            if time.monotonic() > due:
                due = time.monotonic() + 0.5
                for name, types in self._node.get_topic_names_and_types():
                    if self._array in types and name not in subscribed:
                        subscribed.add(name)
                        self._node.create_subscription(kind, name, self._on_result, 50, raw=True)
            rclpy.spin_once(self._node, timeout_sec=0.1)

    def _on_result(self, data: bytes) -> None:
        now = time.time_ns()
        seconds, nanoseconds = np.frombuffer(data, np.uint32, 2, 4)
        with self._lock:
            self._ages.append((now - int(seconds) * 10**9 - int(nanoseconds)) / 1e6)

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            for pair in status.values:
                if re.search("infer.*p50", pair.key):
                    self._forward = float(pair.value)
