"""Camera to detections through real topics: throughput against the bundle alone, age, loss over minutes.

The publisher is a process of its own. The node and the bundle alone are measured in alternating blocks of one
process, on one thread, with one image, allocator and transport, while the publisher goes on: runs that are
not paired like this scatter by more than what is measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.inputs import SIZES, picture
from bench.pipeline import FASTEST_HZ, SETTLE_S, TOPIC, Answer, MeasuredDetector, active
from bench.publisher import Camera
from bench.rows import Row, row
from perception_rt.codec.encode import encode_image

OVERLOAD = 1.3  # images published for one that the model could take
CAMERA_HZ = 30.0
SLOWEST_MS = 28.0  # a forward above this leaves no room at CAMERA_HZ
WARM_S = 20.0  # until the memory of a process has found its size
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
        """How long it all takes, about, s."""
        return sizes * (self.pairs * 2 * (self.block_s + SETTLE_S) + 3 * self.paced_s) + self.soak_s


@dataclass(frozen=True)
class Throughput:
    """Frames a second of each block, and ms of every forward alone."""

    end_to_end: list[float]
    alone: list[float]
    alone_ms: np.ndarray

    @property
    def ratios(self) -> list[float]:
        """By pair."""
        return [both / alone for both, alone in zip(self.end_to_end, self.alone, strict=True)]


def write_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Write the serialized picture for the publisher; returns its pixels."""
    image = picture(size)
    path.write_bytes(encode_image(image, "rgb8", 0, "camera"))
    return image


def measure(
    node: MeasuredDetector, name: str, environment: dict[str, str], folder: Path, length: Length, step: Step
) -> tuple[list[Row], float, float]:
    """All rows of one image size.

    Returns:
        The rows, the rate at which ages were measured, and one that is more than the model can take, Hz.
    """
    file = folder / f"{name}.cdr"
    image = write_image(file, SIZES[name])
    with Camera(TOPIC, file, "best_effort", environment) as camera:
        camera.wait_until_heard()
        overload_hz = OVERLOAD * 1e9 / float(np.median(node.forward_ns(image, SETTLE_S)))
        camera.rate(overload_hz)
        throughput = pairs(node, image, length, lambda s: step(s, f"{name} throughput"))
        forward_ms = float(np.median(throughput.alone_ms))
        end_to_end = float(np.median(throughput.end_to_end))
        rate_hz = CAMERA_HZ if forward_ms <= SLOWEST_MS else float(int(0.9 * end_to_end))
        camera.rate(rate_hz)
        paced = paced_rows(f"camera/{name}", node, rate_hz, length.paced_s)
        step(length.paced_s, f"{name} age")
    book = node.book()
    unaccounted = book["received"] - sum(book["states"].values())
    rows = [
        *throughput_rows(f"camera/{name}", throughput),
        row(f"camera/{name}/forward_alone_p50_ms", forward_ms, "ms"),
        *paced,
        row(f"camera/{name}/unaccounted", unaccounted, "frames", "0"),
    ]
    return rows, rate_hz, overload_hz


def pairs(
    node: MeasuredDetector, image: np.ndarray, length: Length, step: Callable[[float], None]
) -> Throughput:
    """Alternate the node and the bundle alone; which comes first alternates too."""
    end_to_end, alone, alone_ms = [], [], []

    def whole() -> None:
        with active(node, FASTEST_HZ):
            end_to_end.append(rate_of(node.answered(length.block_s)))

    def forward() -> None:
        node.forward_ns(image, SETTLE_S)
        took = node.forward_ns(image, length.block_s)
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
    """Frames a second, and their ratio by pair."""
    ratios = throughput.ratios
    return [
        row(f"{prefix}/forward_fps", float(np.median(throughput.alone)), "frames/s"),
        row(f"{prefix}/end_to_end_fps", float(np.median(throughput.end_to_end)), "frames/s"),
        row(f"{prefix}/throughput_ratio", float(np.median(ratios)), "ratio", ">= 0.90"),
        row(f"{prefix}/throughput_ratio_min", min(ratios), "ratio"),
        row(f"{prefix}/throughput_ratio_max", max(ratios), "ratio"),
        row(f"{prefix}/throughput_pairs", len(ratios), "pairs"),
    ]


def paced_rows(prefix: str, node: MeasuredDetector, rate_hz: float, seconds: float) -> list[Row]:
    """Ages, intervals and processor time at the rate of a camera."""
    with active(node, rate_hz):
        time.sleep(2 * SETTLE_S)  # for the scheduler to find its phase
        misses, cpu_s = node.deadline_misses(), time.process_time()
        answers = node.answered(seconds)
        cpu_s = time.process_time() - cpu_s
        misses = node.deadline_misses() - misses
    stamps, infer, published = (np.array(column) for column in zip(*answers, strict=True))
    age, forward = (published - stamps) / 1e6, infer / 1e6
    late = np.abs(np.diff(published) / 1e6 - 1000 / rate_hz)
    target = "<= 6 ms at 720p" if prefix.endswith("/720p") else ""
    return [
        row(f"{prefix}/rate_hz", rate_hz, "Hz"),
        row(f"{prefix}/rate_held_hz", rate_of(answers), "Hz"),
        row(f"{prefix}/age_p50_ms", percentile(age, 50), "ms"),
        row(f"{prefix}/age_p99_ms", percentile(age, 99), "ms"),
        row(f"{prefix}/forward_p50_ms", percentile(forward, 50), "ms"),
        row(f"{prefix}/age_minus_forward_p50_ms", percentile(age - forward, 50), "ms", target),
        row(f"{prefix}/interval_error_p99_ms", percentile(late, 99), "ms"),
        row(f"{prefix}/deadline_misses", misses, "ticks"),
        row(f"{prefix}/cpu_ms_per_frame", 1000 * cpu_s / len(answers), "ms"),
    ]


def percentile(values: np.ndarray, q: float) -> float:
    """By nearest rank, as the node's own diagnostics."""
    return float(np.percentile(values, q, method="inverted_cdf"))


def soak(
    node: MeasuredDetector,
    rate_hz: float,
    environment: dict[str, str],
    folder: Path,
    seconds: float,
    step: Step,
) -> list[Row]:
    """Minutes at the camera's rate: what was sent against what the ledger knows, and memory."""
    file = folder / "soak.cdr"
    write_image(file, SIZES["720p"])
    before, lost = node.book(), node.lost()
    grown_from = None
    with Camera(TOPIC, file, "best_effort", environment) as camera, active(node, rate_hz):
        camera.wait_until_heard()
        camera.rate(rate_hz)
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            time.sleep(min(1.0, seconds - elapsed))
            step(min(1.0, seconds - elapsed), "720p long run")
            if grown_from is None and elapsed >= min(WARM_S, seconds / 3):
                grown_from = resident_mb()
        camera.rate(0)
        time.sleep(IN_FLIGHT_S)
        sent = camera.sent()
        grown = resident_mb() - grown_from
    after = node.book()
    received = after["received"] - before["received"]
    states = {name: count - before["states"][name] for name, count in after["states"].items()}
    lost = node.lost() - lost
    prefix = "camera/720p/soak"
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
