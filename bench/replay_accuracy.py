"""Scores of whole replays: a drive of KITTI and a simulated one, with detectors that take 20 and 100 ms.

The inference time does not change the detections, but it changes their accuracy at publishing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.inputs import DATA
from bench.kitti import read_velodyne_sequence
from bench.rows import Row, row
from perception_rt.codec import encode_points
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.session import Session, run_session
from perception_rt.sim.lidar import AZIMUTH_STEPS

DEMO = Path(__file__).parents[1] / "config" / "demo.yaml"
KITTI_GRAPH = """\
lidar_detector:
  ros__parameters: {bundle: bev_cluster, points_topics: [/lidar/points]}
object_tracker:
  ros__parameters: {detections_topic: lidar_detector/detections, fixed_frame: ""}
"""
INFERENCE_MS = (20, 100)
PERIOD_NS = 100_000_000
LOGGED_AFTER_NS = 10_000_000  # as long as a driver may take
START_NS = 1_700_000_000_000_000_000
SECONDS, SEED = 10.0, 91  # a held-out drive
TRUTHS = ("ground_truth", "ground_truth_3d", "ground_truth_odometry")
WAYS = ("as_seen", "at_publish", "streaming")
RUNS = 2 * len(INFERENCE_MS)
LIDAR, TRACKS = "/lidar_detector/detections", "/object_tracker/tracks"


def replay_rows(step: Callable[[], None]) -> list[Row]:
    """Return every row; `step` is called after each of the `RUNS`."""
    with TemporaryDirectory() as folder:
        rows = kitti_rows(Path(folder), step) if DATA.is_dir() else []
        return rows + simulated_rows(Path(folder), step)


def kitti_rows(folder: Path, step: Callable[[], None]) -> list[Row]:
    """Sequence 0000 of the tracking benchmark, as far as its clouds are here.

    It has vans and no cars. `bev_cluster`, which tells no vans from cars, is asked for them as cars.
    There is no odometry: at publishing and in the stream, the vehicle's own motion counts as lateness too.
    """
    graph = folder / "kitti.yaml"
    graph.write_text(KITTI_GRAPH)
    clouds = record(folder / "kitti_0000")
    labels = cut_labels(folder / "labelled", clouds)
    rows = []
    for ms in INFERENCE_MS:
        scores = scores_of(folder / "kitti_0000", graph, ms, [str(labels)], folder / f"kitti_{ms}")
        rows += detection_rows(f"replay/kitti_0000/{ms}ms", scores[LIDAR], ("car", "cyclist"))
        rows += tracking_rows(f"replay/kitti_0000/{ms}ms", scores[TRACKS], ("car", "cyclist"))
        step()
    return rows


def record(folder: Path) -> int:
    """The clouds as a recording at 10 Hz; returns how many."""
    clouds = read_velodyne_sequence(DATA / "tracking_kitti" / "velodyne_0000_first77.npz")
    with BagWriter(folder) as writer:
        for number, cloud in enumerate(clouds):
            stamp_ns = START_NS + number * PERIOD_NS
            message = encode_points(cloud, stamp_ns, "velodyne")
            writer.write("/lidar/points", "sensor_msgs/msg/PointCloud2", stamp_ns + LOGGED_AFTER_NS, message)
    return number + 1


def cut_labels(folder: Path, frames: int) -> Path:
    """The labels of the first frames, vans as cars, and the calibration where the scores look for it."""
    for name in ("calib", "label"):
        (folder / name).mkdir(parents=True)
    source = DATA / "tracking_kitti"
    (folder / "calib" / "0000.txt").write_text((source / "calib" / "0000.txt").read_text())
    lines = (source / "label" / "0000.txt").read_text().splitlines()
    kept = [line.replace(" Van ", " Car ") for line in lines if int(line.split()[0]) < frames]
    path = folder / "label" / "0000.txt"
    path.write_text("\n".join(kept) + "\n")
    return path


def simulated_rows(folder: Path, step: Callable[[], None]) -> list[Row]:
    """The graph of the demo on a held-out drive."""
    from test.drives import write_drive  # beside this package, not in it

    write_drive(folder / "drive", SECONDS, SEED, size=(960, 540), azimuth_steps=AZIMUTH_STEPS)
    rows = []
    for ms in INFERENCE_MS:
        truths = [f"/drive_simulator/{name}" for name in TRUTHS]
        scores = scores_of(folder / "drive", DEMO, ms, truths, folder / f"drive_{ms}")
        prefix = f"replay/sim/{ms}ms"
        for topic in ("/camera_detector/detections", LIDAR, "/fusion/detections"):
            node = topic.split("/")[1]
            rows += [row(f"{prefix}/{node}_ap50_{way}", scores[topic][way]["ap50"], "mAP") for way in WAYS]
        rows += tracking_rows(prefix, scores[TRACKS], ())
        rows += ahead_rows(prefix, scores)
        step()
    return rows


def scores_of(bag: Path, config: Path, ms: int, truths: list[str], out: Path) -> Mapping[str, Mapping]:
    """The scores of one replay, by topic."""
    session = Session(bag, config, out, inference=f"fixed:{ms}", truths=truths, report=False)
    return run_session(session).metrics["scores"]


def detection_rows(prefix: str, scores: Mapping, classes: tuple[str, ...]) -> list[Row]:
    """AP by footprints of classes, in each way of counting lateness."""
    return [
        row(f"{prefix}/{name}_{key}_{way}", scores[way]["per_class"][name][key], "AP")
        for name in classes
        for key in ("ap50", "ap70")
        for way in WAYS
    ]


def tracking_rows(prefix: str, scores: Mapping, classes: tuple[str, ...]) -> list[Row]:
    """MOTA, IDF1, HOTA and switches, of all together and of classes."""
    tracking = scores["tracking"]
    parts = {"": tracking} | {f"{name}_": tracking["per_class"][name] for name in classes}
    return [
        row(f"{prefix}/{part}{key}", found[key], "")
        for part, found in parts.items()
        for key in ("mota", "idf1", "hota", "id_switches")
    ]


def ahead_rows(prefix: str, scores: Mapping[str, Mapping]) -> list[Row]:
    """Predictions and the vehicle's own state."""
    ahead, ego = scores["/object_tracker/predictions"], scores["/vehicle_state/odometry"]
    path = scores["/vehicle_state/predictions"]
    return [
        row(f"{prefix}/objects_ade", ahead["ade_m"], "m"),
        row(f"{prefix}/objects_fde", ahead["fde_m"], "m"),
        row(f"{prefix}/ego_position_rmse", ego["rmse"]["position_m"], "m"),
        row(f"{prefix}/ego_drift", ego["drift_percent"], "%"),
        row(f"{prefix}/ego_path_fde_3s", path["fde_m"], "m"),
    ]
