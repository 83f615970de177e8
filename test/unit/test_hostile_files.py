"""Files made to hang, crash or fill a reader are refused at once, with an error that names the place."""

from __future__ import annotations

import io
import shutil
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from bench.kitti import read_velodyne_sequence
from perception_rt.cli.overrides import parse_parameters
from perception_rt.component.graph import read_graph
from perception_rt.replay.bag import Bag
from perception_rt.replay.batch import find_bags, name_bags
from perception_rt.replay.kitti import read_calibration, read_tracking_labels
from perception_rt.replay.mot import read_mot
from perception_rt.replay.storage import files
from perception_rt.types import BagError, ConfigError, PerceptionError
from perception_rt.types.bounded_yaml import MAX_DEPTH, load_yaml

CASES = Path(__file__).parents[3] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize("text", ["a: 2020-13-45", "[2020-01-01 25:61:61]", "{a: 2001-02-30}"])
def test_a_date_that_is_none_is_refused_as_yaml(text):
    with pytest.raises(yaml.YAMLError, match=r"must be in|out of range"):
        load_yaml(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 50_000, "[" * 50_000 + "]" * 50_000, "{a: " * 50_000, BOMB, "a: &a [*a]", "&a {b: &c [*c]}"],
    ids=["open", "deep", "deep mappings", "bomb", "recursive", "recursive within"],
)
def test_yaml_that_would_cost_more_than_its_text_is_refused_everywhere(tmp_path, text):
    with pytest.raises(yaml.YAMLError, match=r"line|expected|did not find"):
        load_yaml(text)
    (tmp_path / "metadata.yaml").write_text(text)
    with pytest.raises(BagError, match=r"metadata\.yaml cannot be read"):
        Bag(tmp_path)
    with pytest.raises(ConfigError, match="not YAML"):
        read_graph(tmp_path / "metadata.yaml")
    with pytest.raises(ConfigError, match="not YAML"):
        parse_parameters([f"name:={text}"])


SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(VALUES)
def test_yaml_within_the_limits_is_what_it_says(value):
    assert load_yaml(yaml.safe_dump([value, value])) == [value, value]  # aliases among it


def test_the_greatest_depth_is_still_read():
    value = load_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("value", ["1e12", "-1e300", "nan", "inf"])
def test_mot_numbers_out_of_range_are_refused_by_line(tmp_path, column, value):
    row = ["1", "1", "10", "10", "20", "20", "1"]
    path = tmp_path / "gt.txt"
    path.write_text(",".join(row) + "\n" + ",".join([*row[:column], value, *row[column + 1 :]]) + "\n")
    with pytest.raises(BagError, match=rf"line 2='.*{value}"):
        read_mot(path)


def test_mot_frames_are_in_order_and_without_gaps(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("4,7,0,0,1,1,1\n2,8,0,0,1,1,1\n2,9,0,0,1,1,1\n3,5,0,0,1,1,0\n")
    found = read_mot(path)
    assert {frame: boxes.ids.tolist() for frame, boxes in found.items()} == {1: [], 2: [8, 9], 3: [], 4: [7]}


@pytest.mark.parametrize("column", [0, 1, 3, 4, 16])
def test_kitti_numbers_out_of_range_are_refused_by_line(tmp_path, column):
    fields = ["0", "1", "Car", "0", "0", *["1"] * 12]
    fields[column] = "1e300"
    path = tmp_path / "labels.txt"
    path.write_text(" ".join(fields))
    with pytest.raises(BagError, match=r"line 1='.*1e300"):
        read_tracking_labels(path)


def test_a_calibration_line_without_a_name_is_refused(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text("P2: 1 0 0 0 0 1 0 0 0 0 1 0\n:\n")
    with pytest.raises(BagError, match="line 2=':'"):
        read_calibration(path)


def test_a_damaged_sequence_of_clouds_is_a_typed_error_wherever_it_is_damaged(tmp_path):
    columns = {name: np.arange(50, dtype=np.int16) for name in ("x_mm", "y_mm", "z_mm", "intensity_pct")}
    whole = io.BytesIO()
    np.savez_compressed(whole, **columns, counts=np.array([20, 30]))
    path, refused = tmp_path / "clouds.npz", 0
    for at in range(0, len(whole.getvalue()), 3):
        data = bytearray(whole.getvalue())
        data[at] ^= 0x55
        path.write_bytes(data)
        try:
            read_velodyne_sequence(path)
        except BagError:
            refused += 1
    assert refused > 50


def test_a_sequence_of_clouds_that_unpacks_without_end_is_refused(tmp_path):
    path = tmp_path / "clouds.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x_mm.npy", "w") as file:
        for _ in range(1025):
            file.write(bytes(1 << 20))
    with pytest.raises(BagError, match=r"x_mm\.npy: 1074790400 bytes"):
        read_velodyne_sequence(path)


@pytest.mark.parametrize("table", ["topics", "messages"])
def test_a_database_with_an_endless_view_is_refused(tmp_path, table):
    path = tmp_path / "drive.db3"
    endless = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n"
    with sqlite3.connect(path) as database:
        if table != "topics":
            database.execute("CREATE TABLE topics (id, name, type)")
        database.execute(f"CREATE VIEW {table} AS {endless}")
    with pytest.raises(BagError, match=f"{table} is a view, not a table"):
        Bag(path)


def test_a_compressed_file_that_unpacks_without_end_is_cut_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "drive.mcap.zstd"
    path.write_bytes(zstd.compress(b"\x89MCAP0\r\n" + bytes(64 << 20)))
    with pytest.raises(BagError, match=r"more than .* bytes"):
        Bag(path)


def test_a_compressed_file_for_which_the_disk_has_no_room_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2 << 20)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    path = tmp_path / "drive.mcap.zstd"
    path.write_bytes(zstd.compress(b"\x89MCAP0\r\n" + bytes(4 << 20)))
    with pytest.raises(BagError, match=r"more than 1048576 bytes decompressed.* set TMPDIR"):
        Bag(path)


def test_a_database_with_a_log_is_read_and_its_folder_left_as_it_was(tmp_path):
    path = tmp_path / "made.db3"
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE topics (id INTEGER PRIMARY KEY, name, type, serialization_format)")
    database.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id, timestamp, data)")
    database.execute("INSERT INTO topics VALUES (1, '/a', 'std_msgs/msg/String', 'cdr')")
    database.execute("INSERT INTO messages VALUES (1, 1, 5, ?)", (b"\0\1\0\0",))
    database.commit()
    folder = tmp_path / "left"
    folder.mkdir()
    for name in ("made.db3", "made.db3-wal"):
        (folder / name).write_bytes((tmp_path / name).read_bytes())
    database.close()
    with Bag(folder / "made.db3") as bag:
        assert [message.log_ns for message in bag.messages()] == [5]
    assert sorted(entry.name for entry in folder.iterdir()) == ["made.db3", "made.db3-wal"]


@needs_cases
@pytest.mark.parametrize("name", ["robust/meta_deep", "robust/meta_bomb", "robust/view_topics.db3"])
def test_hostile_recordings_are_refused(name):
    with pytest.raises(BagError):
        Bag(CASES / name)


@needs_cases
def test_a_git_lfs_pointer_says_how_to_get_the_recording():
    with pytest.raises(BagError, match="git lfs pull"):
        Bag(CASES / "recordings" / "git_lfs_pointer.mcap")


@needs_cases
@pytest.mark.parametrize(("folder", "names"), [("drives", ["a", "b"]), ("renamed", ["renamed"])])
def test_compressed_files_are_found_and_splits_in_a_renamed_folder_are_one_recording(folder, names):
    assert name_bags(find_bags([CASES / "recordings" / "folders" / folder])) == names


@needs_cases
@pytest.mark.parametrize(
    ("read", "name"),
    [
        (read_mot, "mot_huge_frame.txt"),
        (read_tracking_labels, "kitti_id.txt"),
        (read_graph, "graph_recursive.yaml"),
    ],
)
def test_hostile_texts_are_refused(read, name):
    with pytest.raises(PerceptionError, match="line"):
        read(CASES / "robust" / name)


@needs_cases
@pytest.mark.parametrize(("name", "count"), [("head_maxtime_index_zero", 20), ("chunks_and_loose", 50)])
def test_sound_forms_of_libmcap_are_read_whole_and_without_a_word(name, count):
    with Bag(CASES / "recordings" / "mcap" / f"{name}.mcap") as bag:
        assert len(list(bag.messages())) == count
        assert bag.damage == []
