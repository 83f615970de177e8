"""The parts by themselves: codec, scheduler, simulator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np

from bench.inputs import SIZES, picture
from bench.rows import Row, row
from perception_rt.codec.detections import DetectionEncoder
from perception_rt.codec.encode import encode_image
from perception_rt.codec.image import parse_image
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.realtime.worker import Worker
from perception_rt.sim.drive import Drive
from perception_rt.types import Detections2D

TIMER_HZ, ARRIVALS_HZ = 20.0, 200.0
SIM_SEEDS = (1, 2, 3)


def camera_rows(quick: bool) -> list[Row]:
    """The parts of the camera's way."""
    repeats = 50 if quick else 500
    rows = []
    for name, size in SIZES.items():
        message = encode_image(picture(size), "rgb8", 0, "camera")
        took = median_ms(lambda message=message: parse_image(message).decode(), repeats)
        rows.append(row(f"camera/{name}/parse_decode_ms", took, "ms"))
    return [
        *rows,
        row("camera/encode_300_detections_ms", encode_ms(300, repeats), "ms", "<= 0.05"),
        row("camera/timer_interval_error_p99_ms", timer_error_ms(3.0 if quick else 15.0), "ms", "<= 1"),
        row("camera/sim_frames_per_s", sim_rate(10 if quick else 60), "frames/s", ">= 30 at 960x540"),
    ]


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Return the time, ns."""
        return time.monotonic_ns()


def median_ms(job: Callable[[], object], repeats: int) -> float:
    """Median time of a call, ms."""
    times = [time.perf_counter_ns()]
    for _ in range(repeats):
        job()
        times.append(time.perf_counter_ns())
    return float(np.median(np.diff(times))) / 1e6


def encode_ms(count: int, repeats: int) -> float:
    """Serializing an array of `count` detections of 80 classes."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 600, (count, 2))
    found = Detections2D(
        np.hstack([corner, corner + 50]).astype(np.float32),
        rng.uniform(0, 1, count).astype(np.float32),
        rng.integers(0, 80, count),
    )
    encoder = DetectionEncoder([f"class {label}" for label in range(80)])
    return median_ms(lambda: encoder.encode(found, 1, "camera"), repeats)


def timer_error_ms(seconds: float) -> float:
    """Return the p99 of the difference between run intervals and the period, if frames arrive more often."""
    runs: list[int] = []
    worker = Worker(
        lambda batch: runs.append(time.perf_counter_ns()),
        FairScheduler(TIMER_HZ),
        Mailbox(["camera"]),
        MonotonicClock(),
    )
    pause = threading.Event()
    for _ in range(round((seconds + 1) * ARRIVALS_HZ)):
        worker.put("camera", 0)
        pause.wait(1 / ARRIVALS_HZ)
    worker.stop(1.0)
    settled = runs[int(TIMER_HZ) :]  # until then the phase moves
    return float(np.percentile(np.abs(np.diff(settled) / 1e6 - 1000 / TIMER_HZ), 99))


def sim_rate(frames: int) -> float:
    """Return the simulated frames, with truth, per second of processor time."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        took = 0.0
        for seed in SIM_SEEDS:
            drive = Drive(seed)
            drive.sample(0.0)
            began = time.thread_time()
            for index in range(frames):
                drive.sample(60 * index / frames)
            took += time.thread_time() - began
    finally:
        cv2.setNumThreads(threads)
    return frames * len(SIM_SEEDS) / took
