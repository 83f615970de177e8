"""A sensor to detections through real topics: throughput against the bundle alone, age, loss over minutes.

The publisher is a process of its own. The node and the bundle alone are measured in alternating blocks of one
process, on one thread, with one frame, allocator and transport, while the publisher goes on: runs that are
not paired like this scatter by more than what is measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.pipeline import FASTEST_HZ, SETTLE_S, TOPIC, Answer, MeasuredDetector, active
from bench.publisher import Sensor
from bench.rows import Row, row

OVERLOAD = 1.3  # published messages per message that the model can process
ROOM = 0.85  # maximum share of a period for a forward pass at a sensor's rate
SLOW_MS = 20.0  # of the bundle alone, from which on the throughput is compared as a ratio
WARM_S = 20.0  # until the memory of a process has settled
IN_FLIGHT_S = 0.5

Step = Callable[[float, str], None]


@dataclass(frozen=True)
class Length:
    """How long to measure: pairs and seconds of a block, seconds at the camera's rate, of the long run."""

    pairs: int = 10
    block_s: float = 3.0
    paced_s: float = 20.0
    soak_s: float = 600.0

    def total_s(self, sizes: int) -> float:
        """Return the approximate duration for a number of feeds, without a long run, s."""
        return sizes * (self.pairs * 2 * (self.block_s + SETTLE_S) + 3 * self.paced_s)


@dataclass(frozen=True)
class Throughput:
    """Frames per second of each block, and the time of every forward pass alone, ms."""

    end_to_end: list[float]
    alone: list[float]
    alone_ms: np.ndarray

    @property
    def ratios(self) -> list[float]:
        """By pair."""
        return [both / alone for both, alone in zip(self.end_to_end, self.alone, strict=True)]


@dataclass(frozen=True)
class Feed:
    """The message that a sensor sends repeatedly.

    Attributes:
        name: of the rows, as ``camera/720p``.
        kind: of the message, in sensor_msgs.
        file: the serialized message.
        data: the same frame as the runtime takes it.
        rate_hz: of the sensor.
        age_target: of the row that tells the age without the forward.
    """

    name: str
    kind: str
    file: Path
    data: np.ndarray
    rate_hz: float
    age_target: str = ""

    def sensor(self, environment: dict[str, str]) -> Sensor:
        """Return the process that publishes it."""
        return Sensor(TOPIC, self.kind, self.file, "best_effort", environment)


def measure(
    node: MeasuredDetector, feed: Feed, environment: dict[str, str], length: Length, step: Step
) -> tuple[list[Row], float, float]:
    """Measure all rows of one feed.

    Returns:
        The rows, the rate at which ages were measured, and one that is more than the model can take, Hz.
    """
    with feed.sensor(environment) as sensor:
        sensor.wait_until_heard()
        overload_hz = OVERLOAD * 1e9 / float(np.median(node.forward_ns(feed.data, SETTLE_S)))
        sensor.rate(overload_hz)
        throughput = pairs(node, feed.data, length, lambda s: step(s, f"{feed.name} throughput"))
        forward_ms = float(np.median(throughput.alone_ms))
        end_to_end = float(np.median(throughput.end_to_end))
        roomy = forward_ms <= ROOM * 1000 / feed.rate_hz
        rate_hz = feed.rate_hz if roomy else max(1.0, float(int(0.9 * end_to_end)))
        sensor.rate(rate_hz)
        paced = paced_rows(feed, node, rate_hz, length.paced_s)
        step(length.paced_s, f"{feed.name} age")
    book = node.book()
    unaccounted = book["received"] - sum(book["states"].values())
    rows = [
        *throughput_rows(feed.name, throughput),
        row(f"{feed.name}/forward_alone_p50_ms", forward_ms, "ms"),
        *paced,
        row(f"{feed.name}/unaccounted", unaccounted, "frames", "0"),
    ]
    return rows, rate_hz, overload_hz


def pairs(
    node: MeasuredDetector, data: np.ndarray, length: Length, step: Callable[[float], None]
) -> Throughput:
    """Alternate the node and the bundle alone, in alternating order."""
    end_to_end, alone, alone_ms = [], [], []

    def whole() -> None:
        with active(node, FASTEST_HZ):
            end_to_end.append(rate_of(node.answered(length.block_s)))

    def forward() -> None:
        node.forward_ns(data, SETTLE_S)
        took = node.forward_ns(data, length.block_s)
        alone.append(len(took) / (took.sum() / 1e9))
        alone_ms.append(took / 1e6)

    for pair in range(length.pairs):
        for block in (whole, forward) if pair % 2 else (forward, whole):
            block()
        step(2 * (length.block_s + SETTLE_S))
    return Throughput(end_to_end, alone, np.concatenate(alone_ms))


def rate_of(answers: list[Answer]) -> float:
    """Answers a second, by the times of the first and the last; NaN of fewer than two."""
    if len(answers) < 2:
        return float("nan")
    return (len(answers) - 1) / ((answers[-1].published_ns - answers[0].published_ns) / 1e9)


def throughput_rows(prefix: str, throughput: Throughput) -> list[Row]:
    """Frames a second, and by pair their ratio and the difference of their periods.

    The ratio counts where the bundle takes long; where it does not, what the node adds to each frame counts.
    """
    ratios = throughput.ratios
    beyond_ms = float(np.median(1e3 / np.array(throughput.end_to_end) - 1e3 / np.array(throughput.alone)))
    slow = 1e3 / float(np.median(throughput.alone)) >= SLOW_MS
    wanted, allowed = (">= 0.95", "") if slow else ("", "<= 1 ms")
    return [
        row(f"{prefix}/forward_fps", float(np.median(throughput.alone)), "frames/s"),
        row(f"{prefix}/end_to_end_fps", float(np.median(throughput.end_to_end)), "frames/s"),
        row(f"{prefix}/throughput_ratio", float(np.median(ratios)), "ratio", wanted),
        row(f"{prefix}/throughput_ratio_min", min(ratios), "ratio"),
        row(f"{prefix}/throughput_ratio_max", max(ratios), "ratio"),
        row(f"{prefix}/throughput_beyond_ms", beyond_ms, "ms", allowed),
        row(f"{prefix}/throughput_pairs", len(ratios), "pairs"),
    ]


def paced_rows(feed: Feed, node: MeasuredDetector, rate_hz: float, seconds: float) -> list[Row]:
    """Ages, intervals and processor time at the rate of a sensor."""
    with active(node, rate_hz):
        time.sleep(2 * SETTLE_S)  # for the scheduler to find its phase
        misses, cpu_s = node.deadline_misses(), time.process_time()
        answers = node.answered(seconds)
        cpu_s = time.process_time() - cpu_s
        misses = node.deadline_misses() - misses
    stamps, infer, published = (np.array(column) for column in zip(*answers, strict=True))
    age, forward = (published - stamps) / 1e6, infer / 1e6
    late = np.abs(np.diff(published) / 1e6 - 1000 / rate_hz)
    prefix = feed.name
    return [
        row(f"{prefix}/rate_hz", rate_hz, "Hz"),
        row(f"{prefix}/rate_held_hz", rate_of(answers), "Hz"),
        row(f"{prefix}/age_p50_ms", percentile(age, 50), "ms"),
        row(f"{prefix}/age_p99_ms", percentile(age, 99), "ms"),
        row(f"{prefix}/forward_p50_ms", percentile(forward, 50), "ms"),
        row(f"{prefix}/age_minus_forward_p50_ms", percentile(age - forward, 50), "ms", feed.age_target),
        row(f"{prefix}/interval_error_p99_ms", percentile(late, 99), "ms"),
        row(f"{prefix}/deadline_misses", misses, "ticks"),
        row(f"{prefix}/cpu_ms_per_frame", 1000 * cpu_s / len(answers), "ms"),
    ]


def percentile(values: np.ndarray, q: float) -> float:
    """By nearest rank, as the node's own diagnostics."""
    return float(np.percentile(values, q, method="inverted_cdf"))


def soak(
    node: MeasuredDetector,
    feed: Feed,
    rate_hz: float,
    environment: dict[str, str],
    seconds: float,
    step: Step,
) -> list[Row]:
    """Run for minutes at the sensor's rate; compare sent messages with the ledger, and measure memory."""
    before, lost = node.book(), node.lost()
    grown_from = None
    with feed.sensor(environment) as sensor, active(node, rate_hz):
        sensor.wait_until_heard()
        sensor.rate(rate_hz)
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            time.sleep(min(1.0, seconds - elapsed))
            step(min(1.0, seconds - elapsed), f"{feed.name} long run")
            if grown_from is None and elapsed >= min(WARM_S, seconds / 3):
                grown_from = resident_mb()
        sensor.rate(0)
        time.sleep(IN_FLIGHT_S)
        sent = sensor.sent()
        grown = resident_mb() - grown_from
    after = node.book()
    received = after["received"] - before["received"]
    states = {name: count - before["states"][name] for name, count in after["states"].items()}
    lost = node.lost() - lost
    prefix = f"{feed.name}/soak"
    return [
        row(f"{prefix}_seconds", round(seconds), "s"),
        row(f"{prefix}_sent", sent, "frames"),
        row(f"{prefix}_received", received, "frames"),
        *(row(f"{prefix}_{name}", count, "frames") for name, count in states.items()),
        row(f"{prefix}_transport_lost", lost, "frames"),
        row(f"{prefix}_unaccounted", received - sum(states.values()), "frames", "0"),
        row(f"{prefix}_sent_unaccounted", sent - received - lost, "frames", "0"),
        row(f"{prefix}_memory_growth_mb", grown, "MB"),
    ]


def resident_mb() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
