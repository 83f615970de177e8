"""perception-rt bench: every combination is measured or says why not."""

import json

import cv2
import numpy as np

from perception_rt.cli.main import main


def test_every_engine_of_a_bundle_is_measured(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.full((90, 160, 3), 120, np.uint8))
    options = ["--calls", "2", "--on", str(folder), "--out", str(tmp_path / "out")]
    assert main(["bench", "sim_camera", *options]) == 0
    rows = json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
    assert {(row["engine"], row["precision"]) for row in rows} >= {
        ("torchscript", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    }
    for row in rows:
        assert row["p99_ms"] >= row["p50_ms"] > 0, row
        assert row["memory_mib"] >= 0
    assert (tmp_path / "out" / "bench.png").stat().st_size > 1000
    assert "onnxruntime" in (tmp_path / "out" / "bench.txt").read_text()


def test_what_cannot_be_measured_is_named(tmp_path, capsys):
    for options, text in (
        (["--calls", "0"], "--calls=0"),
        (["--threads", "0"], "--threads=[0]"),
        (["--engine", "steam"], "engine='steam'"),
        (["--on", str(tmp_path)], str(tmp_path)),
    ):
        assert main(["bench", "sim_camera", *options]) == 2
        assert text in capsys.readouterr().err
