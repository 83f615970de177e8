"""perception-rt replay from end to end, on a simulated drive and on a recorded one."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from perception_rt.cli.main import main
from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.detections3d import decode_detections3d
from perception_rt.replay.bag import Bag
from test import drives
from test.detectors import save_earlier_box

CONFIG = Path(__file__).parents[2] / "config"
SAME = ("bag/bag_0.mcap", "bag/metadata.yaml", "ledger.csv", "metrics.json")
GRAPH = {
    "camera_detector": {"bundle": "sim_camera", "image_topics": [drives.IMAGE], "warmup_sizes": ["320x180"]},
    "lidar_detector": {"bundle": "pillars", "points_topics": [drives.POINTS]},
    "fusion": {"fixed_frame": "odom", "camera_info_topic": drives.CAMERA_INFO},
    "object_tracker": {},
    "vehicle_state": {"odometry_topic": drives.ODOM, "imu_topic": drives.IMU},
}
TRUTHS = ("--truth", drives.TRUTH, "--truth", drives.TRUTH_3D, "--truth", drives.TRUTH_ODOMETRY)


def replay(*arguments: object) -> int:
    """Run the command; its exit code."""
    return main(["replay", *map(str, arguments), "--no-report", "--progress", "none"])


def replay_apart(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "perception_rt.cli.main", "replay", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=240
    )


def rows(folder: Path) -> list[dict[str, str]]:
    """The ledger."""
    with (folder / "ledger.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def check_ledger(folder: Path) -> None:
    """Every message that was received has one row, and the counts are those of the rows."""
    found = rows(folder)
    keys = [(row["node"], row["topic"], row["number"]) for row in found if row["node"] != "bag"]
    assert len(set(keys)) == len(keys)
    for stream in metrics(folder)["streams"].values():
        mine = [row for row in found if (row["node"], row["topic"]) == (stream["node"], stream["topic"])]
        assert len(mine) == stream["received"] == sum(stream["states"].values())
        assert {state: n for state, n in stream["states"].items() if n} == {
            outcome: sum(row["outcome"] == outcome for row in mine)
            for outcome in {row["outcome"] for row in mine}
        }


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    """Two seconds of simulated drive."""
    folder = tmp_path_factory.mktemp("drive") / "drive"
    drives.write_drive(folder, 2.0, 5, camera_hz=30.0)
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """All nodes, for the simulated drive."""
    path = tmp_path_factory.mktemp("graph") / "graph.yaml"
    path.write_text(yaml.safe_dump({name: {"ros__parameters": values} for name, values in GRAPH.items()}))
    return path


@pytest.fixture(scope="module")
def camera(tmp_path_factory) -> Path:
    """The camera alone."""
    path = tmp_path_factory.mktemp("graph") / "camera.yaml"
    path.write_text(yaml.safe_dump({"camera_detector": {"ros__parameters": GRAPH["camera_detector"]}}))
    return path


@pytest.fixture(scope="module")
def golden(drive, graph, tmp_path_factory) -> Path:
    """What the replay of all leaves, by fixed time."""
    out = tmp_path_factory.mktemp("golden") / "out"
    given = (drive, "--config", graph, "--inference", "fixed:30", "--out", out, *TRUTHS)
    done = replay_apart(*given, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return out


def test_sweeps_are_joined_by_the_motion_in_the_bag(drive, tmp_path):
    bundle, config, out = tmp_path / "earlier.pt", tmp_path / "graph.yaml", tmp_path / "out"
    save_earlier_box(bundle, 4)
    lidar = {"bundle": str(bundle), "points_topics": [drives.POINTS]}
    config.write_text(yaml.safe_dump({"lidar_detector": {"ros__parameters": lidar}}))
    assert replay(drive, "--config", config, "--inference", "fixed:5", "--out", out) == 0
    with Bag(out / "bag") as bag:
        decoded = [
            decode_detections3d(message.data, ["car"])
            for message in bag.messages(["/lidar_detector/detections"])
        ]
    joined = [round(10 * float(found.scores[0])) for _, _, found, _ in decoded]
    assert joined == [1, 1, 2, 3] + [4] * 16  # /tf says how it moves after 100 ms


def test_a_drive_is_replayed_scored_and_reported(golden):
    check_ledger(golden)
    found = metrics(golden)
    assert set(found["bundles"]) == {"/camera_detector", "/lidar_detector"}
    lidar = found["streams"]["/lidar_detector: /lidar/points"]
    assert lidar["states"]["published"] == lidar["received"] == 20
    assert lidar["age_ms"]["p50"] == 12 + 30  # logged so long after its stamp; inference
    scores = found["scores"]
    assert scores["/lidar_detector/detections"]["as_seen"]["ap50"] > 0.3
    assert scores["/vehicle_state/odometry"]["kind"] == "odometry"
    assert "tracking" in scores["/object_tracker/tracks"]
    run = json.loads((golden / "run.json").read_text())
    assert run["exit_code"] == 0
    assert "<html" in (golden / "report.html").read_text()[:200]
    assert (golden / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert not {"wall_s", "cpu", "machine"} & set(json.dumps(found).split('"'))


def test_what_is_published_has_the_stamp_of_its_input_and_the_time_of_its_publishing(golden, drive):
    ages = {(row["topic"], row["stamp_ns"]): row for row in rows(golden) if row["outcome"] == "published"}
    with Bag(golden / "bag") as bag:
        messages = bag.messages(["/lidar_detector/detections"])
        seen = [(CdrReader(message.data).header()[0], message.log_ns) for message in messages]
        assert "/diagnostics" in bag.topics
    assert seen
    for stamp, log in seen:
        assert int(ages[drives.POINTS, str(stamp)]["ended_ns"]) == log


def test_with_fixed_inference_two_runs_give_the_same_bytes_at_any_speed_on_any_number_of_threads(
    drive, graph, golden, tmp_path
):
    out = tmp_path / "out"
    given = (
        "-p",
        "camera_detector:threads:=3",
        "-p",
        "lidar_detector:threads:=5",
        "--speed",
        "3",
        "--no-report",
    )
    done = replay_apart(
        *(drive, "--config", graph, "--inference", "fixed:30", "--out", out, *TRUTHS, *given),
        OMP_NUM_THREADS="4",
    )
    assert done.returncode == 0, done.stderr
    for name in SAME:
        assert (out / name).read_bytes() == (golden / name).read_bytes(), name


def test_a_trace_repeats_the_schedule_of_the_run_that_it_is_from(drive, camera, tmp_path):
    def run(name: str, inference: str) -> Path:
        out = tmp_path / name
        assert replay(drive, "--config", camera, "--inference", inference, "--out", out) == 0
        return out

    fixed = run("fixed", "fixed:45")
    again = run("again", f"trace:{fixed / 'ledger.csv'}")
    assert (again / "ledger.csv").read_bytes() == (fixed / "ledger.csv").read_bytes()
    measured = run("measured", "measured")
    took = {
        row["stamp_ns"]: sum(float(row[f"{name}_ms"]) for name in ("decode", "infer", "publish"))
        for row in rows(measured)
        if row["outcome"] == "published"
    }
    for row in rows(run("traced", f"trace:{measured / 'ledger.csv'}")):
        if row["outcome"] == "published" and row["stamp_ns"] in took:
            assert float(row["infer_ms"]) == pytest.approx(took[row["stamp_ns"]], abs=1e-5)


def test_a_comparison_names_what_differs_and_fails(drive, graph, golden, tmp_path, capsys):
    given = (drive, "--config", graph, "--inference", "fixed:30", "--out", tmp_path / "out", *TRUTHS)
    assert replay(*given, "--compare", golden) == 0
    assert replay(*given, "--compare", golden, "-p", "camera_detector:score_threshold:=0.9") == 1
    assert "differences from out" in capsys.readouterr().out
    differences = json.loads((tmp_path / "out" / "differences.json").read_text())
    assert "/camera_detector/detections" in differences["counts"]
    assert "/lidar_detector/detections" not in differences["counts"]


def test_budgets_decide_the_exit_code(drive, camera, tmp_path, capsys):
    given = (drive, "--config", camera, "--inference", "fixed:30", "--out", tmp_path / "out")
    assert replay(*given, "--budget", "age_p99=250", "--budget", "/camera_detector:lost=0") == 0
    assert replay(*given, "--budget", "/camera_detector:age_p99=20") == 1
    assert replay(*given, "--budget", "speed=1") == 2
    assert "speed" in capsys.readouterr().err


def test_a_slow_model_loses_frames_as_it_would_on_the_road(drive, camera, tmp_path):
    assert replay(drive, "--config", camera, "--inference", "fixed:150", "--out", tmp_path / "out") == 0
    check_ledger(tmp_path / "out")
    (found,) = metrics(tmp_path / "out")["streams"].values()
    assert found["received"] == 60
    assert found["states"]["published"] == pytest.approx(2.0 / 0.150, abs=2)
    assert found["states"]["superseded"] == 60 - found["states"]["published"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("-r", f"{drives.IMAGE}:=/elsewhere"), 2, "no node uses a recorded topic: wanted are /elsewhere"),
        (("-r", f"{drives.IMAGE}:={drives.IMU}"), 2, "/imu (sensor_msgs/msg/Imu)"),
        (("-r", "/typo:=/elsewhere"), 2, "-r /typo:=/elsewhere: no node uses /typo"),
        (
            ("-p", "camera_detektor:half:=true"),
            2,
            "no such node; the nodes of the graph are ",
        ),
        (("-p", "image_topics:=[/a/b, a/b]"), 2, "two of them are one"),
        (("-p", "bundle:=pillars"), 2, "/camera_detector: pillars: task is detect3d"),
        (("--compare", "/nowhere"), 2, "--compare=/nowhere: contains no bag"),
        (("-p", "camera_detector:rate_hz:=fast"), 2, "rate_hz='fast': must be of type float"),
        (("-p", "camera_detector:bundle:=nothing.pt"), 2, "no such file"),
        (("-p", "no sign"), 2, "must be NAME:=VALUE"),
        (("--inference", "slow"), 2, "must be measured, fixed:MS"),
        (("--truth", "/nowhere"), 2, "/nowhere"),
        (("--config", "/nowhere.yaml"), 2, "/nowhere.yaml"),
        (("--speed", "0"), 2, "--speed=0"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(drive, camera, tmp_path, capsys, change, code, said):
    given = (drive, "--config", camera, "--inference", "fixed:30", "--out", tmp_path / "out")
    assert replay(*given, *change) == code
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_a_folder_of_something_else_is_not_overwritten(drive, camera, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert replay(drive, "--config", camera, "--out", tmp_path) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("where", ["", "bag", "bag/out"])
def test_a_recording_is_never_overwritten_by_its_replay(drive, camera, tmp_path, capsys, where):
    shutil.copytree(drive, tmp_path / "bag")
    assert replay(tmp_path / "bag", "--config", camera, "--out", tmp_path / where) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == ["drive_0.mcap", "metadata.yaml"]


def test_another_recording_is_not_taken_for_a_replay(drive, camera, tmp_path, capsys):
    shutil.copytree(drive, tmp_path / "out" / "bag")
    assert replay(drive, "--config", camera, "--out", tmp_path / "out") == 2
    assert "contains bag, which is not from a replay" in capsys.readouterr().err
    assert (tmp_path / "out" / "bag" / "drive_0.mcap").exists()


@pytest.mark.parametrize("name", ["report.html", "run.json", "ledger.csv", "run.json.part"])
@pytest.mark.parametrize("text", ["years of work", "[]", '{"versions": 3}', "{}"])
def test_files_with_our_names_do_not_make_a_folder_ours(drive, camera, tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text)
    assert replay(drive, "--config", camera, "--out", tmp_path) == 2
    assert f"contains {name}, which is not from a replay" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == text


def test_what_cannot_be_used_costs_no_earlier_run_and_what_was_killed_is_cleared(drive, camera, tmp_path):
    out, trace = tmp_path / "out", tmp_path / "trace.csv"
    given = (drive, "--config", camera, "--inference", "fixed:30", "--out", out)
    assert replay(*given) == 0
    before = {name: (out / name).read_bytes() for name in (*SAME, "run.json")}
    trace.write_text("node,stamp_ns,infer_ms\n/lidar_detector,1,5\n")
    for change in (
        ("-p", "rate_hz:=-1.0"),
        ("-p", "bundle:=nothing.pt"),
        ("-r", "/typo:=/x"),
        ("--inference", f"trace:{trace}"),
        ("--compare", tmp_path),
    ):
        assert replay(*given, *change) == 2
        assert {name: (out / name).read_bytes() for name in before} == before, change
    (out / "run.json").rename(out / "run.json.part")
    (out / "metrics.json.part").write_text("{")
    assert replay(*given) == 0
    assert not (out / "metrics.json.part").exists()
    assert {name: (out / name).read_bytes() for name in SAME} == {name: before[name] for name in SAME}


def test_topics_that_change_places_are_remapped_once(drive, camera, tmp_path):
    swapped = ("-r", f"{drives.IMAGE}:=/other/image_raw", "-r", f"/other/image_raw:={drives.IMAGE}")
    topics = ("-p", f"image_topics:=[{drives.IMAGE}, /other/image_raw]")
    given = (drive, "--config", camera, "--inference", "fixed:30", "--out", tmp_path / "out")
    assert replay(*given, *topics, *swapped) == 3
    received = {s["topic"]: s["received"] for s in metrics(tmp_path / "out")["streams"].values()}
    assert received == {drives.IMAGE: 60, "/other/image_raw": 0}
    check_ledger(tmp_path / "out")


def test_transforms_are_heard_where_they_are_remapped_to(drive, graph, tmp_path):
    moved, out = tmp_path / "moved", tmp_path / "out"
    names = {drives.TF: "/robot/tf", drives.TF_STATIC: "/robot/tf_static"}
    with Bag(drive) as bag:
        types = {names.get(topic, topic): kind for topic, (kind, _) in bag.topics.items()}
        drives.write_bag(
            moved, types, ((m.log_ns, names.get(m.topic, m.topic), m.data) for m in bag.messages())
        )
    remaps = [word for pair in names.items() for word in ("-r", ":=".join(pair))]
    assert replay(moved, "--config", graph, "--inference", "fixed:30", "--out", out, *remaps) == 0
    assert metrics(out)["streams"]["/fusion: /lidar_detector/detections"]["states"]["published"] == 20


def test_a_full_disk_is_said_in_a_line(drive, camera, tmp_path):
    command = [sys.executable, "-m", "perception_rt.cli.main", "replay", str(drive), "--config", str(camera)]
    done = subprocess.run(
        [*command, "--inference", "fixed:30", "--out", str(tmp_path / "out"), "--no-report"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("File too large")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


def test_ctrl_c_ends_a_replay_and_leaves_it_incomplete(drive, camera, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "perception_rt.cli.main", "replay", str(drive), "--config", str(camera)]
    running = subprocess.Popen(
        [*command, "--inference", "fixed:30", "--speed", "0.02", "--out", str(out)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("bag/*")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    assert not (out / "run.json").exists()
    with Bag(out / "bag") as bag:  # what was written until then can be read
        assert bag.duration_s < 2


def test_the_recorded_drive_gives_the_same_bytes_on_any_number_of_threads(shared_data, tmp_path):
    bundle = tmp_path / "fastestdet.pt"
    onnx = str(shared_data / "models" / "FastestDet.onnx")
    assert main(["bundle", "export", "onnx", onnx, "--decoder", "fastestdet", "--out", str(bundle)]) == 0
    drive = shared_data / "bags" / "kitti_city"
    for threads in ("1", "3"):
        done = replay_apart(
            *(drive, "--config", CONFIG / "kitti.yaml", "--inference", "fixed:20", "--no-report"),
            *("--out", tmp_path / threads, "-p", f"camera_detector:bundle:={bundle}"),
            *("-p", f"camera_detector:threads:={threads}"),
            OMP_NUM_THREADS=threads,
        )
        assert done.returncode == 0, done.stderr
    check_ledger(tmp_path / "1")
    assert all(stream["received"] == 24 for stream in metrics(tmp_path / "1")["streams"].values())
    for name in SAME:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name
