"""The command line: light to start, and no traceback for anything that a user types."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perception_rt.cli import doctor, replay
from perception_rt.cli.main import SUBCOMMANDS, main
from perception_rt.replay.session import Session


def command(*args: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "perception_rt.cli.main", *args],
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


def modules_after(*args: str) -> set[str]:
    code = (
        "import sys\nfrom perception_rt.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\nprint('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.rpartition("MODULES ")[2].split())


def test_help_lists_every_command_and_imports_nothing_heavy():
    loaded = modules_after("--help")
    assert not {"torch", "cv2", "numpy", "rclpy", "rich"} & loaded
    text = command("--help").stdout
    for name, subcommand in SUBCOMMANDS.items():
        assert name in text
        assert subcommand.summary.split()[0] in text


@pytest.mark.parametrize(
    "args", [*[(name, "--help") for name in SUBCOMMANDS], ("replay",), ("doctor",), ("nonsense",)]
)
def test_torch_is_not_imported_before_it_is_needed(args):
    assert "torch" not in modules_after(*args)


HEAVY = {
    "torch",
    "torchvision",
    "onnxruntime",
    "scipy",
    "scipy.optimize",
    "scipy.special",
    "pandas",
    "matplotlib",
}


@pytest.mark.parametrize(
    ("node", "without"),
    [
        ("fusion", {"cv2", "PIL"}),
        ("object_tracker", {"cv2", "PIL"}),
        ("vehicle_state", {"cv2", "PIL"}),
        ("sensor_health", {"cv2", "PIL"}),
        ("graph_client", {"cv2", "PIL"}),  # of perception-rt topic, param, lifecycle and record
    ],
)
def test_nodes_without_a_network_import_no_heavy_library(node, without):
    pytest.importorskip("rclpy")
    code = f"import sys, perception_rt.node.{node}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not (HEAVY | {"rich", "mcap", "rosbags", "pycocotools"} | without) & set(done.stdout.split())


WORDS = [
    "", "-", "--", "=", "-1", "nan", "1e999", "/", "/nonexistent/x", ".", "\N{SNOWMAN}", "-p", "rate_hz=20.0",
    "rate_hz:=20.0", "--out", "--config", "config/demo.yaml", "README.md", "--budget", "age_p99=x", "--truth",
    "--inference", "fixed:", "fixed:-1", "trace:", "--jobs", "0", "--seconds", "--json", "--ros-args", "-r",
    "a:=b", "--evaluate", "sim_camera", "--frames", "show", "verify", "export", "torchvision", "onnx",
    "--decoder", "yolov8", "--weights", "camera", "--seed", "99999", "--speed", "--live", "foxglove:x",
    "rerun:", "--help",
]  # fmt: skip


@pytest.mark.parametrize("name", ["replay", "bundle", "train", "doctor", "completion"])
def test_whatever_is_typed_ends_in_an_exit_code(name, capfd, monkeypatch, tmp_path):
    rng = random.Random(name)
    monkeypatch.chdir(tmp_path)
    for _ in range(150):
        args = [name, *rng.choices(WORDS, k=rng.randrange(6))]
        if name == "train" and "camera" in args[1:]:  # would really train
            continue
        if name == "doctor" and any(doctor.TOPIC.fullmatch(word) for word in args[1:]):  # would listen
            continue
        try:
            code = main(args)
        except SystemExit as stopped:
            code = stopped.code
        assert code in (0, 1, 2, 3), args
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("up", "{demo}", "-p", "rate_hz=20.0"), "must be NAME:=VALUE"),
        (("up", "nowhere.yaml"), "nowhere.yaml"),
        (("up", "{light}", "-p", "object_tracker:horizon:=2.0"), "'horizon'"),
        (("up", "{demo}", "--restarts", "x"), "invalid int value: 'x'"),
        (("replya",), "'replya'"),
        (("replay",), "required: BAG, --config, --out"),
        (("train", "camera", "--out", "/proc/none/x.pt"), "/proc/none"),
        (("doctor", "--seconds", "nan"), "--seconds=nan"),
        (("doctor", "/camera", "a b"), "topic 'a b'"),
        (("doctor", "/1st"), "topic '/1st'"),
    ],
)
def test_a_bad_value_is_named_in_one_line(args, said, tmp_path):
    demo = tmp_path / "demo.yaml"
    demo.write_text("camera_detector:\n  ros__parameters:\n    rate_hz: 20.0\n")
    light = tmp_path / "light.yaml"
    light.write_text("object_tracker:\n  ros__parameters: {}\n")
    done = command(*(arg.format(demo=demo, light=light) for arg in args))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("words", ["--help", "completion bash", "bundle show sim_camera --json"])
def test_a_closed_pipe_is_no_error(words):
    script = f"set -o pipefail; {sys.executable} -m perception_rt.cli.main {words} | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "perception_rt.cli.main", "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (2, "perception-rt completion: No space left on device\n")


def test_doctor_reports_as_json(capsys):
    main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert {"rclpy", "torch"} <= {finding["text"].split(":")[0] for finding in findings}


def test_doctor_names_an_rmw_that_is_not_installed(monkeypatch, tmp_path, capsys):
    (tmp_path / "librmw_cyclonedds_cpp.so").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_nowhere_cpp")
    [(level, text)] = doctor.transport()
    assert level == doctor.FAIL
    assert "rmw_nowhere_cpp: not installed" in text
    assert "rmw_cyclonedds_cpp" in text
    assert main(["doctor", "--json"]) == 1
    findings = {finding["text"].split(":")[0] for finding in json.loads(capsys.readouterr().out)}
    assert {"torch", "torchvision", "cv2"} <= findings


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*SUBCOMMANDS, "inference", "verify"):
        assert word in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, timeout=20).returncode == 0


@pytest.mark.parametrize("where", ["perception_rt.cli.export.add_arguments", "perception_rt.cli.export.run"])
def test_ctrl_c_is_one_line(where, monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert main(["export", "drive", "--format", "csv", "--out", "out"]) == 130
    assert capsys.readouterr() == ("", "perception-rt export: interrupted\n")


@pytest.mark.parametrize(
    ("node", "options", "share", "fixed_s"),
    [
        ("vehicle_state", {"report": False}, 0.0, 0.0),
        ("vehicle_state", {}, 0.02, 0.35),
        ("camera_detector", {"truths": ["/truth"], "golden": Path("golden")}, 0.72, 0.6),
    ],
)
def test_the_time_of_a_replay_is_forecast_from_its_first_seconds(
    node, options, share, fixed_s, tmp_path, monkeypatch
):
    monkeypatch.setattr(replay, "ruler_s", lambda: 0.01)
    config = tmp_path / "car.yaml"
    config.write_text(f"{node}: {{ros__parameters: {{}}}}\n")
    forecast = replay.Forecast(100.0, Session(tmp_path, config, tmp_path, **options))
    assert forecast.update(0.0, 20.0, 110.0) is None  # ten seconds of loading
    assert forecast.update(1.0, 20.0, 111.0) is None  # from here on, its speed is measured
    assert forecast.update(1.9, 20.0, 112.9) is None
    for done_s, now_s in ((2.0, 113.0), (20.0, 149.0)):
        assert forecast.update(done_s, 20.0, now_s) == pytest.approx(10.0 + 39.0 * (1 + share) + fixed_s)


def test_a_short_replay_is_forecast_too(tmp_path):
    forecast = replay.Forecast(100.0, Session(tmp_path, tmp_path, tmp_path, report=False))
    found = [forecast.update(0.1 * k, 2.0, 101.0 + 0.05 * k) for k in range(21)]
    assert found == [None] * 6 + [pytest.approx(2.0)] * 15
