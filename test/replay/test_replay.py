"""perception-rt replay from end to end, on a simulated drive and on a recorded one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from perception_rt.cli.main import main
from perception_rt.codec.cdr import CdrReader
from perception_rt.replay.bag import Bag
from test import drives

CONFIG = Path(__file__).parents[2] / "config"
SAME = ("bag/bag.mcap", "bag/metadata.yaml", "ledger.csv", "metrics.json")
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
            fate: sum(row["fate"] == fate for row in mine) for fate in {row["fate"] for row in mine}
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
    ages = {(row["topic"], row["stamp_ns"]): row for row in rows(golden) if row["fate"] == "published"}
    with Bag(golden / "bag") as bag:
        messages = bag.messages(["/lidar_detector/detections"])
        seen = [(CdrReader(message.data).header()[0], message.log_ns) for message in messages]
        assert "/diagnostics" in bag.topics
    assert seen
    for stamp, log in seen:
        assert int(ages[drives.POINTS, str(stamp)]["ended_ns"]) == log


def test_with_fixed_inference_two_runs_give_the_same_bytes_on_any_number_of_threads(
    drive, graph, golden, tmp_path
):
    out = tmp_path / "out"
    given = ("-p", "camera_detector:threads:=3", "-p", "lidar_detector:threads:=5", "--no-report")
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
        if row["fate"] == "published"
    }
    for row in rows(run("traced", f"trace:{measured / 'ledger.csv'}")):
        if row["fate"] == "published" and row["stamp_ns"] in took:
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
        (("-r", f"{drives.IMAGE}:=/elsewhere"), 3, "/elsewhere"),
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
