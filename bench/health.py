"""Sensor health: detection time of injected faults, false alarms, cost; writes out/bench/health.json.

The limits were chosen on kitti_city and drives 1, 5 and 9 of the simulator; the simulator's figures
are of other drives, and false alarms are counted on every recording. Time is that of the recording.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from bench.command import command, no_arguments
from bench.health_faults import (
    CAMERA,
    FAULTS,
    FROM_START,
    LIDAR,
    RATE_HZ,
    START_NS,
    SensorDrive,
    events,
    found_s,
    monitor_of,
    play,
    recorded,
    simulated,
)
from bench.inputs import CITY, DATA, picture
from bench.rows import Row, row, table_of, write_rows
from perception_rt.codec import encode_compressed, encode_image, encode_points
from perception_rt.replay.bag import Bag
from perception_rt.stage.health.checks import Finding
from perception_rt.stage.health.monitor import COMPRESSED, IMAGE, POINTS, HealthMonitor
from perception_rt.types import TransformError

OUT = Path("out/bench/health.json")
SEEDS = (21, 22)
FAULT_S = 4.0  # into the drive
QUIET_S = 20.0
COST_FRAMES = 60


def measure_all(console: Console) -> None:
    """Measure, print, write."""
    drives = {f"sim{seed}": simulated(seed, 8.0) for seed in SEEDS}
    if CITY.is_dir():
        drives["kitti_city"] = recorded()
    rows = [*fault_rows(drives), *alarm_rows(drives), *cost_rows()]
    write_rows(OUT, rows)
    console.print(table_of(rows))


def fault_rows(drives: dict[str, SensorDrive]) -> list[Row]:
    """Return the longest detection time of each fault over all drives; None if one was missed."""
    rows, missed, tried = [], 0, 0
    for name, fault in track(FAULTS.items(), "faults"):
        times = []
        for drive in drives.values():
            for at_s in (FAULT_S, 0.0):
                if at_s or any(part in name for part in FROM_START):
                    monitor = play(drive, fault, at_s, at_s + fault.allowed_s + 1.0)
                    times.append(found_s(monitor, fault, at_s))
        found = [one for one in times if one is not None]
        missed, tried = missed + len(times) - len(found), tried + len(times)
        worst = max(found) if len(found) == len(times) else None
        rows.append(row(f"health/{name}/found_s", worst, "s", f"<= {fault.allowed_s:g}"))
        if worst is None:
            rows.append(row(f"health/{name}/missed", len(times) - len(found), f"of {len(times)}"))
    return [*rows, row("health/missed", missed, f"of {tried}", "0")]


def alarm_rows(drives: dict[str, SensorDrive]) -> list[Row]:
    """Findings in recordings without a fault."""
    rows = []
    for name, findings in track(alarms(drives), "recordings"):
        for one in findings:
            print(f"{name}: {one.sensor}: {one.check}={one.value:.3g}, limit {one.limit:g}")
        rows.append(row(f"health/false_alarms/{name}", len(findings), "findings", "0"))
    return rows


def alarms(drives: dict[str, SensorDrive]) -> Iterator[tuple[str, list[Finding]]]:
    """Return the findings in every recording without a fault."""
    for name, drive in drives.items():
        yield f"{name}_{QUIET_S:g}s", play(drive, None, 0.0, QUIET_S).findings
    if not DATA.is_dir():
        return
    for bag in ("kitti_city", "nuscenes_keyframe"):
        yield bag, bag_findings(DATA / "bags" / bag)
    for path in sorted((DATA / "video").glob("*.mp4")):
        yield path.stem, camera_findings(video(path), video_hz(path))
    stills = [*(DATA / "images").glob("*.jpg"), *(DATA / "video").glob("*.jpg")]
    for path in sorted([*stills, *(DATA / "frames").glob("*/image.png")]):
        name = path.parent.name if path.name == "image.png" else path.stem
        yield f"still_{name}", camera_findings(standing(cv2.imread(str(path))), RATE_HZ)
    yield "tracking_kitti_0000", lidar_findings(clouds_0000())


def bag_findings(folder: Path) -> list[Finding]:
    """Of all cameras and lidars of a bag."""
    with Bag(folder) as bag:
        kinds = {
            topic: kind for topic, (kind, _) in bag.topics.items() if kind in (IMAGE, COMPRESSED, POINTS)
        }
        monitor = HealthMonitor(kinds, _no_transforms)
        for message in bag.messages(list(kinds)):
            monitor.poll(message.log_ns)
            monitor.take(message.topic, message.data, message.log_ns)
    return monitor.findings


def _no_transforms(target: str, source: str, stamp_ns: int) -> np.ndarray:
    raise TransformError(f"no transform from {source} to {target}")


def camera_findings(pictures: Iterator[np.ndarray], rate_hz: float) -> list[Finding]:
    """Of one camera."""
    monitor = HealthMonitor({CAMERA: IMAGE}, _no_transforms)
    for number, pixels in enumerate(pictures):
        stamp_ns = START_NS + round(number / rate_hz * 1e9)
        monitor.poll(stamp_ns)
        monitor.take(CAMERA, encode_image(pixels, "bgr8", stamp_ns, "camera"), stamp_ns)
    return monitor.findings


def lidar_findings(clouds: Iterator[np.ndarray]) -> list[Finding]:
    """Of one lidar."""
    monitor = HealthMonitor({LIDAR: POINTS}, _no_transforms)
    for number, points in enumerate(clouds):
        stamp_ns = START_NS + round(number / RATE_HZ * 1e9)
        monitor.poll(stamp_ns)
        monitor.take(LIDAR, encode_points(points, stamp_ns, "lidar"), stamp_ns)
    return monitor.findings


def video(path: Path) -> Iterator[np.ndarray]:
    """Its pictures, BGR."""
    film = cv2.VideoCapture(str(path))
    while (read := film.read())[0]:
        yield read[1]


def video_hz(path: Path) -> float:
    """Its rate, Hz."""
    return float(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS))


def standing(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Three seconds of a camera that stands still: the same picture with a sensor's noise."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        yield cv2.add(pixels, rng.integers(0, 3, pixels.shape, np.uint8))


def clouds_0000() -> Iterator[np.ndarray]:
    """77 clouds of sequence 0000 of KITTI tracking."""
    file = np.load(DATA / "tracking_kitti" / "velodyne_0000_first77.npz")
    columns = [file[f"{axis}_mm"] / 1e3 for axis in "xyz"] + [file["intensity_pct"] / 1e2]
    points, ends = np.stack(columns, 1).astype(np.float32), np.cumsum(file["counts"])
    yield from np.split(points, ends[:-1])


def cost_rows() -> list[Row]:
    """Time of one core for a message, on average over a stream at 10 Hz."""
    rows = []
    for size, name in (((1280, 720), "720p"), ((1920, 1080), "1080p")):
        pixels = picture(size)
        jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1])[1].ravel()
        for kind, encode in (
            (IMAGE, lambda ns, pixels=pixels: encode_image(pixels, "rgb8", ns, "camera")),
            (COMPRESSED, lambda ns, jpeg=jpeg: encode_compressed(jpeg, "jpeg", ns, "camera")),
        ):
            suffix = "jpeg" if kind == COMPRESSED else "raw"
            rows.append(cost_row(f"camera_{name}_{suffix}", kind, encode))
    points = np.concatenate([simulated(21, 0.1).clouds[0]] * 2)[:120_000]
    rows.append(cost_row("lidar_120k", POINTS, lambda ns: encode_points(points, ns, "lidar")))
    return [*rows, pair_row()]


def cost_row(name: str, kind: str, encode: Callable[[int], bytes]) -> Row:
    """One sensor alone."""
    monitor, spent = HealthMonitor({"/sensor": kind}, _no_transforms), 0.0
    for number in range(COST_FRAMES):
        stamp_ns = START_NS + round(number / RATE_HZ * 1e9)
        data = encode(stamp_ns)
        began = time.thread_time()
        monitor.take("/sensor", data, stamp_ns)
        monitor.poll(stamp_ns)
        spent += time.thread_time() - began
    return row(f"health/cost/{name}", spent / COST_FRAMES * 1e3, "ms a frame", "<= 2")


def pair_row() -> Row:
    """A camera and a lidar with their calibration, for each message."""
    drive = simulated(21, 3.0)
    monitor, spent, count = monitor_of(drive), 0.0, 0
    for arrival_ns, topic, data in events(drive, None, 0.0, 6.0):
        began = time.thread_time()
        if data is not None:
            monitor.take(topic, data, arrival_ns)
        spent += time.thread_time() - began
        count += 1
    return row("health/cost/camera_lidar_pair", spent / count * 1e3, "ms a frame", "<= 2")


if __name__ == "__main__":
    no_arguments(__doc__)
    raise SystemExit(command(lambda: measure_all(Console())))
