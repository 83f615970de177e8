"""Reading and writing recordings of every form; the result is compared with rosbags' own reader."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.message_types import typestore
from perception_rt.types import BagError
from test.mcap_forms import write_mcap

START_NS = 1_700_000_000_000_000_000
POINT, IMAGE, STATIC = "geometry_msgs/msg/Point", "sensor_msgs/msg/Image", "tf2_msgs/msg/TFMessage"
TYPES = {"/tf_static": STATIC, "/point": POINT, "/image": IMAGE}
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def messages(count: int = 60, seed: int = 1, size: int = 3000) -> list[BagMessage]:
    """Messages of three topics in order of log time, of which some are logged at the same time."""
    rng = np.random.default_rng(seed)
    made = [BagMessage("/tf_static", STATIC, START_NS, b"\0\1\0\0" + bytes(8))]
    for number in range(count):
        topic = ("/point", "/image")[number % 3 == 0]
        data = b"\0\1\0\0" + rng.bytes(int(rng.integers(24, size)))
        made.append(BagMessage(topic, TYPES[topic], START_NS + number // 2 * 10_000_000, data))
    return made


def write(folder: Path, logged: list[BagMessage], storage: StoragePlugin = MCAP, **options) -> Path:
    """By rosbags, not by the writer that is tested; options: `mode` of compression, `version` of metadata."""
    writer = Writer(folder, version=options.get("version", 9), storage_plugin=storage)
    writer.set_compression(options.get("mode", CompressionMode.NONE), CompressionFormat.ZSTD)
    with writer:
        connections = {t: writer.add_connection(t, k, typestore=typestore()) for t, k in TYPES.items()}
        for message in logged:
            writer.write(connections[message.topic], message.log_ns, message.data)
    return folder


def read(path: Path, **how) -> list[BagMessage]:
    with Bag(path) as bag:
        found = list(bag.messages(**how))
        assert bag.damage == []
    return found


def as_rosbags_reads(path: Path) -> list[BagMessage]:
    with Reader(path) as reader:
        return [BagMessage(c.topic, c.msgtype, t, bytes(data)) for c, t, data in reader.messages()]


def in_any_order(found: Iterable[BagMessage]) -> list[tuple]:
    return sorted((m.log_ns, m.topic, m.message_type, m.data) for m in found)


def split(folder: Path, logged: list[BagMessage], storage: StoragePlugin, parts: int = 3) -> Path:
    """A bag of several files that overlap in time by a message, as rosbag2 splits them."""
    folder.mkdir()
    infos, names, bounds = [], [], np.linspace(0, len(logged), parts + 1).astype(int)
    pieces = [logged[a:b] for a, b in itertools.pairwise(bounds)]
    pieces[0][-1], pieces[1][0] = pieces[1][0], pieces[0][-1]
    for number, piece in enumerate(pieces):
        part = write(folder / f"part{number}", piece, storage)
        info = yaml.safe_load((part / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        name = f"{folder.name}_{number}{Path(info['relative_file_paths'][0]).suffix}"
        (part / info["relative_file_paths"][0]).rename(folder / name)
        shutil.rmtree(part)
        infos.append(info)
        names.append(name)
    whole = infos[0]
    whole["relative_file_paths"] = names
    whole["files"] = [{**info["files"][0], "path": name} for info, name in zip(infos, names, strict=True)]
    whole["message_count"] = len(logged)
    for number, topic in enumerate(whole["topics_with_message_count"]):
        topic["message_count"] = sum(i["topics_with_message_count"][number]["message_count"] for i in infos)
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": whole}))
    return folder


FORMS: dict[str, Callable[[Path, list[BagMessage]], Path]] = {
    "mcap": write,
    "mcap, chunks of zstd": lambda f, m: write(f, m, mode=CompressionMode.STORAGE),
    "mcap, messages of zstd": lambda f, m: write(f, m, mode=CompressionMode.MESSAGE),
    "mcap, file of zstd": lambda f, m: write(f, m, mode=CompressionMode.FILE),
    "mcap, metadata 8": lambda f, m: write(f, m, version=8),
    "sqlite3": lambda f, m: write(f, m, SQLITE),
    "sqlite3, messages of zstd": lambda f, m: write(f, m, SQLITE, mode=CompressionMode.MESSAGE),
    "sqlite3, file of zstd": lambda f, m: write(f, m, SQLITE, mode=CompressionMode.FILE),
    "sqlite3, metadata 8": lambda f, m: write(f, m, SQLITE, version=8),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_rosbags_reads_it(form, tmp_path):
    logged = messages()
    bag = FORMS[form](tmp_path / "drive", logged)
    found = read(bag)
    assert [m.log_ns for m in found] == sorted(m.log_ns for m in logged)
    assert in_any_order(found) == in_any_order(logged) == in_any_order(as_rosbags_reads(bag))
    with Bag(bag) as opened:
        counts = {t: sum(m.topic == t for m in logged) for t in TYPES}
        assert opened.topics == {topic: (kind, counts[topic]) for topic, kind in TYPES.items()}
        assert opened.duration_s == (logged[-1].log_ns - START_NS) / 1e9


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_split_files_are_one_recording_in_order_of_log_time(storage, tmp_path):
    logged = messages(90)
    found = read(split(tmp_path / "drive", logged, storage))
    assert [m.log_ns for m in found] == sorted(m.log_ns for m in logged)
    assert in_any_order(found) == in_any_order(logged)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_a_path_to_a_file_opens_that_file_alone(storage, tmp_path):
    logged = messages(90)
    folder = split(tmp_path / "drive", logged, storage)
    (folder / "metadata.yaml").unlink()
    found = [read(path) for path in sorted(folder.iterdir())]
    assert [len(part) for part in found] == [30, 30, 31]
    assert in_any_order(itertools.chain(*found)) == in_any_order(logged)
    shutil.copy(sorted(folder.iterdir())[0], tmp_path / sorted(folder.iterdir())[0].name)
    assert read(tmp_path / sorted(folder.iterdir())[0].name) == found[0]


@pytest.mark.parametrize("form", FORMS)
def test_topics_and_times_select(form, tmp_path):
    logged = messages()
    bag = FORMS[form](tmp_path / "drive", logged)
    begin, end = START_NS + 100_000_000, START_NS + 200_000_000
    expected = [m for m in logged if m.topic == "/image" and begin <= m.log_ns < end]
    assert len(expected) > 3
    assert in_any_order(read(bag, topics=["/image"], start_ns=begin, stop_ns=end)) == in_any_order(expected)
    assert read(bag, topics=[]) == []
    assert in_any_order(read(bag, stop_ns=begin)) == in_any_order([m for m in logged if m.log_ns < begin])


def test_a_seek_reads_only_what_is_asked_for(tmp_path, monkeypatch):
    logged = [
        BagMessage("/image", IMAGE, START_NS + number, b"\0\1\0\0" + bytes(1 << 20)) for number in range(24)
    ]
    bag = write(tmp_path / "drive", logged)
    sizes = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: sizes.append(size) or pread(file, size, at))
    assert len(read(bag, start_ns=START_NS + 20, stop_ns=START_NS + 22)) == 2
    assert sum(sizes) < 3 << 20


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lz4"},
        {"compression": "zstd", "checksums": False},
        {"in_chunk": 0},
        {"in_chunk": 0, "summary": False},
        {"summary": False},
        {"indexed": False},
        {"indexed": False, "summary": False, "compression": "lz4"},
    ],
    ids=str,
)
def test_every_form_of_mcap_is_read(options, tmp_path):
    logged = messages()
    path = write_mcap(tmp_path / "drive.mcap", logged, **options)
    found = read(path)
    assert [m.log_ns for m in found] == sorted(m.log_ns for m in logged)
    assert in_any_order(found) == in_any_order(logged) == in_any_order(as_rosbags_reads(path))
    begin = START_NS + 100_000_000
    assert in_any_order(read(path, start_ns=begin)) == in_any_order([m for m in logged if m.log_ns >= begin])


@pytest.mark.parametrize("options", [{}, {"summary": False}, {"in_chunk": 0, "summary": False}], ids=str)
def test_messages_that_were_written_out_of_order_come_in_order(options, tmp_path):
    logged = messages()
    shuffled = [logged[i] for i in np.random.default_rng(3).permutation(len(logged))]
    found = read(write_mcap(tmp_path / "drive.mcap", shuffled, **options))
    assert [m.log_ns for m in found] == sorted(m.log_ns for m in logged)
    assert in_any_order(found) == in_any_order(logged)


def test_unknown_types_pass_through(tmp_path):
    logged = [BagMessage("/odd", "their_msgs/msg/Odd", START_NS + size, bytes(size)) for size in range(9)]
    assert read(write_mcap(tmp_path / "drive.mcap", logged)) == logged


def written(folder: Path, logged: list[BagMessage]) -> Path:
    with BagWriter(folder) as writer:
        for message in logged:
            writer.write(message.topic, message.message_type, message.log_ns, message.data)
    return folder


def test_what_is_written_is_read_by_rosbags_too(tmp_path):
    logged = messages(300, size=30_000)  # several chunks
    bag = written(tmp_path / "out" / "bag", logged)
    assert in_any_order(read(bag)) == in_any_order(logged) == in_any_order(as_rosbags_reads(bag))
    with Reader(bag) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        assert all(c.msgdef.data for c in reader.connections)
    assert {qos.reliability for qos in offered.values()} == {QosReliability.RELIABLE}
    assert offered["/tf_static"].durability is QosDurability.TRANSIENT_LOCAL
    assert offered["/image"].durability is QosDurability.VOLATILE


def test_the_same_calls_write_the_same_bytes(tmp_path):
    bags = [written(tmp_path / run / "bag", messages()) for run in ("a", "b")]
    first, second = ({path.name: path.read_bytes() for path in bag.iterdir()} for bag in bags)
    assert first == second
    assert set(first) == {"bag_0.mcap", "metadata.yaml"}


def test_vision_msgs_are_those_of_everybody(tmp_path):
    # the hashes of the released vision_msgs 4.1: who has them accepts what is written here
    hashes = {
        "Detection2DArray": "214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
        "Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    }
    logged = [BagMessage(f"/{name}", f"vision_msgs/msg/{name}", START_NS, b"") for name in hashes]
    bag = written(tmp_path / "bag", logged)
    about = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    topics = [topic["topic_metadata"] for topic in about["topics_with_message_count"]]
    assert {t["name"][1:]: t["type_description_hash"].removeprefix("RIHS01_") for t in topics} == hashes


def test_a_bag_that_was_not_written_to_its_end_can_be_read(tmp_path):
    logged = messages()

    def interrupted() -> None:
        with BagWriter(tmp_path / "bag") as writer:
            for message in logged:
                writer.write(message.topic, message.message_type, message.log_ns, message.data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert in_any_order(read(tmp_path / "bag")) == in_any_order(logged)


def test_a_bag_without_messages_is_one(tmp_path):
    assert read(written(tmp_path / "bag", [])) == []


def test_what_cannot_be_written_is_said(tmp_path):
    written(tmp_path / "bag", messages(3))
    with pytest.raises(BagError, match="already exists"):
        BagWriter(tmp_path / "bag")
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="cannot be created"):
        BagWriter(tmp_path / "file" / "bag")
    with BagWriter(tmp_path / "other") as writer:
        writer.write("/point", POINT, 0, b"")
        with pytest.raises(BagError, match="'geometry_msgs/msg/Point' before"):
            writer.write("/point", IMAGE, 1, b"")
        with pytest.raises(BagError, match="'their_msgs/msg/Odd': unknown message type"):
            writer.write("/odd", "their_msgs/msg/Odd", 1, b"")
        with pytest.raises(BagError, match="log_ns=-1"):
            writer.write("/point", POINT, -1, b"")


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_another_thread_may_read(storage, tmp_path):
    logged = messages()
    with Bag(write(tmp_path / "drive", logged, storage)) as bag, ThreadPoolExecutor(1) as pool:
        assert in_any_order(pool.submit(list, bag.messages()).result()) == in_any_order(logged)


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_messages_of_unread_topics_cost_nothing_but_their_bytes_in_the_file(storage, tmp_path, monkeypatch):
    logged = messages(300)
    path = write(tmp_path / "bag", logged, storage)

    def refuse(*_: object) -> None:
        raise AssertionError("looked at every message of a chunk")

    monkeypatch.setattr("perception_rt.replay.storage.mcap.read_chunk", refuse)
    with Bag(path) as bag:
        assert list(bag.messages(["/image"])) == [m for m in logged if m.topic == "/image"]
        assert bag.topics["/point"][1] == sum(m.topic == "/point" for m in logged)
        if storage is SQLITE:
            (file,) = bag._files
            assert len(file._table) == 1
        else:
            with pytest.raises(AssertionError, match="every message"):
                list(bag.messages())


@pytest.mark.parametrize("storage", [MCAP, SQLITE])
def test_files_unpacked_or_packed_by_hand_are_read(storage, tmp_path):
    logged = messages()
    packed = write(tmp_path / "packed", logged, storage, mode=CompressionMode.FILE)
    (file,) = packed.glob("*.zstd")
    file.with_suffix("").write_bytes(zstd.decompress(file.read_bytes()))
    file.unlink()
    assert read(packed) == logged
    plain = write(tmp_path / "plain", logged, storage)
    file = next(path for path in plain.iterdir() if path.suffix != ".yaml")
    file.with_name(f"{file.name}.zst").write_bytes(zstd.compress(file.read_bytes()))
    file.unlink()
    assert read(plain) == logged


def test_a_listed_name_that_no_file_can_have_is_missing(tmp_path):
    logged = messages()
    path = write(tmp_path / "bag", logged, MCAP)
    metadata = path / "metadata.yaml"
    name = next(file.name for file in path.iterdir() if file != metadata)
    metadata.write_text(metadata.read_text().replace(f"- {name}", f"- {'a' * 300}.mcap\n  - {name}", 1))
    with pytest.raises(BagError, match="is missing"):
        Bag(path)
    with Bag(path, salvage=True) as bag:
        assert list(bag.messages()) == logged


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from(["", "lz4", "zstd"]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_one_topic_is_what_all_topics_have_of_it(seed, in_chunk, compression, checksums):
    logged = messages(40, seed, 60)
    with TemporaryDirectory() as folder:
        options = {"in_chunk": in_chunk, "compression": compression, "checksums": checksums}
        with Bag(write_mcap(Path(folder, "bag.mcap"), logged, **options)) as bag:
            everything = list(bag.messages())
            for topic in TYPES:
                assert list(bag.messages([topic])) == [m for m in everything if m.topic == topic]


def test_where_index_and_chunk_disagree_everything_is_looked_at(tmp_path):
    logged = messages(60)
    path = write_mcap(tmp_path / "bag.mcap", logged, in_chunk=20, checksums=False)
    data = bytearray(path.read_bytes())
    image = next(m for m in logged if m.topic == "/image")
    at = data.index(image.data) - 22 - 9  # its record
    data[at + 9 : at + 11] = (99).to_bytes(2, "little")  # of another channel now
    path.write_bytes(bytes(data))
    with Bag(path, salvage=True) as bag:
        found = list(bag.messages(["/image"]))
        assert len(found) == sum(m.topic == "/image" for m in logged) - 1
        assert any("differs from the index" in damage.reason for damage in bag.damage)
