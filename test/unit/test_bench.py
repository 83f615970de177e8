"""The result files that programs read: the format is a promise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import accuracy, engines
from bench.record import write
from bench.rows import against, meets, read_rows, row, table_of, write_rows


@pytest.mark.parametrize(
    ("value", "target", "holds"),
    [
        (0.93, ">= 0.90", True),
        (0.89, ">= 0.90", False),
        (5.9, "<= 6 ms at 720p", True),
        (6.1, "<= 6 ms at 720p", False),
        (4.0, "< 4", False),
        (3.9, "< 4", True),
        (1.0, "> 1", False),
        (9e-5, "<= 1e-4", True),
        (2e-4, "<= 1e-4", False),
        (31, ">= 30 at 960x540", True),
        (0, "0", True),
        (1, "0", False),
        (None, ">= 1", False),
        (1.0, "", None),
        (None, "", None),
    ],
)
def test_a_value_is_held_to_its_target(value, target, holds):
    assert meets(value, target) is holds


@pytest.mark.parametrize("target", ["fast", "about 3", "=> 3", ">= many"])
def test_a_target_without_a_number_is_refused(target):
    with pytest.raises(ValueError, match="target="):
        meets(1.0, target)


def test_the_file_is_what_design_promises(tmp_path):
    rows = [
        row("camera/720p/throughput_ratio", 0.931234567, "ratio", ">= 0.90"),
        row("camera/720p/age_p50_ms", float("nan"), "ms"),
        row("camera/720p/unaccounted", 0, "frames", "0"),
    ]
    path = tmp_path / "bench" / "camera.json"
    write_rows(path, rows)
    content = json.loads(path.read_text())
    assert list(content) == ["machine", "rows"]
    assert {"cpu", "cores", "memory_gib", "python", "torch", "rclpy"} <= set(content["machine"])
    assert content["rows"][0] == {
        "name": "camera/720p/throughput_ratio",
        "value": 0.93123,
        "unit": "ratio",
        "target": ">= 0.90",
        "holds": True,
    }
    assert content["rows"][1]["value"] is None
    assert content["rows"][1]["holds"] is None
    assert read_rows(path)[1] == rows
    assert [entry.name for entry in path.parent.iterdir()] == ["camera.json"]


def test_a_name_appears_once(tmp_path):
    with pytest.raises(ValueError, match="camera/a"):
        write_rows(tmp_path / "camera.json", [row("camera/a", 1, ""), row("camera/a", 2, "")])


def test_table_and_record_show_every_row(tmp_path):
    rows = [row("camera/a", 12345, "frames", "0"), row("camera/b", 0.5, "ms", "<= 1 ms")]
    assert table_of(rows).row_count == 3  # and the stem of their names
    write_rows(tmp_path / "out" / "bench" / "camera.json", rows)
    text = write(tmp_path / "out", tmp_path / "RESULTS.md").read_text()
    assert "| camera/a | 12,345 |  |  | frames | 0 | **no** |" in text
    assert "| camera/b | 0.5 |  |  | ms | <= 1 ms | yes |" in text
    assert "make bench" in text


def test_a_figure_beside_its_baseline(tmp_path):
    rows = [
        against("trust/ade", 0.56, "m", 0.58, most=True, tuned_value=0.55, tuned_on="other scenes"),
        against("trust/mota", 49.0, "%", 50.0),
        against("trust/nothing", float("nan"), "%", 50.0),
    ]
    assert [entry.holds for entry in rows] == [True, False, False]
    assert rows[2].value is None
    write_rows(tmp_path / "out" / "accuracy" / "trust.json", rows)
    assert read_rows(tmp_path / "out" / "accuracy" / "trust.json")[1] == rows
    text = write(tmp_path / "out", tmp_path / "RESULTS.md").read_text()
    assert "| trust/ade | 0.56 | 0.55 | 0.58 | m | <= 0.58 of the baseline | yes |" in text
    assert "| trust/mota | 49 |  | 50 | % | >= 50 of the baseline | **no** |" in text
    assert len(table_of(rows).columns) == 7


@pytest.mark.parametrize(("value", "status"), [(2.0, 0), (0.5, 1)])
def test_a_figure_below_its_baseline_fails_the_command(monkeypatch, tmp_path, value, status):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(accuracy.PARTS, "trust", lambda frames, bar: [against("trust/a", value, "", 1.0)])
    assert accuracy.main(["--part", "trust"]) == status


def test_the_record_keeps_what_was_not_measured_anew(tmp_path):
    out, record = tmp_path / "out", tmp_path / "RESULTS.md"
    write_rows(out / "bench" / "camera.json", [row("camera/a", 1, "")])
    write(out, record)
    (out / "bench" / "camera.json").unlink()
    write_rows(out / "bench" / "lidar.json", [row("lidar/a", 2, "")])
    write_rows(out / "accuracy" / "lidar.json", [row("lidar/b", 3, "")])
    first = write(out, record).read_text()
    assert [line[:16] for line in first.splitlines() if line.startswith("## ")] == [
        "## camera: `make",
        "## lidar: `make ",
        "## lidar: `make ",
    ]
    for name in ("camera/a | 1", "lidar/a | 2", "lidar/b | 3"):
        assert f"| {name} |" in first
    write_rows(out / "bench" / "lidar.json", [row("lidar/a", 4, "")])
    second = write(out, record).read_text()
    assert "| lidar/a | 4 |" in second
    assert "| lidar/a | 2 |" not in second
    assert second.replace("lidar/a | 4", "lidar/a | 2") == first


def test_a_model_is_compared_box_by_box_and_auto_with_the_fastest_engine():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [80, 0, 90, 9]], np.float32)
    source = boxes, np.array([0.9, 0.8, 0.7]), np.array([1, 2, 2])
    moved = np.add(boxes[:2], [[0.5, 0, 0, 0], [0, 0, 0, 0.25]])
    mine = moved, np.array([0.9, 0.75]), np.array([1, 2])
    score, box, alone = engines.difference(source, mine)
    assert (score, box, alone) == (pytest.approx(0.05), 0.5, 1)
    assert engines.difference(source, (mine[0], mine[1], np.array([2, 1])))[2] == 5  # of other classes
    assert engines.difference(source, tuple(column[:0] for column in source)) == (0, 0, 3)
    slow = engines.Measured("net", "a_fp32", (0.0, 0.0, 0), (12.0,) * 3, (20.0,) * 3, auto=True)
    fast = engines.Measured("net", "b_fp32", (0.0, 0.0, 0), (10.0,) * 3, (20.0,) * 3)
    refused = engines.Measured("other", note="no decoder fits")
    rows = {entry.name: entry for entry in engines.rows_of([slow, fast, refused])}
    assert (rows["models/net/auto_to_best"].value, rows["models/net/auto_to_best"].holds) == (1.2, False)
    assert rows["models/net/b_fp32/busy_ms_p99"].value == 20
    assert rows["models/other/imported/idle_ms_p50"].value is None
    assert engines.table_of([slow, fast, refused]).row_count == 3
