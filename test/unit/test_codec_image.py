"""sensor_msgs/Image to frames, against rosbags' serializer, OpenCV and pixels computed by hand."""

import array
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec import ENCODINGS, encode_image, parse_image
from perception_rt.types import CameraFrame, CodecError

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
STAMP_NS = 1_700_000_000_123_456_789
BAYER = {  # OpenCV's own names by the first row's first two and the second row's
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}


def message(encoding, height, width, step, data, *, big=False, frame_id="camera"):
    stamp = TYPES["builtin_interfaces/msg/Time"](*divmod(STAMP_NS, 10**9))
    header = TYPES["std_msgs/msg/Header"](stamp, frame_id)
    return TYPES["sensor_msgs/msg/Image"](header, height, width, encoding, int(big), step, data)


def serialized(msg, little=True):
    return bytes(STORE.serialize_cdr(msg, "sensor_msgs/msg/Image", little_endian=little))


NAMED = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16", "16UC3": "bgr16",
         "16UC4": "bgra16", "yuy2": "yuyv", "yuv420": "i420"}  # fmt: skip
"""Names of the same layout."""
PLANAR = ("i420", "yv12")


def pixel_bytes(encoding):
    encoding = NAMED.get(encoding, encoding)
    if encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv"):
        return 2
    bits = 2 if encoding.endswith("16") else 1
    return {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}.get(encoding.rstrip("168"), 1) * bits


def expected(encoding, rows, width):
    """What cv_bridge makes of unpadded rows of bytes (16-bit ones little endian), as RGB."""
    encoding = NAMED.get(encoding, encoding)
    wide = rows.view("<u2") if encoding.endswith("16") else rows
    if encoding in PLANAR:
        height = len(rows) * 2 // 3
        planes = rows[height:].reshape(2, height // 2, width // 2).repeat(2, 1).repeat(2, 2)
        u, v = planes if encoding == "i420" else planes[::-1]
        pixels = np.zeros((height, width, 3), np.uint8)
        for column in range(0, width, 2):  # pairs share their chroma
            luma = rows[:height, column : column + 2]
            pair = np.stack([luma, np.stack([u[:, column], v[:, column]], 1)], 2)
            pixels[:, column : column + 2] = cv2.cvtColor(pair, cv2.COLOR_YUV2RGB_YUY2)
        return pixels
    if encoding == "nv24":
        height = len(rows) // 3
        chroma = rows[height:].reshape(height, width, 2)
        pixels = np.zeros((height, width, 3), np.uint8)
        for column in range(width):  # one column at a time, doubled into pairs that share their chroma
            luma, u, v = rows[:height, column], chroma[:, column, 0], chroma[:, column, 1]
            pair = np.stack([np.stack([luma, u], 1), np.stack([luma, v], 1)], 1)
            pixels[:, column] = cv2.cvtColor(pair, cv2.COLOR_YUV2RGB_YUY2)[:, 0]
        return pixels
    if encoding in ("nv12", "nv21"):
        return cv2.cvtColor(rows, cv2.COLOR_YUV2RGB_NV12 if encoding == "nv12" else cv2.COLOR_YUV2RGB_NV21)
    if encoding.startswith("bayer"):
        wide = cv2.cvtColor(wide, BAYER[encoding[6:10]])
    elif encoding.startswith("mono"):
        wide = np.repeat(wide[..., None], 3, axis=2)
    elif encoding in ("yuv422", "uyvy"):
        wide = cv2.cvtColor(rows.reshape(len(rows), width, 2), cv2.COLOR_YUV2RGB_UYVY)
    elif encoding in ("yuv422_yuy2", "yuyv"):
        wide = cv2.cvtColor(rows.reshape(len(rows), width, 2), cv2.COLOR_YUV2RGB_YUY2)
    else:
        wide = wide.reshape(len(rows), width, -1)[..., [2, 1, 0] if encoding.startswith("bgr") else [0, 1, 2]]
    return np.rint(wide / 257).astype(np.uint8) if encoding.endswith("16") else wide


def rgb(frame: CameraFrame):
    return frame.pixels[..., ::-1] if frame.bgr else frame.pixels


@st.composite
def images(draw):
    """(message, its rows without padding, as bytes in little endian)."""
    encoding = draw(st.sampled_from(ENCODINGS))
    name = NAMED.get(encoding, encoding)
    even = 2 if name.startswith("nv") or "yu" in name or "uy" in name or name in PLANAR else 1
    least = 3 if encoding.startswith("bayer") else 1
    height, width = (draw(st.integers(least, 9)) * even for _ in range(2))
    lines = height * {"nv12": 3, "nv21": 3, "nv24": 6, "i420": 3, "yv12": 3}.get(name, 2) // 2
    row = width * pixel_bytes(encoding)
    step = row + draw(st.integers(0, 4)) * (encoding != "nv24") * even
    padded = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (lines, step), np.uint8)
    rows = padded[:, :row].copy()
    big = draw(st.booleans())
    if big and name.endswith("16"):
        padded[:, :row] = rows.view("<u2").astype(">u2").view(np.uint8)
    if name in PLANAR:  # a row of chroma is half a row
        chroma = padded[height:].reshape(height, step // 2)
        rows[height:] = chroma[:, : width // 2].reshape(-1, width)
    data = padded.ravel()
    if draw(st.booleans()):  # some drivers leave out the last row's padding
        data = data[: len(data) - (step - row) // (2 if name in PLANAR else 1)]
    frame_id = draw(st.text(max_size=9).filter(lambda text: "\0" not in text))
    return message(encoding, height, width, step, data, big=big, frame_id=frame_id), rows


@given(images(), st.sampled_from(["object", "little", "big"]))
@settings(max_examples=400, deadline=None)
def test_any_layout_decodes_as_cv_bridge_would(case, form):
    msg, rows = case
    image = parse_image(msg if form == "object" else serialized(msg, form == "little"))
    frame = image.decode()
    assert (image.encoding, image.height, image.width) == (msg.encoding, msg.height, msg.width)
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, msg.header.frame_id)
    np.testing.assert_array_equal(rgb(frame), expected(msg.encoding, rows, msg.width))


@given(images(), st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_truncated_bytes_are_an_error_that_names_a_field(case, little, data):
    msg, _ = case
    raw = serialized(msg, little)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(CodecError) as error:
        parse_image(cut)
    assert error.value.field


@given(images(), st.booleans(), st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_bytes_never_raise_anything_else(case, little, data):
    raw = bytearray(serialized(case[0], little))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, min(len(raw), 80) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = parse_image(raw, max_bytes=1 << 20)
    except CodecError:
        return
    frame = image.decode()
    assert frame.pixels.shape == (image.height, image.width, 3)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("pad", [0, 5])
def test_rgb8_and_bgr8_are_read_only_views_into_the_message(encoding, pad):
    raw = bytearray(serialized(message(encoding, 4, 6, 18 + pad, np.arange(4 * (18 + pad), dtype=np.uint8))))
    frame = parse_image(raw).decode()
    assert np.shares_memory(frame.pixels, np.frombuffer(raw, np.uint8))
    assert frame.bgr == (encoding == "bgr8")
    assert frame.pixels.strides == (18 + pad, 3, 1)
    assert not frame.pixels.flags.writeable


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: array.array("B", b), np.frombuffer])
def test_object_with_any_buffer_as_data(make):
    pixels = np.arange(24, dtype=np.uint8)
    data = np.frombuffer(pixels.tobytes(), np.uint8) if make is np.frombuffer else make(pixels.tobytes())
    frame = parse_image(message("rgb8", 2, 4, 12, data)).decode()
    np.testing.assert_array_equal(frame.pixels, pixels.reshape(2, 4, 3))
    assert not frame.pixels.flags.writeable


def test_16_bits_scale_as_in_cv_bridge():
    values = np.array([[0, 128, 129, 257, 32767, 65535]], ">u2")
    frame = parse_image(message("mono16", 1, 6, 12, values.view(np.uint8).ravel(), big=True)).decode()
    assert frame.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 127, 255]


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "rgb16", "bgra16", "bayer_rggb16"])
@pytest.mark.parametrize("big", [False, True])
def test_significant_bits_of_16(encoding, big):
    values = np.full((4, 4 * pixel_bytes(encoding) // 2), 0x0800, ">u2" if big else "<u2")
    values[0, 0] = 0x0FFF
    step = values.strides[0]
    msg = message(encoding, 4, 4, step, values.view(np.uint8).ravel(), big=big)
    dark = parse_image(msg).decode()
    assert (dark.pixels.max() <= 16, dark.unused_bits) == (True, 4)
    frame = parse_image(msg, significant_bits=12).decode()
    assert (frame.pixels[2, 2].tolist(), frame.unused_bits) == ([128] * 3, 0)


def test_an_encoding_of_another_spelling_is_refused_with_the_right_one():
    with pytest.raises(CodecError, match=r"encoding='RGB8': no picture; did you mean rgb8\? taken are rgb8,"):
        parse_image(message("RGB8", 1, 1, 3, np.zeros(3, np.uint8)))


class FakeBridge:
    """cv_bridge is not on PyPI: what its Python module does, as far as it is called."""

    def encoding_to_dtype_with_channels(self, encoding):
        kinds = {"8SC1": ("int8", 1), "32FC1": ("float32", 1)}
        if encoding not in kinds:
            raise RuntimeError(f"Unrecognized image encoding [{encoding}]")
        return kinds[encoding]

    def imgmsg_to_cv2(self, image, desired):
        if image.encoding == "32FC1":
            raise RuntimeError("[32FC1] is not a color format. but [rgb8] is.")
        rows = np.ndarray((image.height, image.step), np.int8, image.data)[:, : image.width]
        return cv2.cvtColor((rows.astype(int) + 128).astype(np.uint8), cv2.COLOR_GRAY2RGB)


def test_other_encodings_go_through_cv_bridge_where_it_is(monkeypatch):
    bridge = SimpleNamespace(CvBridge=FakeBridge, CvBridgeError=RuntimeError)
    monkeypatch.setitem(sys.modules, "cv_bridge", bridge)
    values = np.array([[-128, 0, 127, 99], [0, 1, 2, 99]], np.int8)
    frame = parse_image(message("8SC1", 2, 3, 4, values.view(np.uint8).ravel())).decode()
    assert frame.pixels[..., 1].tolist() == [[0, 128, 255], [128, 129, 130]]
    with pytest.raises(CodecError, match="data=7"):
        parse_image(message("8SC1", 2, 4, 4, np.zeros(7, np.uint8)))
    with pytest.raises(CodecError, match="cv_bridge: Unrecognized"):
        parse_image(message("8XY1", 2, 4, 4, np.zeros(8, np.uint8)))
    with pytest.raises(CodecError, match="not a color format"):
        parse_image(message("32FC1", 1, 1, 4, np.zeros(4, np.uint8))).decode()


@pytest.mark.parametrize("pattern", BAYER)
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_pattern_names_the_first_two_rows(pattern, bits):
    colour = {"r": 200, "g": 100, "b": 50}
    cell = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(cell, (4, 4))
    if bits == 16:
        mosaic = (mosaic.astype("<u2") * 257).view(np.uint8)
    frame = parse_image(message(f"bayer_{pattern}{bits}", 8, 8, bits, mosaic.ravel())).decode()
    assert (rgb(frame)[2:-2, 2:-2] == (200, 100, 50)).all()


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("yuv422", [90, 81, 240, 81] * 2),
        ("uyvy", [90, 81, 240, 81] * 2),
        ("yuv422_yuy2", [81, 90, 81, 240] * 2),
        ("yuyv", [81, 90, 81, 240] * 2),
        ("nv12", [81] * 4 + [90, 240]),
        ("nv21", [81] * 4 + [240, 90]),
        ("nv24", [81] * 4 + [90, 240] * 4),
        ("i420", [81] * 4 + [90, 240]),
        ("yv12", [81] * 4 + [240, 90]),
    ],
)
def test_red_in_every_yuv_layout(encoding, data):
    step = 4 if len(data) == 8 else 2
    frame = parse_image(message(encoding, 2, 2, step, np.array(data, np.uint8))).decode()
    assert np.abs(rgb(frame).astype(int) - (255, 0, 0)).max() <= 2


def test_padded_nv24_has_chroma_rows_twice_as_long():
    rng = np.random.default_rng(0)
    luma, chroma = rng.integers(0, 256, (3, 5), np.uint8), rng.integers(0, 256, (3, 10), np.uint8)
    tight = np.concatenate([luma.ravel(), chroma.ravel()])
    padded = np.concatenate(
        [np.pad(luma, ((0, 0), (0, 2))).ravel(), np.pad(chroma, ((0, 0), (0, 4))).ravel()]
    )
    frames = [
        parse_image(message("nv24", 3, 5, step, data)).decode() for step, data in ((5, tight), (7, padded))
    ]
    np.testing.assert_array_equal(frames[0].pixels, frames[1].pixels)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("height", ("rgb8", 0, 4, 12, 48)),
        ("width", ("rgb8", 4, 0, 12, 48)),
        ("step", ("rgb8", 4, 4, 11, 48)),
        ("step", ("mono16", 4, 4, 7, 48)),
        ("data", ("rgb8", 4, 4, 12, 47)),
        ("data", ("rgb8", 4, 4, 12, 0)),
        ("data", ("rgb8", 4, 4, 20, 71)),
        ("data", ("nv12", 4, 4, 4, 23)),
        ("encoding", ("32FC1", 4, 4, 16, 64)),
        ("encoding", ("", 4, 4, 16, 64)),
        ("step", ("i420", 4, 4, 5, 30)),
        ("data", ("i420", 4, 4, 8, 45)),
        ("width", ("yuv422", 4, 3, 6, 24)),
        ("height", ("nv12", 3, 4, 4, 24)),
        ("height", ("bayer_rggb8", 2, 4, 4, 8)),
        ("height x width x step", ("rgb8", 20_000, 20_000, 60_000, 48)),
        ("height x width x step", ("mono8", 2, 4, 2**31, 48)),
        ("height x width x step", ("rgb8", 2**32 - 1, 2**30, 2**32 - 1, 48)),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_malformed_message_names_field_and_value(field, arguments, as_bytes):
    *layout, size = arguments
    msg = message(*layout, np.zeros(size, np.uint8))
    if as_bytes:
        msg = serialized(msg)
    with pytest.raises(CodecError) as error:
        parse_image(msg)
    assert error.value.field == field
    assert field in str(error.value)


def test_limit_holds_for_the_decoded_size_too():
    msg = message("mono8", 10, 10, 10, np.zeros(100, np.uint8))
    parse_image(msg, max_bytes=300)
    with pytest.raises(CodecError, match="limit of 299 bytes"):
        parse_image(msg, max_bytes=299)


@pytest.mark.parametrize("source", [None, "text", object(), TYPES["builtin_interfaces/msg/Time"](0, 0)])
def test_other_objects_are_refused(source):
    with pytest.raises(CodecError, match="not a sensor_msgs/Image"):
        parse_image(source)


def test_data_that_is_no_buffer_is_refused():
    with pytest.raises(CodecError, match="data='list'"):
        parse_image(message("mono8", 1, 4, 4, [1, 2, 3, 4]))


@pytest.mark.parametrize("head", [b"\x00\x03", b"\x00\x07", b"\x01\x00"])
def test_other_encapsulations_are_refused(head):
    raw = serialized(message("mono8", 1, 4, 4, np.zeros(4, np.uint8)))
    with pytest.raises(CodecError, match="encapsulation"):
        parse_image(head + raw[2:])


@given(st.integers(1, 9), st.integers(1, 9), st.text(max_size=9).filter(lambda text: "\0" not in text))
@settings(deadline=None)
def test_encode_image_equals_rosbags_serializer(height, width, frame_id):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    raw = encode_image(pixels, "bgr8", STAMP_NS, frame_id)
    assert raw == serialized(message("bgr8", height, width, 3 * width, pixels.ravel(), frame_id=frame_id))
    assert encode_image(pixels[:, ::-1], "bgr8", 0, "") == encode_image(pixels[:, ::-1].copy(), "bgr8", 0, "")


@pytest.mark.parametrize(
    ("pixels", "encoding", "stamp_ns", "field"),
    [
        (np.zeros((2, 2), np.uint8), "rgb8", 0, "pixels"),
        (np.zeros((2, 2, 3), np.float32), "rgb8", 0, "pixels"),
        (np.zeros((0, 2, 3), np.uint8), "rgb8", 0, "pixels"),
        (np.zeros((2, 2, 3), np.uint8), "mono8", 0, "encoding"),
        (np.zeros((2, 2, 3), np.uint8), "rgb8", 2**31 * 10**9, "stamp_ns"),
    ],
)
def test_what_cannot_be_encoded_is_refused(pixels, encoding, stamp_ns, field):
    with pytest.raises(CodecError) as error:
        encode_image(pixels, encoding, stamp_ns, "camera")
    assert error.value.field == field


def test_stamps_before_1970_survive():
    raw = encode_image(np.zeros((1, 1, 3), np.uint8), "rgb8", -1, "camera")
    assert parse_image(raw).stamp_ns == -1


def test_installed_cv_bridge_agrees():
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    sensor_msgs = pytest.importorskip("sensor_msgs.msg")
    bridge = cv_bridge.CvBridge()
    for encoding in ENCODINGS:
        if encoding.startswith("nv") or encoding in ("uyvy", "yuyv", *NAMED, *PLANAR):
            continue  # not converted by cv_bridge
        step = 8 * pixel_bytes(encoding)
        data = np.random.default_rng(0).integers(0, 256, (8, step), np.uint8)
        msg = sensor_msgs.Image(height=8, width=8, encoding=encoding, step=step)
        msg.data = array.array("B", data.tobytes())
        theirs = bridge.imgmsg_to_cv2(msg, "rgb8")
        np.testing.assert_array_equal(rgb(parse_image(msg).decode()), theirs, err_msg=encoding)


def test_message_of_rclpy_agrees_with_its_bytes():
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    msg = pytest.importorskip("sensor_msgs.msg").Image(height=2, width=4, encoding="rgb8", step=12)
    msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(STAMP_NS, 10**9)
    msg.header.frame_id = "camera"
    msg.data = array.array("B", range(24))
    raw = serialization.serialize_message(msg)
    from_object, from_bytes = parse_image(msg).decode(), parse_image(raw).decode()
    np.testing.assert_array_equal(from_object.pixels, from_bytes.pixels)
    assert (from_object.stamp_ns, from_bytes.frame_id) == (STAMP_NS, "camera")
    ours = encode_image(from_bytes.pixels, "rgb8", STAMP_NS, "camera")
    assert serialization.deserialize_message(ours, type(msg)) == msg


def test_recorded_frames(shared_data):
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    with rosbag2.Reader(shared_data / "bags" / "kitti_city") as bag:
        connections = [c for c in bag.connections if c.topic == "/camera/front/image_raw"]
        frames = 0
        for _, _, raw in bag.messages(connections):
            msg = STORE.deserialize_cdr(raw, "sensor_msgs/msg/Image")
            from_bytes, from_object = parse_image(raw).decode(), parse_image(msg).decode()
            assert from_bytes.bgr
            np.testing.assert_array_equal(from_bytes.pixels, from_object.pixels)
            np.testing.assert_array_equal(from_bytes.pixels.ravel(), msg.data)
            frames += 1
    assert frames == 24
