"""Damaged recordings: what can be read is read, byte for byte, and the rest is reported."""

from __future__ import annotations

import shutil
import sqlite3
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml
from rosbags.rosbag2 import CompressionMode

from perception_rt.replay.bag import Bag, BagMessage, Damage
from perception_rt.types import BagError
from test.mcap_forms import write_mcap
from test.mutations import mutations
from test.replay.test_bags import MCAP, SQLITE, START_NS, in_any_order, messages, split, write

LIMIT_S = 5.0
"""For a bag of a few kB, on a busy machine."""
ZSTD = b"\x28\xb5\x2f\xfd"


def salvage(path: Path) -> tuple[list[BagMessage], list[Damage]]:
    """What is read of a bag, and the damage; always in order, and the same the second time."""
    with Bag(path, salvage=True) as bag:
        found = list(bag.messages())
        assert [m.log_ns for m in found] == sorted(m.log_ns for m in found)
        damage = list(bag.damage)
        assert list(bag.messages()) == found
        assert bag.damage == damage
    return found, damage


def lost(damage: list[Damage]) -> int:
    return sum(part.messages or 0 for part in damage)


def lost_by_topic(damage: list[Damage]) -> Counter[str]:
    counts = Counter()
    for part in damage:
        counts[part.topic] += part.messages or 0
    return +counts


def by_topic(logged: list[BagMessage]) -> Counter[str]:
    return Counter(message.topic for message in logged)


def reasons(damage: list[Damage]) -> str:
    return "; ".join(f"{part.topic} {part.messages} {part.reason}" for part in damage)


def altered(path: Path, place: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[place : place + len(new)] = new
    path.write_bytes(data)


def place_of(path: Path, what: bytes) -> int:
    place = path.read_bytes().find(what)
    assert place > 0
    return place


def time_of(message: BagMessage) -> bytes:
    return message.log_ns.to_bytes(8, "little")


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def metadata_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]


def put_metadata(folder: Path, about: dict) -> None:
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": about}))


@pytest.mark.parametrize("compression", ["", "zstd", "lz4"])
def test_a_recording_that_is_cut_off_gives_what_was_written(compression, tmp_path):
    logged = messages(300)
    path = write_mcap(tmp_path / "drive.mcap", logged, compression, in_chunk=9)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    found, damage = salvage(path)
    assert 150 < len(found) < 240
    assert len(found) % 9 or compression  # of the last chunk too, where no compression needs its end
    assert found == logged[: len(found)]
    assert "cut off" in reasons(damage)
    with pytest.raises(BagError, match="cut off"), Bag(path) as bag:
        list(bag.messages())


def test_metadata_tells_how_much_a_cut_recording_lost(tmp_path):
    logged = messages(300)
    folder = write(tmp_path / "drive", logged, mode=CompressionMode.STORAGE)
    path = write_mcap(folder / "drive.mcap", logged, "zstd")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, damage = salvage(folder)
    assert 0 < len(found) < 200
    assert len(found) + lost(damage) == len(logged)
    assert lost_by_topic(damage) == by_topic(logged) - by_topic(found)


@pytest.mark.parametrize("compression", ["", "zstd", "lz4"])
def test_a_chunk_without_its_checksum_is_lost_whole_and_alone(compression, tmp_path):
    logged = messages(80)
    path = write_mcap(tmp_path / "drive.mcap", logged, compression, in_chunk=9)
    altered(path, place_of(path, time_of(logged[9])) + 300, b"\x55\xaa\x55")
    found, damage = salvage(path)
    assert found == logged[:9] + logged[18:]
    assert lost_by_topic(damage) == by_topic(logged[9:18])
    with pytest.raises(BagError, match="damaged"), Bag(path) as bag:
        list(bag.messages())


def test_a_damaged_first_chunk_still_names_the_topics_of_a_file_without_a_summary(tmp_path):
    logged = messages(80)
    path = write_mcap(tmp_path / "drive.mcap", logged, in_chunk=9, summary=False)
    altered(path, place_of(path, logged[3].data) + 10, b"\x55\xaa\x55")
    found, damage = salvage(path)
    assert found == logged[9:]
    assert lost(damage) == 9


def test_a_damaged_length_costs_one_message_where_there_is_an_index(tmp_path):
    logged = messages(80)
    path = write_mcap(tmp_path / "drive.mcap", logged, in_chunk=20, checksums=False)
    altered(path, place_of(path, logged[30].data) - 22 - 8, b"\xff\x07")
    found, damage = salvage(path)
    assert found == logged[:30] + logged[31:]
    assert [(part.topic, part.log_ns) for part in damage if part.messages] == [("/point", logged[30].log_ns)]


@pytest.mark.parametrize("in_chunk", [0, 20])
def test_a_damaged_log_time_does_not_move_a_message(in_chunk, tmp_path):
    logged = messages(80)
    path = write_mcap(tmp_path / "drive.mcap", logged, in_chunk=in_chunk, checksums=False)
    altered(path, place_of(path, logged[30].data) - 16, (1 << 60).to_bytes(8, "little"))
    found, damage = salvage(path)
    assert found == logged[:30] + logged[31:]
    assert lost(damage) == 1
    with Bag(path, salvage=True) as bag:
        assert bag.duration_s == (logged[-1].log_ns - START_NS) / 1e9


@pytest.mark.parametrize("kind", ["magic", "footer", "summary", "end"])
def test_a_damaged_frame_of_the_file_costs_no_message(kind, tmp_path):
    logged = messages(80)
    path = write_mcap(tmp_path / "drive.mcap", logged, "zstd")
    size = path.stat().st_size
    place = {"magic": 2, "footer": size - 30, "summary": size - 120, "end": size - 3}[kind]
    altered(path, place, b"\xee\xee")
    found, damage = salvage(path)
    assert found == logged
    assert damage
    assert lost(damage) == 0


def test_an_unknown_compression_is_told_of(tmp_path):
    logged = messages(80)
    path = write_mcap(tmp_path / "drive.mcap", logged, "zstd", checksums=False)
    altered(path, 0, path.read_bytes().replace(b"zstd", b"zstx"))
    with pytest.raises(BagError, match="'zstx'"), Bag(path) as bag:
        list(bag.messages())
    found, damage = salvage(path)
    assert found == []
    assert lost(damage) == len(logged)


def test_absurd_lengths_cost_no_memory(tmp_path):
    logged = messages(80)
    path = write_mcap(tmp_path / "drive.mcap", logged, "zstd", in_chunk=9, checksums=False)
    size = place_of(path, time_of(logged[9])) + 16  # of the chunk, decompressed
    altered(path, size, (1 << 40).to_bytes(8, "little"))
    with little_memory():
        found, damage = salvage(path)
    assert found == logged[:9] + logged[18:]
    assert damage


def test_a_chunk_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path):
    huge = BagMessage("/image", "sensor_msgs/msg/Image", START_NS, bytes(300_000_000))
    path = write_mcap(tmp_path / "drive.mcap", [huge], "zstd", summary=False, checksums=False)
    assert path.stat().st_size < 100_000
    altered(path, place_of(path, time_of(huge)) + 16, (1000).to_bytes(8, "little"))
    with little_memory(), pytest.raises(BagError, match="more than the expected 1000 bytes"):
        salvage(path)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_missing_file_of_a_split_recording_is_told_of_by_topic(storage, tmp_path):
    logged = messages(90)
    folder = split(tmp_path / "drive", logged, storage)
    sorted(folder.glob("drive_*"))[1].unlink()
    found, damage = salvage(folder)
    assert "drive_1" in reasons(damage)
    assert lost_by_topic(damage) == by_topic(logged) - by_topic(found)
    with pytest.raises(BagError, match=r"drive_1.*is missing"):
        Bag(folder)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
@pytest.mark.parametrize("metadata", ["missing", "no yaml", "no mapping", "empty", "half"])
def test_metadata_that_is_of_no_use_costs_no_message(metadata, storage, tmp_path):
    logged = messages(90)
    folder = split(tmp_path / "drive", logged, storage)
    path = folder / "metadata.yaml"
    text = path.read_text()
    wrong = {"no yaml": "a: [", "no mapping": "not: a bag", "empty": "", "half": text[: len(text) // 2]}
    path.unlink() if metadata == "missing" else path.write_text(wrong[metadata])
    found, damage = salvage(folder)
    assert in_any_order(found) == in_any_order(logged)
    assert "metadata.yaml" in reasons(damage)
    assert lost(damage) == 0


def test_metadata_that_contradicts_the_files_is_told_of(tmp_path):
    logged = messages(30)
    folder = write(tmp_path / "drive", logged)
    about = metadata_of(folder)
    about["topics_with_message_count"][1]["message_count"] += 4
    about["topics_with_message_count"][2]["message_count"] -= 3
    about["topics_with_message_count"].append({"topic_metadata": {"name": 7}, "message_count": -1})
    about["message_count"] += 1
    put_metadata(folder, about)
    found, damage = salvage(folder)
    assert found == logged
    assert {part.topic: part.messages for part in damage if part.messages} == {"/point": 4}
    assert "there are 10" in reasons(damage)
    assert "is missing" in reasons(damage)


def test_a_file_that_metadata_does_not_list_is_read_too(tmp_path):
    logged = messages(90)
    folder = split(tmp_path / "drive", logged, MCAP)
    about = metadata_of(folder)
    del about["relative_file_paths"][2]
    put_metadata(folder, about)
    found, damage = salvage(folder)
    assert in_any_order(found) == in_any_order(logged)
    assert "does not list drive_2.mcap" in reasons(damage)


@pytest.mark.parametrize("listed", [True, False])
def test_a_copy_in_another_storage_is_not_read_too(listed, tmp_path):
    logged = messages(30)
    folder = write(tmp_path / "drive", logged, SQLITE)
    shutil.copy(write(tmp_path / "copy", logged) / "copy.mcap", folder / "drive.mcap")
    if not listed:
        (folder / "metadata.yaml").unlink()
    found, damage = salvage(folder)
    assert found == logged
    assert "drive.mcap: not read, as drive.db3 is" in reasons(damage)


def test_a_damaged_compressed_message_costs_that_message(tmp_path):
    logged = messages(60)
    folder = write(tmp_path / "drive", logged, mode=CompressionMode.MESSAGE)
    path = folder / "drive.mcap"
    packed = [place for place in range(path.stat().st_size) if path.read_bytes()[place : place + 4] == ZSTD]
    altered(path, packed[30] + 4, b"\xff\xff\xff\xff")
    found, damage = salvage(folder)
    assert len(found) == len(logged) - 1
    assert [(part.topic, part.messages) for part in damage] == [(logged[30].topic, 1)]


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_damaged_compressed_file_gives_what_comes_before(storage, tmp_path):
    logged = messages(400)
    folder = write(tmp_path / "drive", logged, storage, mode=CompressionMode.FILE)
    path = next(folder.glob("*.zstd"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, damage = salvage(folder)
    assert 50 < len(found) < 350
    assert set(found) <= set(logged)
    assert len(found) + lost(damage) == len(logged)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_database_that_is_cut_off_gives_what_is_left(part, tmp_path):
    logged = messages(400)
    folder = write(tmp_path / "drive", logged, SQLITE)
    path = folder / "drive.db3"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    found, damage = salvage(folder)
    assert len(found) > (part - 0.05) * len(logged)
    assert set(found) <= set(logged)
    assert len(found) + lost(damage) == len(logged)
    assert "cut off" in reasons(damage)


def test_a_damaged_page_of_a_database_costs_the_messages_on_it(tmp_path):
    logged = messages(400)
    folder = write(tmp_path / "drive", logged, SQLITE)
    path = folder / "drive.db3"
    for page in (40, 90, 91, 150):
        altered(path, page * 4096, b"\xa5" * 4096)
    found, damage = salvage(folder)
    assert len(found) > 370
    assert set(found) <= set(logged)
    assert len(found) + lost(damage) == len(logged)


def test_a_database_whose_index_lacks_rows_gives_them_all(tmp_path):
    logged = messages(400)
    folder = write(tmp_path / "drive", logged, SQLITE)
    path = folder / "drive.db3"
    with sqlite3.connect(path) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name='timestamp_idx'").fetchone()
    altered(path, (root - 1) * 4096, bytes(4096))
    found, damage = salvage(folder)
    assert in_any_order(found) == in_any_order(logged)
    assert "index of log times" in reasons(damage)


def test_what_a_recorder_left_in_the_log_of_a_database_is_read(tmp_path):
    logged = messages(60)
    folder = write(tmp_path / "drive", logged[:40], SQLITE)
    source = sqlite3.connect(folder / "drive.db3")
    source.execute("PRAGMA journal_mode=WAL")
    with source:
        topics = {name: number for number, name in source.execute("SELECT id, name FROM topics")}
        for m in logged[40:]:
            row = (topics[m.topic], m.log_ns, m.data)
            source.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    copy = shutil.copytree(folder, tmp_path / "copy")  # as the disk is when the recorder is killed
    source.close()
    found, _ = salvage(copy / "drive.db3")
    assert in_any_order(found) == in_any_order(logged)


def test_any_damage_of_metadata_is_survived(tmp_path):
    logged = messages(30)
    folder = write(tmp_path / "drive", logged)
    path = folder / "metadata.yaml"
    for what, data in mutations(path.read_bytes(), 300, seed=6):
        path.write_bytes(data)
        found, damage = salvage(folder)
        assert found == logged, what
        assert "instead" not in reasons(damage), what


def test_where_nothing_can_be_read_one_line_says_why(tmp_path):
    (tmp_path / "empty.mcap").write_bytes(b"")
    (tmp_path / "noise.mcap").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "noise.db3").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    wanted = {
        "nothing": "no such bag", "empty.mcap": "is empty", "noise.mcap": "does not begin like an MCAP file",
        "noise.db3": "not a database", "text.txt": "is not a recording", "folder": "metadata.yaml is missing",
    }  # fmt: skip
    for name, reason in wanted.items():
        with pytest.raises(BagError, match=reason) as error:
            salvage(tmp_path / name)
        assert "\n" not in str(error.value)


CHUNKED, UNSUMMED = {"in_chunk": 10}, {"in_chunk": 10, "checksums": False}
MUTATED = {
    "mcap": partial(write_mcap, **UNSUMMED),
    "mcap, checksums": partial(write_mcap, **CHUNKED),
    "mcap, zstd": partial(write_mcap, compression="zstd", **UNSUMMED),
    "mcap, zstd, checksums": partial(write_mcap, compression="zstd", **CHUNKED),
    "mcap, no chunks": partial(write_mcap, in_chunk=0),
    "mcap, no summary": partial(write_mcap, summary=False, **CHUNKED),
}


MUTATED_COUNT = {"mcap": 1000, "mcap, zstd": 1000, "sqlite3": 1000}  # the others 300


@pytest.mark.parametrize("form", [*MUTATED, "sqlite3"])
def test_any_damage_is_survived_and_told_of(form, tmp_path):
    """No crash, no endless loop, no silent loss, and messages are as they were where a checksum can tell."""
    logged = messages(40, size=200)
    folder = write(tmp_path / "drive", logged, SQLITE if form == "sqlite3" else MCAP)
    path = folder / metadata_of(folder)["relative_file_paths"][0]
    if form in MUTATED:
        MUTATED[form](path, logged)
    whole, unreadable = path.read_bytes(), 0
    bytes_of = {(m.log_ns, m.data) for m in logged}
    assert salvage(folder) == (logged, [])
    for what, data in mutations(whole, MUTATED_COUNT.get(form, 300), seed=5):
        path.write_bytes(data)
        begin = time.monotonic()
        try:
            found, damage = salvage(folder)
        except BagError:
            unreadable += 1
            continue
        finally:
            assert time.monotonic() - begin < LIMIT_S, what
        assert len(found) + lost(damage) >= len(logged), what
        if "checksums" in form:
            assert {(m.log_ns, m.data) for m in found} <= bytes_of, what
    assert unreadable < 200  # cut off within the first chunk, or within the schema of a database
