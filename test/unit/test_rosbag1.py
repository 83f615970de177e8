"""ROS 1 recordings: read as rosbags reads them, in the types of ROS 2; damage ends in a typed error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from perception_rt.codec.transforms import parse_transforms
from perception_rt.codec.vehicle import parse_odometry
from perception_rt.replay.bag import Bag, BagMessage, frame_of
from perception_rt.replay.batch import find_bags
from perception_rt.replay.message_types import typestore
from perception_rt.types import BagError
from test.mcap_forms import write_mcap
from test.mutations import mutations

S = 10**9
CHANGED = "sensor_msgs/msg/ChannelFloat32"
NOETIC = get_typestore(Stores.EMPTY)
NOETIC.register(
    {name: fields for name, fields in get_typestore(Stores.ROS1_NOETIC).fielddefs.items() if name != CHANGED}
)
for _kind, _fields in {
    "tf/msg/tfMessage": "geometry_msgs/TransformStamped[] transforms",
    "my_msgs/msg/Wheel": "Header header\nint64 id\nfloat32 speed",
    CHANGED: "std_msgs/Header header\nfloat64[] ranges\nstring name\nint32 removed",
}.items():
    NOETIC.register(get_types_from_msg(_fields, _kind))
T = NOETIC.types


def header(number: int, frame: str = "camera"):
    time = T["builtin_interfaces/msg/Time"](sec=1_700_000_000 + number, nanosec=number * 1000)
    return T["std_msgs/msg/Header"](seq=number + 77, stamp=time, frame_id=frame)


def made(number: int) -> list[tuple[str, str, object]]:
    """One message of each kind: topic, type, message."""
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8) + number
    move = T["geometry_msgs/msg/Vector3"](1.0, 2.0, float(number))
    turn = T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    transform = T["geometry_msgs/msg/TransformStamped"](
        header(number, "/odom"), "/base_link", T["geometry_msgs/msg/Transform"](move, turn)
    )
    return [
        (
            "camera/image_raw",
            "sensor_msgs/msg/Image",
            T["sensor_msgs/msg/Image"](header(number), 2, 3, "bgr8", 0, 9, pixels),
        ),
        ("/tf", "tf/msg/tfMessage", T["tf/msg/tfMessage"]([transform])),
        ("/wheel", "my_msgs/msg/Wheel", T["my_msgs/msg/Wheel"](header(number), number, 0.5)),
        (
            "/changed",
            CHANGED,
            T[CHANGED](header(number), np.ones(3), "name", 4),
        ),
    ]


def write(path: Path, count: int = 5, compression: str = "") -> Path:
    bag = Writer(path)
    if compression:
        bag.set_compression(getattr(Writer.CompressionFormat, compression))
    with bag:
        connections: dict = {}
        for number in range(count):
            for topic, kind, message in made(number):
                if topic not in connections:
                    connections[topic] = bag.add_connection(topic, kind, typestore=NOETIC)
                data = NOETIC.serialize_ros1(message, kind)
                bag.write(connections[topic], (1_700_000_000 + number) * S, data)
    return path


def of(path: Path) -> list[BagMessage]:
    with Bag(path) as bag:
        found = list(bag.messages())
        assert bag.damage == []
    return found


@pytest.mark.parametrize("compression", ["", "BZ2", "LZ4"])
def test_messages_are_those_of_rosbags_in_the_types_of_ros_2(tmp_path, compression):
    path = write(tmp_path / "drive.bag", compression=compression)
    messages = of(path)
    with AnyReader([path]) as reader:
        expected = [(c.topic, t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages()]
    assert [(m.topic.lstrip("/"), m.log_ns) for m in messages] == [(n.lstrip("/"), t) for n, t, _ in expected]
    image = next(m for m in messages if m.topic == "/camera/image_raw")
    frame = frame_of(image)
    assert (frame.stamp_ns, frame.frame_id) == (1_700_000_000 * S, "camera")
    assert frame.pixels.tobytes() == bytes(range(18))
    transform = parse_transforms([m for m in messages if m.topic == "/tf"][3].data)[0]
    assert (transform.parent, transform.child) == ("odom", "base_link")
    assert (transform.stamp_ns, transform.translation.tolist()) == (1_700_000_003 * S + 3000, [1, 2, 3])
    assert {m.message_type for m in messages if m.topic == "/tf"} == {"tf2_msgs/msg/TFMessage"}


def test_a_type_with_other_fields_keeps_those_of_the_same_name_and_an_unknown_type_all(tmp_path):
    messages = of(write(tmp_path / "drive.bag"))
    changed = next(m for m in messages if m.topic == "/changed")
    found = typestore().deserialize_cdr(changed.data, changed.message_type)
    assert (found.name, list(found.values)) == ("name", [])
    wheel = next(m for m in messages if m.topic == "/wheel")
    store = get_typestore(Stores.LATEST)
    store.register(get_types_from_msg("std_msgs/Header header\nint64 id\nfloat32 speed", wheel.message_type))
    found = store.deserialize_cdr(wheel.data, wheel.message_type)
    assert (found.id, found.speed, found.header.frame_id) == (0, 0.5, "camera")


def test_topics_ranges_and_folders_of_ros_1_bags(tmp_path):
    path = write(tmp_path / "drive.bag")
    assert find_bags([tmp_path]) == [path]
    with Bag(path) as bag:
        assert bag.topics["/tf"] == ("tf2_msgs/msg/TFMessage", 5)
        assert bag.duration_s == 4.0
        part = list(bag.messages(["/tf", "/wheel"], 1_700_000_001 * S, 1_700_000_003 * S))
    assert [(m.topic, m.log_ns // S) for m in part] == [
        (topic, 1_700_000_000 + number) for number in (1, 2) for topic in ("/tf", "/wheel")
    ]


def test_damaged_bags_end_in_a_typed_error_or_name_what_is_lost(tmp_path):
    data = write(tmp_path / "drive.bag", count=20, compression="BZ2").read_bytes()
    path, refused, lost = tmp_path / "broken.bag", 0, 0
    for _, broken in mutations(data, 300, 11):
        path.write_bytes(broken)
        try:
            with Bag(path, salvage=True) as bag:
                count = sum(1 for _ in bag.messages())
                assert count == 80 or bag.damage or count > 80 or broken == data or len(broken) == len(data)
                lost += count < 80
        except BagError:
            refused += 1
    assert refused > 20
    assert lost > 5


def test_a_bag_without_index_names_the_remedy(tmp_path):
    data = write(tmp_path / "drive.bag").read_bytes()
    at = data.index(b"index_pos=") + len(b"index_pos=")
    (tmp_path / "cut.bag").write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    with pytest.raises(BagError, match="rosbag reindex"):
        Bag(tmp_path / "cut.bag")


def test_a_chunk_that_unpacks_to_more_than_a_limit_is_lost(tmp_path, monkeypatch):
    path = write(tmp_path / "drive.bag", compression="BZ2")
    monkeypatch.setattr("perception_rt.replay.storage.rosbag1.MAX_BYTES", 100)
    with Bag(path, salvage=True) as bag:
        assert list(bag.messages()) == []
        assert "bz2: more than 100 bytes" in bag.damage[0].reason


def test_ros_1_messages_in_mcap_are_converted(tmp_path):
    kinds = {topic: (kind, message) for topic, kind, message in made(2)}
    kind, message = kinds["camera/image_raw"]
    data = NOETIC.serialize_ros1(message, kind).tobytes()
    definition = NOETIC.generate_msgdef(kind, ros_version=1)[0]
    logged = [BagMessage("/image", "sensor_msgs/Image", S, data)]
    path = write_mcap(
        tmp_path / "drive.mcap", logged, encoding="ros1", definitions={"sensor_msgs/Image": definition}
    )
    (found,) = of(path)
    assert found.message_type == kind
    assert frame_of(found).frame_id == "camera"


@pytest.mark.parametrize("encoding", ["protobuf", "json", "cbor"])
def test_another_encoding_is_named(tmp_path, encoding):
    logged = [BagMessage("/image", "foxglove.RawImage", S, b"{}")]
    path = write_mcap(tmp_path / "drive.mcap", logged, encoding=encoding)
    with Bag(path) as bag:
        assert bag.topics == {"/image": (f"foxglove.RawImage encoded as {encoding}", 1)}


def test_the_serialization_format_of_a_database_is_named(tmp_path):
    import sqlite3

    path = tmp_path / "drive.db3"
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
        "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
        "INSERT INTO topics VALUES (1, '/image', 'sensor_msgs/msg/Image', 'json');"
        "INSERT INTO messages VALUES (1, 1, 5, x'7b7d');"
    )
    database.close()
    with Bag(path) as bag:
        assert bag.topics == {"/image": ("sensor_msgs/msg/Image encoded as json", 1)}


def test_a_real_drive_is_that_of_rosbags(shared_data):
    path = shared_data / "bags" / "husky_test1.bag"
    with Bag(path) as bag, AnyReader([path]) as reader:
        assert {topic: count for topic, (_, count) in bag.topics.items()} == {
            "/imu/data": 11865,
            "/husky_velocity_controller/odom": 3952,
            "/fix": 989,
        }
        start_ns = bag.start_ns
        mine = list(bag.messages(None, start_ns, start_ns + 3 * S))
        theirs = list(reader.messages(start=start_ns, stop=start_ns + 3 * S))
        assert [(m.topic, m.log_ns) for m in mine] == [(c.topic, t) for c, t, _ in theirs]
        for message, (connection, _, raw) in zip(mine, theirs, strict=True):
            if message.topic != "/husky_velocity_controller/odom":
                continue
            reading, expected = parse_odometry(message.data), reader.deserialize(raw, connection.msgtype)
            stamp = expected.header.stamp
            assert reading.stamp_ns == stamp.sec * S + stamp.nanosec
            assert reading.speed == expected.twist.twist.linear.x
            assert reading.yaw_rate == expected.twist.twist.angular.z
