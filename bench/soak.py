"""Run the demo's graph for minutes, one process per node, under one fault after the other.

`python -m bench.soak --minutes 30` prints what each fault did and writes `out/bench/soak.json`. Sensors are a
simulated drive in a loop with /clock, published from here, so that they can fail. /dev/shm can be filled only
where this process may have one of its own (`unshare --mount`); else that fault is left out.

The sums of ledgers are checked at every message of /diagnostics. A fault ends; then every node has to answer
something that was measured after the end. After `kill -9` it has its start-up time, as measured at the
beginning, and a second more. Memory, descriptors and threads are those of the processes that live from the
warm-up to the end: medians of the last fifth against the first.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from bench.record import OUT
from bench.rows import Row, row, table_of, write_rows
from perception_rt.codec.cdr import stamp_bytes
from perception_rt.codec.encode import encode_image

SETTLE_S = 2.0  # between the end of a fault and the next one
PATIENCE_S = 60.0  # maximum time for an answer; longer times count as this
STOP_S = 5.0
FAILING = "/failing/camera_detector"
OUTPUTS = {
    "/camera_detector": "vision_msgs/msg/Detection2DArray detections",
    "/lidar_detector": "vision_msgs/msg/Detection3DArray detections",
    "/fusion": "vision_msgs/msg/Detection3DArray detections",
    "/object_tracker": "vision_msgs/msg/Detection3DArray tracks",
    "/vehicle_state": "nav_msgs/msg/Odometry odometry",
    FAILING: "vision_msgs/msg/Detection2DArray detections",
}
DETECTORS = ("/camera_detector", "/lidar_detector", FAILING)
INPUTS = {
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/lidar/points": "sensor_msgs/msg/PointCloud2",
    "/odom": "nav_msgs/msg/Odometry",
    "/imu": "sensor_msgs/msg/Imu",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/failing/image_raw": "sensor_msgs/msg/Image",
    "/clock": "rosgraph_msgs/msg/Clock",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}
ALSO_DAMAGED = {
    "/camera_detector/detections": "vision_msgs/msg/Detection2DArray",
    "/lidar_detector/detections": "vision_msgs/msg/Detection3DArray",
    "/fusion/detections": "vision_msgs/msg/Detection3DArray",
}
TROUBLE = (111, 113, 115)  # image widths on which the failing detector fails
START_NS = 1_700_000_000 * 10**9
CLOCK_HZ = 100
MS = 1_000_000


# What is run.


def graph(failing: str) -> dict[str, Any]:
    """The parameter file: the demo's nodes under simulated time, and a detector that can fail."""
    sim = {"use_sim_time": True}
    one = {**sim, "threads": 1}
    nodes = {
        "/camera_detector": {**one, "image_topics": ["camera/image_raw"], "warmup_sizes": ["320x180"]},
        "/lidar_detector": {**one, "bundle": "pillars", "points_topics": ["lidar/points"]},
        "/fusion": {**sim, "fixed_frame": "odom"},
        "/object_tracker": sim,
        "/vehicle_state": {**sim, "odometry_topic": "odom"},
        FAILING: {**one, "bundle": failing, "warmup_sizes": ["160x120"], "image_topics": ["image_raw"]},
    }
    return {name: {"ros__parameters": values} for name, values in nodes.items()}


def failing_bundle(path: Path) -> str:
    """Write a detector that raises, runs out of memory or mislabels, depending on the image width."""
    from perception_rt.model import bundle
    from perception_rt.model.manifest import ImageSpec
    from test.graph.models import Failing  # beside this package, not in it

    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    fields = {"name": "failing", "classes": ["bright"], "licence": "Apache-2.0"}
    bundle.save(path, Failing(10_000), input_spec=spec, **fields)
    return str(path)


def drive(folder: Path, seconds: float) -> list[tuple[int, str, bytes]]:
    """Time since the start, ns, topic and message of a simulated drive."""
    from perception_rt.replay.bag import Bag
    from test.drives import write_drive

    with Bag(write_drive(folder, seconds)) as bag:
        return [(m.log_ns - START_NS, m.topic, bytes(m.data)) for m in bag.messages() if m.topic in INPUTS]


class Sensors:
    """Publishes the drive in a loop, with /clock, as the faults want it.

    Attributes:
        silent: nothing but /clock is published.
        jump_ns: added to /clock and stamps.
        stamp_ns: added to every second stamp only.
    """

    def __init__(self, node: Any, messages: list[tuple[int, str, bytes]]) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile

        from perception_rt.node.messages import installed_class

        self.silent, self.jump_ns, self.stamp_ns = False, 0, 0
        self.messages = messages
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publishers = {
            topic: node.create_publisher(installed_class(kind), topic, latched if "static" in topic else 20)
            for topic, kind in {**INPUTS, **ALSO_DAMAGED}.items()
        }
        self._began = time.monotonic_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensors")

    def __enter__(self) -> Sensors:
        self.latch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def now_ns(self) -> int:
        """Return the simulated time."""
        return START_NS + time.monotonic_ns() - self._began + self.jump_ns

    def latch(self) -> None:
        """Publish the sensor mountings, transient local."""
        self.publish("/tf_static", next(data for _, topic, data in self.messages if topic == "/tf_static"))

    def publish(self, topic: str, data: bytes) -> None:
        """Publish a message unchanged."""
        self._publishers[topic].publish(data)

    def stamped(self, topic: str, data: bytes, stamp_ns: int) -> bytes:
        """Return a message with another stamp."""
        at = 8 if topic == "/tf" else 4  # after the encapsulation, and the number of transforms
        return data[:at] + stamp_bytes(stamp_ns) + data[at + 8 :]

    def example(self, topic: str) -> bytes:
        """Return one message of a topic with the current stamp."""
        if topic == "/clock":
            return b"\0\1\0\0" + stamp_bytes(self.now_ns())
        if topic == "/failing/image_raw":
            return bright(160, self.now_ns())
        data = next(data for _, name, data in reversed(self.messages) if name == topic)
        return self.stamped(topic, data, self.now_ns())

    def _run(self) -> None:
        length_ns = self.messages[-1][0] + 10 * MS
        ticks = [
            (number * 1000 * MS // CLOCK_HZ, "/clock", b"") for number in range(length_ns * CLOCK_HZ // 10**9)
        ]
        failing = [
            (number * 200 * MS, "/failing/image_raw", b"") for number in range(length_ns // (200 * MS))
        ]
        schedule = sorted([*self.messages, *ticks, *failing], key=lambda message: message[0])
        loop_ns = time.monotonic_ns()
        number = 0
        while True:
            for at_ns, topic, data in schedule:
                if self._stop.wait(max(loop_ns + at_ns - time.monotonic_ns(), 0) / 1e9):
                    return
                number += 1
                if topic == "/clock" or (topic == "/failing/image_raw" and not self.silent):
                    self.publish(topic, self.example(topic))
                elif topic != "/tf_static" and not self.silent:
                    stamp_ns = self.now_ns() + (self.stamp_ns if number % 2 else 0)
                    self.publish(topic, self.stamped(topic, data, stamp_ns))
            loop_ns += length_ns


def bright(width: int, stamp_ns: int) -> bytes:
    """Return an image in which the failing detector finds one box."""
    image = np.zeros((120, width, 3), np.uint8)
    image[20:50, 10:40, 0] = 255
    return encode_image(image, "rgb8", stamp_ns, "camera")


# What is watched.


@dataclass
class Watch:
    """Records the outputs and diagnostics of the nodes.

    Attributes:
        answers: by node, the stamp of the latest answer, ns, and when it came, s.
        ledgers: by status, the latest counts.
        violations: ledgers whose counts do not add up.
    """

    answers: dict[str, tuple[int, float]] = field(default_factory=dict)
    ledgers: dict[str, dict[str, str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def subscribe(self, node: Any) -> None:
        """Listen to all outputs and to /diagnostics."""
        from diagnostic_msgs.msg import DiagnosticArray

        from perception_rt.node.messages import installed_class

        for name, output in OUTPUTS.items():
            kind, topic = output.split()
            note = lambda data, name=name: self._note(name, data)  # noqa: E731
            node.create_subscription(installed_class(kind), f"{name}/{topic}", note, 20, raw=True)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._check, 100)

    def _note(self, name: str, data: bytes) -> None:
        if len(data) < 12:  # one of ours, malformed
            return
        sec, nanosec = struct.unpack_from("<iI", data, 4)
        self.answers[name] = sec * 10**9 + nanosec, time.monotonic()

    def _check(self, message: Any) -> None:
        from perception_rt.realtime.ledger import Outcome

        for status in message.status:
            if ": /" not in status.name:
                continue
            values = {item.key: item.value for item in status.values}
            ended = sum(int(values[outcome.value]) for outcome in Outcome)
            if int(values["received"]) != ended + int(values["pending"]):
                self.violations.append(f"{status.name}: {values}")
            self.ledgers[status.name] = values

    def answered(self, since_ns: int, until_ns: int, began_s: float) -> dict[str, float]:
        """Return the seconds until each node answered a stamp in a span; PATIENCE_S if it never did."""
        found: dict[str, float] = {}
        while len(found) < len(OUTPUTS) and time.monotonic() - began_s < PATIENCE_S:
            for name, (stamp_ns, at_s) in list(self.answers.items()):
                if name not in found and since_ns <= stamp_ns <= until_ns and at_s >= began_s:
                    found[name] = at_s - began_s
            time.sleep(0.005)
        return {name: found.get(name, PATIENCE_S) for name in OUTPUTS}


class Processes:
    """The nodes under `perception-rt up --separate`, and their resource usage.

    Attributes:
        samples: by process id and measure: (time s, value).
        names: by process id.
        ended: how processes ended that the faults did not kill.
    """

    def __init__(self, config: Path, log: Any) -> None:
        command = [sys.executable, "-m", "perception_rt.cli.main", "up", str(config), "--separate"]
        command += ["--restarts", "1000"]
        self.up = subprocess.Popen(command, stderr=log, stdout=log, start_new_session=True)
        self.samples: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        self.names: dict[int, str] = {}
        self.killed: set[int] = set()
        self.ended: list[str] = []

    def pids(self) -> dict[str, int]:
        """Process ids by node."""
        children = Path(f"/proc/{self.up.pid}/task/{self.up.pid}/children").read_text().split()
        found = {}
        for pid in map(int, children):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--only" in words:
                found[words[words.index(b"--only") + 1].decode()] = pid
        return found

    def sample(self) -> None:
        """Record memory, descriptors and threads of every process, and ended ones."""
        now, present = time.monotonic(), self.pids()
        for pid, name in self.names.items():
            if pid not in present.values() and pid not in self.killed:
                self.killed.add(pid)
                self.ended.append(name)
        for name, pid in present.items():
            self.names[pid] = name
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
            values = dict(line.split(":", 1) for line in status.splitlines())
            resident, shared, threads = (
                float(values[key].split()[0]) for key in ("VmRSS", "RssShmem", "Threads")
            )
            # Pages of others' segments count apart: in time, a reader touches up to the whole segment.
            self.samples[pid, "memory"].append((now, resident - shared))
            self.samples[pid, "shared_memory"].append((now, shared))
            self.samples[pid, "threads"].append((now, threads))
            self.samples[pid, "descriptors"].append((now, descriptors))

    def end(self) -> None:
        """Interrupt."""
        os.killpg(self.up.pid, signal.SIGINT)
        try:
            self.up.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.up.pid, signal.SIGKILL)
            self.up.wait()


# The faults. Each method returns when its fault is over; its docstring describes the fault.


class Faults:
    """Injects faults; a method's name is the name of its rows."""

    def __init__(self, sensors: Sensors, processes: Processes, watch: Watch, node: Any, seed: int) -> None:
        self.sensors, self.processes, self.watch, self.node = sensors, processes, watch, node
        self.rng = random.Random(seed)
        self.unanswered: list[str] = []
        self.victims = list(OUTPUTS)  # targets of kill -9, in turn
        self._clients: dict[str, Any] = {}

    def silence(self) -> None:
        """Stop all sensors for a while."""
        self.sensors.silent = True
        time.sleep(3.0)
        self.sensors.silent = False

    def burst(self) -> None:
        """Send a hundred messages of each sensor at once."""
        for topic in INPUTS:
            if topic not in ("/clock", "/tf_static"):
                for _ in range(100):
                    self.sensors.publish(topic, self.sensors.example(topic))

    def malformed(self) -> None:
        """Send truncated, corrupted and random messages on every topic that a node reads."""
        for topic in (*INPUTS, *ALSO_DAMAGED):
            whole = self.sensors.example("/odom" if topic in ALSO_DAMAGED else topic)
            for _ in range(10):
                self.sensors.publish(topic, self._damaged(whole, topic == "/clock"))
        self.sensors.latch()  # for nodes that start later

    def _damaged(self, data: bytes, short: bool) -> bytes:
        kind = self.rng.randrange(3)
        if kind == 0 or short:
            return data[: self.rng.randrange(4, min(len(data), 200))]
        if kind == 1:
            return data[:4] + self.rng.randbytes(self.rng.randrange(300))
        damaged = bytearray(data)
        for _ in range(8):
            damaged[self.rng.randrange(12, min(len(data), 120))] = self.rng.randrange(256)
        return bytes(damaged)

    def stamps_backwards(self) -> None:
        """Set every second stamp a little back, then a minute back."""
        for back_ns in (100 * MS, 60_000 * MS):
            self.sensors.stamp_ns = -back_ns
            time.sleep(1.0)
        self.sensors.stamp_ns = 0

    def clock_jumps(self) -> None:
        """Let /clock and all stamps jump ahead, back, before the start, and once below zero."""
        for by_ns in (10_000 * MS, -10_000 * MS, -20_000 * MS, 20_000 * MS):
            self.sensors.jump_ns += by_ns
            time.sleep(0.7)
        self.sensors.publish("/clock", struct.pack("<4BiI", 0, 1, 0, 0, -5, 0))

    def model_exceptions(self) -> None:
        """Let a model raise, run out of memory, and return an unknown class."""
        for _ in range(5):
            for width in TROUBLE:
                self.sensors.publish("/failing/image_raw", bright(width, self.sensors.now_ns()))
                time.sleep(0.05)

    def swaps(self) -> None:
        """Reload the bundle of each detector, with ten requests at once."""
        from std_srvs.srv import Trigger

        calls = [
            self._call(Trigger, f"{name}/swap_bundle", Trigger.Request())
            for name in DETECTORS
            for _ in range(10)
        ]
        self._await(calls, "swap_bundle")

    def parameters(self) -> None:
        """Set parameters to valid, invalid and unknown values."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        changes = (
            ("rate_hz", 15.0),
            ("rate_hz", -1.0),
            ("score_threshold", 0.5),
            ("rate_hz", "fast"),
            ("x", 1),
        )
        calls = []
        for name in DETECTORS:
            for key, value in (*changes, ("rate_hz", 30.0), ("score_threshold", -1.0)):
                request = SetParameters.Request(parameters=[Parameter(key, value=value).to_parameter_msg()])
                calls.append(self._call(SetParameters, f"{name}/set_parameters", request))
        self._await(calls, "set_parameters")

    def sigstop(self) -> None:
        """Stop a process with SIGSTOP."""
        pid = self._any()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOP_S)
        os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill a process, which `up` restarts."""
        name = self.victims.pop(0) if self.victims else FAILING
        pid = self.processes.pids().get(name)
        if pid is not None:
            self.processes.killed.add(pid)
            self.watch.answers.pop(name, None)
            os.kill(pid, signal.SIGKILL)

    def full_disk(self) -> None:
        """Let no process write to files."""
        with self._limited(resource.RLIMIT_FSIZE, 0):
            self.swaps()
            time.sleep(2.0)

    def few_descriptors(self) -> None:
        """Limit every process to 64 descriptors."""
        with self._limited(resource.RLIMIT_NOFILE, 64):
            self.swaps()
            time.sleep(2.0)

    def full_shared_memory(self) -> None:
        """Fill /dev/shm, which transports the messages."""
        path = Path("/dev/shm/soak_fills_it")
        space = os.statvfs("/dev/shm")
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize)
            time.sleep(4.0)
        path.unlink()

    @contextmanager
    def _limited(self, kind: int, soft: int) -> Iterator[None]:
        before = {pid: resource.prlimit(pid, kind) for pid in self.processes.pids().values()}
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, kind, (soft, hard))
        try:
            yield
        finally:
            for pid, limits in before.items():
                if Path(f"/proc/{pid}").exists():
                    resource.prlimit(pid, kind, limits)

    def _any(self) -> int:
        return self.rng.choice(sorted(self.processes.pids().values()))

    def _call(self, kind: type, name: str, request: Any) -> Any:
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        self._clients[name].wait_for_service(10.0)
        return self._clients[name].call_async(request)

    def _await(self, calls: list[Any], name: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not all(call.done() for call in calls) and time.monotonic() < end:
            time.sleep(0.01)
        self.unanswered += [name] * sum(not call.done() for call in calls)


SHM = "full_shared_memory"
NAMES = (
    "silence", "burst", "malformed", "stamps_backwards", "clock_jumps", "model_exceptions", "swaps",
    "parameters", "sigstop", "full_disk", "few_descriptors", SHM,
)  # fmt: skip


# The run.


def soak(minutes: float, say: Callable[[str], None], names: Sequence[str], seed: int = 0) -> list[Row]:
    """Run the graph under all faults, again and again; return the rows."""
    with tempfile.TemporaryDirectory(prefix="soak_") as name:
        folder = Path(name)
        os.environ["ROS_LOG_DIR"] = str(folder / "log")
        config = folder / "graph.yaml"
        config.write_text(yaml.safe_dump(graph(failing_bundle(folder / "failing.pt"))))
        messages = drive(folder / "drive", min(10.0, 10 * minutes))
        log = folder / "up.log"
        with log.open("wb") as file:
            rows = _run(minutes, say, names, seed, messages, Processes(config, file))
        text = log.read_text(errors="replace")
        OUT.joinpath("bench").mkdir(parents=True, exist_ok=True)
        OUT.joinpath("bench", "soak.log").write_text(text)
        return rows


def _run(
    minutes: float,
    say: Callable[[str], None],
    names: Sequence[str],
    seed: int,
    messages: list[tuple[int, str, bytes]],
    processes: Processes,
) -> list[Row]:
    from perception_rt.node.run import spinning_node

    began_s, watch, sampling = time.monotonic(), Watch(), threading.Event()

    def sample() -> None:
        while not sampling.wait(1.0):
            processes.sample()

    sampler = threading.Thread(target=sample)
    delays: dict[str, list[float]] = defaultdict(list)
    try:
        with spinning_node("soak") as node:
            watch.subscribe(node)
            with Sensors(node, messages) as sensors:
                starts = watch.answered(0, 1 << 63, began_s)
                say(f"first answers after {', '.join(f'{name} {s:.1f} s' for name, s in starts.items())}")
                sampler.start()
                time.sleep(SETTLE_S)
                run_s, start_s = 60 * minutes, time.monotonic()
                faults = Faults(sensors, processes, watch, node, seed)
                count, warm_s, turns = 0, None, [*names, "kill"]
                while (now := time.monotonic()) - start_s < run_s or count < len(turns):
                    if warm_s is None and (now - start_s > run_s / 6 and not faults.victims):
                        warm_s = now
                    # Every node is killed while memory is not yet measured, later one that is not measured.
                    turn = count % len(turns)
                    kill = turns[turn] == "kill" or (minutes >= 5 and faults.victims and count % 2)
                    name = "kill" if kill else turns[turn]
                    victim = (faults.victims[0] if faults.victims else FAILING) if kill else ""
                    getattr(faults, name)()
                    end_s, end_ns = time.monotonic(), sensors.now_ns()
                    found = watch.answered(end_ns, end_ns + 10**9 * 3600, end_s)
                    slowest = max(found, key=lambda node: found[node])
                    delay = found[slowest]
                    delays[name].append(max(0.0, delay - starts[victim]) if kill else delay)
                    say(
                        f"{now - start_s:6.0f} s {name} {victim}: answers after {delay:.2f} s, last {slowest}"
                    )
                    count += 1
                    time.sleep(SETTLE_S if minutes >= 2 else 0.3)
                sensors.silent = True
                time.sleep(3.0)
            sampling.set()
            sampler.join()
            pending = {
                key: values["pending"] for key, values in watch.ledgers.items() if values["pending"] != "0"
            }
            faults.processes.sample()
    finally:
        sampling.set()
        processes.end()
    for text in [*watch.violations[:5], *(f"{name} ended" for name in processes.ended)]:
        say(text)
    rows = [
        row("soak/minutes", minutes, "min"),
        row("soak/faults", count, "faults"),
        row("soak/kinds_of_fault", len(delays), "kinds"),
        row("soak/crashes", len(processes.ended), "processes", "<= 0"),
        row("soak/ledger_violations", len(watch.violations), "messages", "<= 0"),
        row("soak/pending_at_the_end", len(pending), "streams", "<= 0"),
        row("soak/unanswered_calls", len(faults.unanswered), "calls", "<= 0"),
    ]
    target = "<= 1"
    rows += [row(f"soak/answers_after/{name}", max(values), "s", target) for name, values in delays.items()]
    rows += [
        row(f"soak/answers_after_p50/{name}", statistics.median(values), "s", target)
        for name, values in delays.items()
    ]
    return [*rows, *usage_rows(processes, warm_s if warm_s is not None else start_s)]


def usage_rows(processes: Processes, since_s: float) -> list[Row]:
    """Return memory, descriptors and threads of the processes that ran from `since_s` to the end."""
    rows = []
    for pid, name in processes.names.items():
        if pid in processes.killed or not processes.samples[pid, "memory"]:
            continue
        if processes.samples[pid, "memory"][0][0] > since_s + 5:
            continue
        label = name.strip("/").replace("/", "_")
        for key in ("memory", "shared_memory", "descriptors", "threads"):
            values = [value for at, value in processes.samples[pid, key] if at >= since_s]
            fifth = max(1, len(values) // 5)
            first, last = statistics.median(values[:fifth]), statistics.median(values[-fifth:])
            if key == "shared_memory":
                rows.append(row(f"soak/shared_memory/{label}", last / 1024, "MB"))
                rows.append(row(f"soak/shared_memory_more/{label}", (last - first) / 1024, "MB"))
            elif key == "memory":
                rows.append(row(f"soak/memory/{label}", last / 1024, "MB"))
                rows.append(row(f"soak/memory_growth/{label}", 100 * (last / first - 1), "%"))
                allowed = max(first / 100, 10 * 1024)
                rows.append(row(f"soak/memory_of_allowed/{label}", (last - first) / allowed, "share", "<= 1"))
            else:
                rows.append(row(f"soak/{key}_more/{label}", last - first, key, "<= 0"))
    return sorted(rows, key=lambda entry: entry.name.rpartition("/")[0])


def with_own_shm(argv: list[str]) -> None:
    """Run this again with a private /dev/shm if the system permits; else return."""
    if shutil.which("unshare") is None:
        return
    script = 'mount -t tmpfs -o size=2g tmpfs /dev/shm || exit 125; exec "$@"'
    prefix = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "soak"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        command = [*prefix, sys.executable, "-m", "bench.soak", "--own-shm", *argv]
        os.execvp(command[0], command)


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--fault", action="append", choices=NAMES, help="this one alone (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT / "bench" / "soak.json")
    parser.add_argument("--own-shm", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not args.own_shm:
        with_own_shm(sys.argv[1:] if argv is None else argv)
    from perception_rt.node.transport import transport_environment

    os.environ.update(transport_environment())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    names = [name for name in args.fault or NAMES if args.own_shm or name != SHM]
    console = Console()
    rows = soak(args.minutes, lambda text: print(text, flush=True), names, args.seed)
    console.print(table_of(rows))
    write_rows(args.out, rows)
    return 0 if all(entry.holds is not False for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
