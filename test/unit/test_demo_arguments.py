"""What a demo refuses: in one line, without torch, and before it removes earlier results."""

from __future__ import annotations

import pytest

from perception_rt.cli.main import main

from .test_cli import modules_after

BAD = [
    (["--bag", "/nonexistent"], "--bag=/nonexistent: no such"),
    (["--video", "/nonexistent.mp4"], "video='/nonexistent.mp4': no such"),
    (["--video", ""], "video='': no such"),
    (["--video", "/dev/video250"], "video='/dev/video250': no such device; cameras of this machine: "),
    (["--video", "250"], "video='250': no such device"),
    (["--video", "http://127.0.0.1:9/a.mjpg"], "no picture can be decoded; does another program use it"),
    (["--video", "/dev/video250", "--seconds", "0"], "--seconds=0.0"),
    (["--bundle", "/nonexistent.pt"], "--bundle=/nonexistent.pt: no such file"),
    (["--bundle", ""], "--bundle=: no such file"),
    (["--lidar-bundle", "a/b"], "--lidar-bundle=a/b: no such file"),
    (["--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
    (["--topic", "/image"], "--topic: is for --bag"),
    (["--realtime"], "--realtime: is for --video"),
    (["--config", "a.yaml", "--video", "b"], "--config: is for the simulator"),
]


@pytest.mark.parametrize(("args", "says"), BAD)
def test_bad_arguments_are_named_and_earlier_results_stay(tmp_path, capsys, args, says):
    (tmp_path / "summary.json").write_text("of an earlier run")
    assert main(["demo", *args, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert (tmp_path / "summary.json").read_text() == "of an earlier run"


@pytest.mark.parametrize(
    "args", [["--bag", "/nonexistent"], ["--bundle", "/no.pt"], ["--config", "/no.yaml"]]
)
def test_refusing_needs_no_torch(args):
    assert not {"torch", "rclpy", "cv2"} & modules_after("demo", *args)


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_folder_for_results_that_is_a_file_is_refused(tmp_path, capsys, below):
    file = tmp_path / "file"
    file.write_text("x")
    assert main(["demo", "--out", str(file / below)]) == 2
    assert "--out=" in capsys.readouterr().err
    assert file.read_text() == "x"
