"""sensor_msgs/PointCloud2 to frames, against rosbags' serializer and points put into bytes one by one."""

import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec import encode_points, parse_points
from perception_rt.codec.tensor import as_tensor
from perception_rt.types import CodecError

STORE = get_typestore(Stores.ROS2_KILTED)
TYPES = STORE.types
CLOUD = "sensor_msgs/msg/PointCloud2"
STAMP_NS = 1_700_000_000_123_456_789
CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}
SIZES = {code: struct.calcsize(letter) for code, letter in CODES.items()}
PLAIN = (("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("intensity", 12, 7, 1))


def message(
    data, fields=PLAIN, height=1, width=None, point_step=16, row_step=None, big=False, frame_id="lidar"
):
    stamp = TYPES["builtin_interfaces/msg/Time"](*divmod(STAMP_NS, 10**9))
    header = TYPES["std_msgs/msg/Header"](stamp, frame_id)
    data = np.frombuffer(bytes(data), np.uint8)
    if width is None:
        width = len(data) // point_step
    row_step = width * point_step if row_step is None else row_step
    described = [TYPES["sensor_msgs/msg/PointField"](*field) for field in fields]
    return TYPES[CLOUD](header, height, width, described, big, point_step, row_step, data, True)


def serialized(msg, little=True):
    return bytes(STORE.serialize_cdr(msg, CLOUD, little_endian=little))


def cloud(count, seed=0):
    return np.random.default_rng(seed).normal(0, 30, (count, 4)).astype(np.float32)


@st.composite
def layouts(draw):
    """Fields of a point in any order with gaps between them, and its size in bytes."""
    wanted = [(name, draw(st.sampled_from([7, 8])), 1) for name in "xyz"]
    if draw(st.booleans()):
        wanted.append((draw(st.sampled_from(["intensity", "reflectivity"])), draw(st.integers(1, 8)), 1))
    for name in draw(st.lists(st.sampled_from(["ring", "time", "t", "tag"]), unique=True)):
        wanted.append((name, draw(st.integers(1, 8)), draw(st.integers(1, 3))))
    fields, at = [], 0
    for name, datatype, count in draw(st.permutations(wanted)):
        at += draw(st.integers(0, 3))
        fields.append((name, at, datatype, count))
        at += SIZES[datatype] * count
    return fields, at + draw(st.integers(0, 3))


@st.composite
def clouds(draw):
    """(message, its points as a list of x y z intensity), every number written by the struct module."""
    fields, point_step = draw(layouts())
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    row_step = width * point_step + draw(st.integers(0, 5))
    big = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    data = bytearray(rng.bytes(height * row_step))
    points = []
    for row in range(height):
        for column in range(width):
            point = {"intensity": 0}
            for name, offset, datatype, _ in fields:
                if name in "xyz":
                    value = rng.choice(
                        [rng.normal(0, 50), np.nan, np.inf, -np.inf], p=[0.85, 0.05, 0.05, 0.05]
                    )
                elif name in ("intensity", "reflectivity"):
                    name, value = "intensity", rng.integers(0, 100)
                else:
                    continue
                value = float(np.float32(value)) if datatype >= 7 else int(value)
                order = ">" if big else "<"
                at = row * row_step + column * point_step + offset
                struct.pack_into(order + CODES[datatype], data, at, value)
                point[name] = value
            points.append([point[name] for name in ("x", "y", "z", "intensity")])
    if draw(st.booleans()):
        data = data[: len(data) - (row_step - width * point_step)]  # some leave out the last row's padding
    return message(data, fields, height, width, point_step, row_step, big), points


def bits(points):
    return np.ascontiguousarray(points).view(np.uint32)


@given(clouds(), st.sampled_from(["object", "little", "big"]))
@settings(max_examples=400, deadline=None)
def test_any_layout_gives_its_finite_points(case, form):
    msg, points = case
    frame = parse_points(msg if form == "object" else serialized(msg, form == "little")).decode()
    points = np.array(points, np.float32)
    finite = points[np.isfinite(points[:, :3]).all(axis=1)]
    assert frame.points.dtype == np.float32
    np.testing.assert_array_equal(frame.points, finite)
    assert frame.dropped == len(points) - len(finite)
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "lidar")


@given(clouds(), st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_truncated_bytes_are_an_error_that_names_a_field(case, little, data):
    raw = serialized(case[0], little)
    with pytest.raises(CodecError) as error:
        parse_points(raw[: data.draw(st.integers(0, len(raw) - 1))])
    assert error.value.field


@given(clouds(), st.booleans(), st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_bytes_never_raise_anything_else(case, little, data):
    raw = bytearray(serialized(case[0], little))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = parse_points(raw, max_bytes=1 << 20).decode()
    except CodecError:
        return
    assert np.isfinite(frame.points).all()


@pytest.mark.parametrize(
    ("height", "pad", "shared"), [(1, 0, True), (2, 0, True), (2, 4, False)], ids=["list", "rows", "padded"]
)
@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_x_y_z_intensity_are_a_read_only_view_into_the_message(height, pad, shared, buffer):
    points = cloud(6)
    width = 6 // height
    rows = np.pad(points.view(np.uint8).reshape(height, -1), ((0, 0), (0, pad)))
    raw = buffer(serialized(message(rows.tobytes(), height=height, width=width, row_step=16 * width + pad)))
    frame = parse_points(raw).decode()
    np.testing.assert_array_equal(frame.points, points)
    assert np.shares_memory(frame.points, np.frombuffer(raw, np.uint8)) == shared
    assert frame.points.flags.writeable != shared
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(as_tensor(frame.points).numpy(), points)


def test_view_at_an_odd_address_is_copied():
    raw = memoryview(b"?" + serialized(message(cloud(5).tobytes())))[1:]
    frame = parse_points(raw).decode()
    assert frame.points.flags.aligned
    np.testing.assert_array_equal(frame.points, cloud(5))


@pytest.mark.parametrize(
    ("fields", "point_step"),
    [
        ((*PLAIN, ("ring", 16, 4, 1), ("time", 18, 7, 1)), 22),
        ((*PLAIN[:3], ("intensity", 16, 7, 1), ("t", 20, 6, 1), ("reflectivity", 24, 4, 1)), 48),
        ((*PLAIN, ("tag", 16, 2, 1), ("line", 17, 2, 1), ("timestamp", 18, 8, 1)), 26),
        (PLAIN, 32),
        ((*PLAIN[:3], ("intensity", 12, 2, 1), ("return_type", 13, 2, 1), ("channel", 14, 4, 1)), 16),
        (PLAIN[:3], 12),
        (PLAIN[:3], 16),
    ],
    ids=["velodyne", "ouster", "livox", "pcl", "autoware", "xyz", "xyz padded"],
)
@pytest.mark.parametrize("big", [False, True])
def test_layouts_of_real_drivers(fields, point_step, big):
    points = cloud(1000)
    points[:, 3] = np.arange(1000) % 256
    order = ">" if big else "<"
    kinds = {name: (np.dtype(order + CODES[code]), offset) for name, offset, code, _ in fields}
    wire = np.frombuffer(bytearray(np.random.default_rng(1).bytes(1000 * point_step)), np.uint8)
    for column, name in enumerate(("x", "y", "z", "intensity")):
        if name in kinds:
            dtype, offset = kinds[name]
            np.ndarray(1000, dtype, wire, offset, point_step)[:] = points[:, column]
        else:
            points[:, column] = 0
    frame = parse_points(message(wire, fields, point_step=point_step, big=big)).decode()
    np.testing.assert_array_equal(frame.points, points)
    assert frame.dropped == 0


def test_dropping_keeps_the_order_and_counts():
    points = cloud(1000)
    points[10, 0], points[20, 1], points[30, 2] = np.nan, np.inf, -np.inf
    points[999] = np.nan
    frame = parse_points(serialized(message(points.tobytes()))).decode()
    assert frame.dropped == 4
    np.testing.assert_array_equal(frame.points, np.delete(points, [10, 20, 30, 999], axis=0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_intensity_that_is_no_number_becomes_0_and_the_point_stays(bad):
    points = cloud(5)
    points[2, 3] = bad
    frame = parse_points(message(points.tobytes())).decode()
    points[2, 3] = 0
    assert frame.dropped == 0
    np.testing.assert_array_equal(frame.points, points)


def test_float64_beyond_float32_is_dropped_without_a_warning():
    wire = np.array([[1, 2, 3], [1e300, 2, 3], [4, 5, 1e-300]])
    fields = [("x", 0, 8, 1), ("y", 8, 8, 1), ("z", 16, 8, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = parse_points(message(wire.tobytes(), fields, point_step=24)).decode()
    assert frame.dropped == 1
    np.testing.assert_array_equal(frame.points, [[1, 2, 3, 0], [4, 5, 0, 0]])


def test_intensity_is_preferred_to_reflectivity():
    wire = np.array([[1, 2, 3, 9, 7]], np.float32)
    fields = [*PLAIN[:3], ("reflectivity", 12, 7, 1), ("intensity", 16, 7, 1)]
    frame = parse_points(message(wire.tobytes(), fields, point_step=20)).decode()
    assert frame.points[0, 3] == 7


def test_count_0_means_1():
    fields = [(name, offset, datatype, 0) for name, offset, datatype, _ in PLAIN]
    np.testing.assert_array_equal(parse_points(message(cloud(3).tobytes(), fields)).decode().points, cloud(3))


@pytest.mark.parametrize(("height", "width"), [(1, 0), (0, 0), (0, 5), (64, 0)])
@pytest.mark.parametrize(("fields", "point_step"), [(PLAIN, 16), ((), 0)])
def test_a_cloud_of_no_points_is_a_frame(height, width, fields, point_step):
    msg = message(b"", fields, height, width, point_step)
    for source in (msg, serialized(msg), serialized(msg, little=False)):
        frame = parse_points(source).decode()
        assert (frame.points.shape, frame.dropped, frame.stamp_ns) == ((0, 4), 0, STAMP_NS)
        assert as_tensor(frame.points).shape == (0, 4)


def spoiled(place, **changes):
    names = ("name", "offset", "datatype", "count")
    field = dict(zip(names, PLAIN[place], strict=True)) | changes
    return (*PLAIN[:place], tuple(field.values()), *PLAIN[place + 1 :])


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("fields", {"fields": PLAIN[1:]}),
        ("fields", {"fields": ()}),
        ("fields", {"fields": spoiled(2, name="Z")}),
        ("fields", {"fields": (*PLAIN, ("x", 0, 7, 1))}),
        ("fields", {"fields": (*PLAIN, *((f"f{i}", 0, 7, 1) for i in range(200)))}),
        ("x.datatype", {"fields": spoiled(0, datatype=6)}),
        ("y.datatype", {"fields": spoiled(1, datatype=0)}),
        ("intensity.datatype", {"fields": spoiled(3, datatype=9)}),
        ("z.count", {"fields": spoiled(2, count=2)}),
        ("z.offset", {"fields": spoiled(2, offset=13)}),
        ("z.offset", {"fields": spoiled(2, offset=2**32 - 1)}),
        ("y.offset", {"fields": spoiled(1, offset=2)}),
        ("y.offset", {"fields": spoiled(1, offset=0)}),
        ("intensity.offset", {"fields": spoiled(3, offset=10, datatype=2)}),
        ("y.offset", {"fields": spoiled(0, datatype=8)}),
        ("point_step", {"point_step": 0, "width": 4}),
        ("intensity.offset", {"point_step": 15, "width": 4}),
        ("row_step", {"row_step": 47, "width": 3}),
        ("row_step", {"row_step": 0, "width": 3}),
        ("row_step", {"row_step": 4, "height": 2, "width": 1}),
        ("data", {"width": 5}),
        ("data", {"height": 2}),
        ("data", {"height": 2, "width": 1, "row_step": 49}),
        ("height, width, point_step, row_step", {"height": 2**32 - 1, "width": 2**28 - 1}),
        ("height, width, point_step, row_step", {"height": 2, "row_step": 2**32 - 1}),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_malformed_message_names_field_and_value(field, arguments, as_bytes):
    msg = message(cloud(4).tobytes(), **arguments)
    with pytest.raises(CodecError) as error:
        parse_points(serialized(msg) if as_bytes else msg)
    assert error.value.field == field
    assert field in str(error.value)


@pytest.mark.parametrize("row_step", [0, 3, 48, 50, 96, 2**32 - 1], ids=str)
def test_a_wrong_row_step_is_mended_where_the_length_shows_rows_without_padding(row_step):
    """Zero, points for bytes, a few bytes off, that of the whole cloud; 48 is right."""
    msg = message(cloud(6).tobytes(), height=2, width=3, row_step=row_step)
    for source in (msg, serialized(msg)):
        np.testing.assert_array_equal(parse_points(source).decode().points, cloud(6))


@pytest.mark.parametrize("case", ["zero", "width_not_bytes"])
def test_clouds_of_drivers_that_leave_row_step_wrong(shared_data, case):
    folder = shared_data.parent / "cases/clouds"
    frame = parse_points((folder / f"{case}.cdr").read_bytes()).decode()
    np.testing.assert_array_equal(frame.points, np.load(folder / "expected.npy"))


def test_fields_that_are_not_used_need_not_be_sound():
    fields = (*PLAIN, ("ring", 400, 99, 7), ("rgb", 0, 7, 1), ("rgb", 2, 7, 1))
    frame = parse_points(message(cloud(3).tobytes(), fields)).decode()
    np.testing.assert_array_equal(frame.points, cloud(3))


def test_limit_holds_for_the_decoded_size_too():
    msg = message(bytes(120), PLAIN[:3], point_step=12)
    parse_points(msg, max_bytes=160)
    with pytest.raises(CodecError, match="limit of 159 bytes"):
        parse_points(msg, max_bytes=159)


@pytest.mark.parametrize("source", [None, "text", object(), TYPES["builtin_interfaces/msg/Time"](0, 0)])
def test_other_objects_are_refused(source):
    with pytest.raises(CodecError, match="not a sensor_msgs/PointCloud2"):
        parse_points(source)


@given(st.integers(0, 9), st.text(max_size=9).filter(lambda text: "\0" not in text))
@settings(deadline=None)
def test_encode_points_equals_rosbags_serializer(count, frame_id):
    points = cloud(count)
    raw = encode_points(points, STAMP_NS, frame_id)
    assert raw == serialized(message(points.tobytes(), frame_id=frame_id))
    assert encode_points(np.asfortranarray(points), STAMP_NS, frame_id) == raw
    np.testing.assert_array_equal(parse_points(raw).decode().points, points)


def test_encode_points_says_whether_all_are_finite():
    points = cloud(4)
    points[1, 2] = np.nan
    expected = replace(message(points.tobytes()), is_dense=False)
    assert encode_points(points, STAMP_NS, "lidar") == serialized(expected)


@pytest.mark.parametrize("points", [np.zeros((2, 3), np.float32), np.zeros((2, 4)), np.zeros(4, np.float32)])
def test_what_is_no_cloud_is_not_encoded(points):
    with pytest.raises(CodecError, match="points="):
        encode_points(points, 0, "lidar")


def test_message_of_rclpy_agrees_with_its_bytes():
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    cloud_type = pytest.importorskip("sensor_msgs.msg").PointCloud2
    raw = encode_points(cloud(7), STAMP_NS, "lidar")
    msg = serialization.deserialize_message(raw, cloud_type)
    assert [field.name for field in msg.fields] == ["x", "y", "z", "intensity"]
    for source in (msg, serialization.serialize_message(msg)):
        frame = parse_points(source).decode()
        np.testing.assert_array_equal(frame.points, cloud(7))
        assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "lidar")


def test_recorded_clouds(shared_data):
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    with rosbag2.Reader(shared_data / "bags" / "kitti_city") as bag:
        connections = [c for c in bag.connections if c.topic == "/lidar/points"]
        clouds_seen = 0
        for _, _, raw in bag.messages(connections):
            msg = STORE.deserialize_cdr(raw, CLOUD)
            frame = parse_points(raw).decode()
            assert np.shares_memory(frame.points, np.frombuffer(raw, np.uint8))
            np.testing.assert_array_equal(frame.points.ravel(), msg.data.view(np.float32))
            np.testing.assert_array_equal(parse_points(msg).decode().points, frame.points)
            clouds_seen += 1
    assert clouds_seen == 24
