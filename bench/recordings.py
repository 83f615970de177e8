"""Run every available recording from end to end; writes out/accuracy/recordings.json.

Real bags run with the parameter file of `perception-rt init`; the cases, which are hard to read on purpose,
with the files below. A row has the share of answered messages of a stream, or the exit code. Each recording
is replayed (`recordings/`) and, if `bag_player` can play it, run in a live graph too (`recordings/live/`).
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import yaml
from rich.console import Console
from scipy.spatial.transform import Rotation

from bench.accuracy import OUT
from bench.command import command, use_private_graph
from bench.inputs import DATA
from bench.rows import Row, row, table_of, write_rows
from perception_rt.cli.main import main as perception_rt
from perception_rt.codec.camera_info import parse_camera_info
from perception_rt.model.runtime import Runtime
from perception_rt.node.collector import Collector
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.batch import find_bags
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.levelling import levelled
from perception_rt.types import LidarFrame

UP_S, SETTLE_S = 180.0, 0.5
CAMERA_INFO = {"width": "960", "fx": "500", "cx": "480"}  # of camera_info_binning2, as binned
COMPRESSED = ("bayer_rggb8_jpeg", "jpeg_no_eoi", "jpeg_truncated_eoi", "webp")
CASES = DATA.parent / "cases"
ODOMETRY = "vehicle_state: {ros__parameters: {odometry_topic: /odom, imu_topic: ''}}"
FIXES = (
    "vehicle_state: {ros__parameters: {odometry_topic: '', imu_topic: '', fix_topic: /fix, frame_id: map}}"
)
IMU = "vehicle_state: {ros__parameters: {odometry_topic: /odom, imu_topic: /imu}}"


MOUNTINGS = {  # base from lidar
    "pitch_10": Rotation.from_euler("y", 10, degrees=True).as_matrix(),
    "pitch_20": Rotation.from_euler("y", 20, degrees=True).as_matrix(),
    "optical_axes": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "upside_down": Rotation.from_euler("x", 180, degrees=True).as_matrix(),
}


class RecordingCase(NamedTuple):
    """A recording, the text or file of its parameters ("" for those of `init`), and the right exit code."""

    name: str
    bag: Path
    config: str | Path
    code: int = 0
    least: float = 0.95
    """Required share of answered messages of each stream; 0: none may be answered."""
    speed: float = 0.0
    """Rate of `bag_player`, slow for detectors so that any machine keeps up; 0: replay only."""


def recording_cases() -> Iterator[RecordingCase]:
    """Yield every recording that is here."""
    for bag in find_bags([DATA / "bags"]) if DATA.is_dir() else ():
        yield RecordingCase(bag.name.partition(".")[0], bag, "", speed=5.0 if bag.suffix == ".bag" else 0.2)
    if not CASES.is_dir():
        return
    folder, tracking = CASES / "recordings", CASES / "tracking"
    yield RecordingCase("fixes_only_slow", folder / "fixes_only_slow.mcap.zstd", FIXES, speed=2.0)
    for name in (
        "stamps_of_another_clock",
        "stamps_5s_ahead",
        "log_time_zero_first",
        "odometry_quaternion_zero",
    ):
        yield RecordingCase(name, folder / f"{name}.mcap.zstd", ODOMETRY, speed=2.0)
    for name in ("imu_gyro_minus1", "imu_gyro_minus1_reference_no_imu"):
        yield RecordingCase(
            name, folder / f"{name}.mcap.zstd", IMU if name.endswith("1") else ODOMETRY, speed=2.0
        )
    yield RecordingCase("git_lfs_pointer", folder / "git_lfs_pointer.mcap", ODOMETRY, 2)
    for path in sorted((folder / "mcap").glob("*.mcap")):
        yield RecordingCase(path.stem, path, tracking / "trk.yaml", speed=1.0)
    yield RecordingCase("folder_drives", folder / "folders" / "drives", tracking / "trk.yaml")
    yield RecordingCase("folder_renamed", folder / "folders" / "renamed", tracking / "trk_odom.yaml")


def recording_rows(console: Console) -> Iterator[Row]:
    """Replay every recording, and play it; yield its rows."""
    for case in recording_cases():
        console.print(case.name)
        with TemporaryDirectory() as folder:
            config = _config(case, Path(folder))
            yield from _replayed(case, config, Path(folder, "out"))
            if case.speed:
                yield from _played(case, config, Path(folder, "live.yaml"))
    console.print("cameras")
    with TemporaryDirectory() as folder:
        yield from camera_rows(Path(folder))
    yield from mounting_rows()


def _config(case: RecordingCase, folder: Path) -> Path:
    """The parameter file of a case."""
    config = folder / "config.yaml"
    if isinstance(case.config, Path):
        return case.config
    if case.config:
        config.write_text(case.config)
    else:
        _quietly(["init", str(case.bag), "--out", str(config)])
    return config


def _quietly(arguments: list[str]) -> int:
    """A command of the package without its output; returns the exit code."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        return perception_rt(arguments)


def _played(case: RecordingCase, config: Path, live: Path) -> Iterator[Row]:
    """The rows of a recording that `bag_player` plays into a live graph."""
    graph = yaml.safe_load(config.read_text())
    for node in graph.values():
        node["ros__parameters"]["use_sim_time"] = True
    player = {"use_sim_time": False, "bag": str(case.bag), "speed": case.speed}
    graph["bag_player"] = {"ros__parameters": player}
    live.write_text(yaml.safe_dump(graph, sort_keys=False))  # the player starts last
    up = [sys.executable, "-m", "perception_rt.cli.main", "up", str(live), "--restarts", "0"]
    with Collector({}) as collector:
        done = subprocess.run(up, capture_output=True, check=False, timeout=UP_S)
        time.sleep(SETTLE_S)
    name = f"recordings/live/{case.name}"
    yield row(f"{name}/exit_code", done.returncode, "", str(case.code))
    for status, values in sorted(collector.statuses.items()):
        if ": " not in status or "published" not in values:
            continue
        where = f"{name}/{status.replace(': ', ':').replace('/', '.')}"
        yield from _share(where, int(values["received"]), int(values["published"]), case.least)


def _share(where: str, received: int, published: int, least: float) -> Iterator[Row]:
    yield row(f"{where}/received", received, "messages")
    target = f">= {least}" if least else "<= 0"
    if received or least:  # refused messages have no results
        yield row(f"{where}/published_share", published / received if received else None, "", target)


def camera_rows(folder: Path) -> Iterator[Row]:
    """Each picture of the cases as a recording of ten, through the camera's detector."""
    for path in sorted((CASES / "cameras").glob("*.cdr")):
        info, compressed = path.stem.startswith("camera_info"), path.stem in COMPRESSED
        if info:
            model = parse_camera_info(path.read_bytes())
            name = f"recordings/cameras/{path.stem}"
            for what, value in (("width", model.width), ("fx", model.k[0, 0]), ("cx", model.k[0, 2])):
                yield row(f"{name}/{what}", float(value), "px", CAMERA_INFO[what])
            continue
        data, bag = bytearray(path.read_bytes()), folder / path.stem
        kind = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
        topic = "/camera/image_raw/compressed" if compressed else "/camera/image_raw"
        with BagWriter(bag) as writer:
            for number in range(10):
                stamp_ns = 10**18 + number * 10**8
                struct.pack_into("<iI", data, 4, stamp_ns // 10**9, stamp_ns % 10**9)
                writer.write(topic, kind, stamp_ns, bytes(data))
        refused = "truncated" in path.stem  # `init` leaves out a camera of which no picture can be decoded
        text = f"camera_detector: {{ros__parameters: {{image_topics: [{topic}]}}}}" if refused else ""
        case = RecordingCase(f"cameras/{path.stem}", bag, text, least=0.0 if refused else 1.0)
        (folder / "run" / path.stem).mkdir(parents=True)
        config = _config(case, folder / "run" / path.stem)
        yield from _replayed(case, config, folder / "run" / path.stem / "out")


def mounting_rows() -> Iterator[Row]:
    """Boxes of KITTI's clouds as tilted lidars and lidars with fewer rings give them, of those at level."""
    runtime = Runtime.open("bev_cluster", "cpu")
    kept: dict[str, list[np.ndarray]] = {}

    def find(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        frame = LidarFrame(np.ascontiguousarray(points, np.float32), 0, 0, "lidar")
        return detect3d(runtime, levelled(frame, rotation)).xyzlwh_yaw[:, :2]

    for path in sorted((DATA / "frames").glob("*/velodyne.bin")):
        points = np.fromfile(path, np.float32).reshape(-1, 4)
        level = find(points, np.eye(3))
        elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
        ring = ((elevation + 24.8) / 26.8 * 63).round().astype(int)
        found = {f"rings_64_over_{every}": find(points[ring % every == 0], np.eye(3)) for every in (2, 4)}
        for name, rotation in MOUNTINGS.items():
            turned = points.copy()
            turned[:, :3] = points[:, :3] @ rotation
            found[name] = find(turned, rotation)
        for name, boxes in found.items():
            away = np.linalg.norm(level[:, None] - boxes[None], axis=2).min(1, initial=np.inf)
            kept.setdefault(name, []).append(away < 1)
    for name, shares in kept.items():
        share = float(np.concatenate(shares).mean())
        yield row(f"recordings/lidar/{name}/kept", share, "", ">= 0.95" if name in MOUNTINGS else "")


def _replayed(case: RecordingCase, config: Path, out: Path) -> Iterator[Row]:
    arguments = ["--config", str(config), "--out", str(out), "--inference", "fixed:20", "--no-report"]
    code = _quietly(["replay", str(case.bag), *arguments])
    name = f"recordings/{case.name}"
    yield row(f"{name}/exit_code", code, "", str(case.code))
    for path in sorted(out.glob("**/metrics.json")) if case.code != 2 else ():
        if path.parent == out and any(out.glob("*/metrics.json")):
            continue  # merged from those of the recordings
        metrics = json.loads(path.read_text())
        part = "" if path.parent == out else f"/{path.parent.name}"
        for stream in metrics["streams"].values():
            where = f"{name}{part}{stream['node']}:{stream['topic'].replace('/', '.')}"
            yield from _share(where, stream["received"], stream["states"]["published"], case.least)
        for topic, offset_s in metrics["bag"].get("clock", {}).get("offsets_s", {}).items():
            if abs(offset_s) > 1:
                yield row(f"{name}{part}{topic}/clock_offset", offset_s, "s")


def measure_all() -> None:
    """Replay, print, write."""
    console = Console()
    use_private_graph()
    rows = list(recording_rows(console))
    write_rows(OUT / "recordings.json", rows)
    console.print(table_of(rows))
    console.print(f"written: {OUT / 'recordings'}.json")


if __name__ == "__main__":
    sys.exit(command(measure_all))
