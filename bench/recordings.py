"""Run every available recording from end to end; writes out/accuracy/recordings.json.

Real bags run with the parameter file of `perception-rt init`; the cases, which are hard to read on purpose,
with the files below. A row has the share of answered messages of a stream, the exit code, or what the case
asks for: tracks, places, turns. Each recording is replayed (`recordings/`) and, if `bag_player` can play it,
run in a live graph too (`recordings/live/`). What is no recording must be refused at once.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import yaml
from rich.console import Console
from scipy.spatial.transform import Rotation

from bench.accuracy import OUT
from bench.command import command, no_arguments, use_private_graph
from bench.inputs import DATA
from bench.rows import Row, row, table_of, write_rows
from perception_rt.cli.main import main as perception_rt
from perception_rt.codec import decode_named_detections, decode_named_detections3d, encode_compressed
from perception_rt.codec.camera_info import parse_camera_info
from perception_rt.codec.vehicle import MotionReading, parse_fix, parse_odometry
from perception_rt.model.runtime import Runtime
from perception_rt.node.collector import Collector
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.batch import find_bags
from perception_rt.replay.message_types import typestore
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.levelling import levelled
from perception_rt.stage.vehicle_state.geodesy import enu_from_geodetic
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


class Check(NamedTuple):
    """What a case asks for beside its streams: a figure of the replay's folder."""

    name: str
    measure: Callable[[Path], float | None]
    unit: str
    target: str


def outputs(out: Path, topic: str) -> list[bytes]:
    """Return the messages that a replay published on a topic."""
    with Bag(out / "bag") as bag:
        return [message.data for message in bag.messages([topic])]


def identities(out: Path, at_once: bool = False, flat: bool = False) -> int:
    """Return the number of different tracks; `at_once`: of the most in one message."""
    decode = decode_named_detections if flat else decode_named_detections3d
    ids = [decode(data).ids for data in outputs(out, "/object_tracker/tracks")]
    return max(map(len, ids)) if at_once else len({one for message in ids for one in message})


def ego(out: Path) -> list[MotionReading]:
    """Return the states of the vehicle."""
    return [parse_odometry(data) for data in outputs(out, "/vehicle_state/odometry")]


def seconds(out: Path) -> float:
    """Return the time that the vehicle's states span, s."""
    states = ego(out)
    return (states[-1].stamp_ns - states[0].stamp_ns) / 1e9


def turned(out: Path) -> float:
    """Return the vehicle's last yaw, rad."""
    pose = ego(out)[-1].pose
    assert pose is not None
    return pose[2]


def off_the_fixes(recording: Path, out: Path) -> float:
    """Return the RMS distance of the states from the fixes of their time, m."""
    with Bag(recording) as bag:
        fixes = [parse_fix(message.data) for message in bag.messages(["/fix"])]
    origin = np.array([fixes[0].latitude, fixes[0].longitude, fixes[0].altitude])
    states = [state for state in ego(out) if state.pose is not None]
    stamps = np.array([state.stamp_ns for state in states])
    places = np.array([state.pose[:2] for state in states if state.pose is not None])
    fixes = [fix for fix in fixes if stamps[0] <= fix.stamp_ns <= stamps[-1]]
    wanted = np.array(
        [enu_from_geodetic(np.array([f.latitude, f.longitude, f.altitude]), origin)[:2] for f in fixes]
    )
    at = np.searchsorted(stamps, [fix.stamp_ns for fix in fixes])
    return float(np.sqrt(((places[at] - wanted) ** 2).sum(1).mean()))


def rejected_boxes(out: Path) -> int:
    """Return the boxes that the tracker counted as none, by its last diagnostics."""
    store, kind = typestore(), "diagnostic_msgs/msg/DiagnosticArray"
    statuses = [
        one for data in outputs(out, "/diagnostics") for one in store.deserialize_cdr(data, kind).status
    ]
    values = [one.values for one in statuses if one.name == "object_tracker"][-1]
    return next(int(item.value) for item in values if item.key == "rejected_boxes")


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
    checks: tuple[Check, ...] = ()
    refusing: str = ""
    """A node that must not answer: its inputs contradict each other."""


def recording_cases() -> Iterator[RecordingCase]:
    """Yield every recording that is here."""
    for bag in find_bags([DATA / "bags"]) if DATA.is_dir() else ():
        yield RecordingCase(bag.name.partition(".")[0], bag, "", speed=5.0 if bag.suffix == ".bag" else 0.2)
    if not CASES.is_dir():
        return
    folder, tracking = CASES / "recordings", CASES / "tracking"
    path = folder / "fixes_only_slow.mcap.zstd"
    sigma = Check("off_the_fixes", partial(off_the_fixes, path), "m", "<= 0.316 m, a fix's sigma")
    yield RecordingCase("fixes_only_slow", path, FIXES, speed=2.0, checks=(sigma,))
    for name, *checks in (
        ("stamps_of_another_clock", Check("span", seconds, "s", ">= 9.5 of 10 s")),
        ("stamps_5s_ahead", Check("span", seconds, "s", ">= 9.5 of 10 s")),
        ("log_time_zero_first", Check("span", seconds, "s", "<= 60 s")),
        ("odometry_quaternion_zero",),
        ("imu_gyro_minus1", Check("yaw", turned, "rad", ">= 2.15 of 2.18 rad")),
        ("imu_gyro_minus1_reference_no_imu", Check("yaw", turned, "rad", ">= 2.15 of 2.18 rad")),
    ):
        config = IMU if name == "imu_gyro_minus1" else ODOMETRY
        bag = folder / f"{name}.mcap.zstd"
        yield RecordingCase(name, bag, config, speed=2.0, checks=tuple(checks))
    yield RecordingCase("git_lfs_pointer", folder / "git_lfs_pointer.mcap", ODOMETRY, 2)
    for path in sorted((folder / "mcap").glob("*.mcap")):
        yield RecordingCase(path.stem, path, tracking / "trk.yaml", speed=1.0)
    yield RecordingCase("folder_drives", folder / "folders" / "drives", tracking / "trk.yaml")
    yield RecordingCase("folder_renamed", folder / "folders" / "renamed", tracking / "trk_odom.yaml")
    for name, parameters, tracks in (  # of as many objects
        ("camera_car_or_truck", "fus", 4),
        ("far_car_camera_only", "fus", 4),
        ("double_fire", "trk", 1),
        ("one_bad_nan_place", "trk", 3),
        ("one_bad_tilted_1_5deg", "trk", 3),
        ("one_bad_zero_quaternion", "trk", 3),
        ("one_bad_2d_theta", "trk2d", 3),
    ):
        flat = parameters == "trk2d"
        checks = [
            Check("tracks", partial(identities, flat=flat), "", f"{tracks}"),
            Check("tracks_at_once", partial(identities, at_once=True, flat=flat), "", f"{tracks}"),
        ]
        if "one_bad" in name and not flat:
            checks.append(Check("rejected_boxes", rejected_boxes, "boxes", ">= 1"))
        bag, config = tracking / f"{name}.mcap.zstd", tracking / f"{parameters}.yaml"
        yield RecordingCase(name, bag, config, checks=tuple(checks))
    yield RecordingCase("tf_10hz_lat25", tracking / "tf_10hz_lat25.mcap.zstd", tracking / "trk_odom.yaml")
    for name, refusing in (("slash_info", ""), ("info_half_size", "/fusion")):
        bag = CASES / "fusion" / f"{name}.mcap.zstd"
        yield RecordingCase(name, bag, tracking / "fus.yaml", refusing=refusing)


def refused_rows() -> Iterator[Row]:
    """What is no recording, graph or ground truth is refused with exit code 2 within 2 s."""
    robust, parameters = CASES / "robust", CASES / "parameters" / "typo.yaml"
    bag, config = CASES / "recordings" / "mcap" / "chunks_and_loose.mcap", CASES / "tracking" / "trk.yaml"
    for name, recording, graph, *more in (
        *((one, robust / one, config) for one in ("meta_deep", "meta_bomb", "view_topics.db3")),
        ("graph_recursive", bag, robust / "graph_recursive.yaml"),
        ("parameter_typo", bag, parameters),
        ("mot_huge_frame", bag, config, "--truth", robust / "mot_huge_frame.txt"),
        ("kitti_id", bag, config, "--truth", robust / "kitti_id.txt"),
    ):
        with TemporaryDirectory() as folder:
            options = ("--config", graph, "--out", Path(folder, "out"), *more)
            began = time.monotonic()
            code = _quietly([str(one) for one in ("replay", recording, *options)])
            yield row(f"recordings/refused/{name}/exit_code", code, "", "2")
            yield row(f"recordings/refused/{name}/took", time.monotonic() - began, "s", "<= 2 s")


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
    yield from refused_rows()


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
    code = None
    with Collector({}) as collector:
        with suppress(subprocess.TimeoutExpired):  # one that does not end costs no other row
            code = subprocess.run(up, capture_output=True, check=False, timeout=UP_S).returncode
        time.sleep(SETTLE_S)
    name = f"recordings/live/{case.name}"
    yield row(f"{name}/exit_code", code, "", str(case.code))
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
    scans = CASES / "robust" / "make_jpeg_scans.py"
    jpeg = folder / "scans.jpg"
    subprocess.run([sys.executable, str(scans), "4600", "4600", "1000", str(jpeg)], check=True)
    many = folder / "jpeg_scans.cdr"
    many.write_bytes(encode_compressed(jpeg.read_bytes(), "jpeg", 0, "camera"))
    hostile = (CASES / "robust" / "png_chunk_len.cdr", many)
    for path in sorted((*(CASES / "cameras").glob("*.cdr"), *hostile)):
        info, compressed = path.stem.startswith("camera_info"), path.stem in COMPRESSED or path in hostile
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
        refused = (
            "truncated" in path.stem or path in hostile
        )  # `init` leaves out a camera of which no picture can be decoded
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
            least = 0.0 if stream["node"] == case.refusing else case.least
            yield from _share(where, stream["received"], stream["states"]["published"], least)
        for topic, offset_s in metrics["bag"].get("clock", {}).get("offsets_s", {}).items():
            if abs(offset_s) > 1:
                yield row(f"{name}{part}{topic}/clock_offset", offset_s, "s")
    for check in case.checks:
        yield row(f"{name}/{check.name}", check.measure(out), check.unit, check.target)


def measure_all() -> None:
    """Replay, print, write."""
    console = Console()
    use_private_graph()
    rows = list(recording_rows(console))
    write_rows(OUT / "recordings.json", rows)
    console.print(table_of(rows))
    console.print(f"written: {OUT / 'recordings'}.json")


if __name__ == "__main__":
    no_arguments(__doc__)
    sys.exit(command(measure_all))
