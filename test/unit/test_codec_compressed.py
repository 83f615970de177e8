"""sensor_msgs/CompressedImage to frames: whole streams decode, broken ones are errors, never grey."""

import array

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec import encode_compressed, parse_compressed
from perception_rt.types import CodecError

STORE = get_typestore(Stores.ROS2_JAZZY)
STAMP_NS = 1_700_000_000_123_456_789
SCENE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), (0, 0), 3)


def message(data, named="jpeg", frame_id="camera"):
    stamp = STORE.types["builtin_interfaces/msg/Time"](*divmod(STAMP_NS, 10**9))
    header = STORE.types["std_msgs/msg/Header"](stamp, frame_id)
    return STORE.types["sensor_msgs/msg/CompressedImage"](header, named, data)


def serialized(msg, little=True):
    return bytes(STORE.serialize_cdr(msg, "sensor_msgs/msg/CompressedImage", little_endian=little))


def encoded(suffix, pixels=SCENE, *flags):
    return cv2.imencode(suffix, pixels, flags)[1]


JPEG, PNG = encoded(".jpg"), encoded(".png")
PROGRESSIVE = encoded(".jpg", SCENE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


@pytest.mark.parametrize(
    "named", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", ""]
)
@pytest.mark.parametrize("form", ["object", "little", "big"])
@pytest.mark.parametrize("stream", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
def test_jpeg_decodes_whatever_its_format_is_called(named, form, stream):
    msg = message(stream, named)
    image = parse_compressed(msg if form == "object" else serialized(msg, form == "little"))
    frame = image.decode()
    assert (image.encoding, image.height, image.width) == ("jpeg", 48, 64)
    assert (frame.stamp_ns, frame.frame_id, frame.bgr) == (STAMP_NS, "camera", True)
    np.testing.assert_array_equal(frame.pixels, cv2.imdecode(stream, cv2.IMREAD_COLOR))
    assert np.abs(frame.pixels.astype(int) - SCENE).mean() < 3


GREY16 = (SCENE[..., 0].astype(np.uint16) << 8) + 200


@pytest.mark.parametrize(
    ("stored", "pixels"),
    [
        (SCENE, SCENE),
        (np.dstack([SCENE, SCENE[..., 0]]), SCENE),
        (SCENE[..., 0], np.repeat(SCENE[..., :1], 3, axis=2)),
        (SCENE.astype(np.uint16) * 257, SCENE),
        (GREY16, np.repeat(np.rint(GREY16 / 257).astype(np.uint8)[..., None], 3, axis=2)),
    ],
    ids=["bgr", "bgra", "mono8", "bgr16", "mono16"],
)
def test_png_of_any_depth(stored, pixels):
    image = parse_compressed(message(encoded(".png", stored), "16UC1; png compressed "))
    assert (image.encoding, image.height, image.width) == ("png", 48, 64)
    np.testing.assert_array_equal(image.decode().pixels, pixels)


def test_grey_jpeg_has_three_equal_channels():
    pixels = parse_compressed(message(encoded(".jpg", SCENE[..., 0]))).decode().pixels
    assert pixels.shape == (48, 64, 3)
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("stream", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
def test_stream_truncated_anywhere_is_an_error_and_quiet(stream, capfd):
    for end in range(len(stream)):
        with pytest.raises(CodecError) as error:
            parse_compressed(message(stream[:end]))
        assert error.value.field == "data"
    assert capfd.readouterr().err == ""


@given(st.sampled_from([JPEG, PROGRESSIVE, PNG]), st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_message_truncated_anywhere_is_an_error(stream, little, data):
    raw = serialized(message(stream), little)
    with pytest.raises(CodecError):
        parse_compressed(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.sampled_from([JPEG, PROGRESSIVE, PNG]), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_never_raise_anything_else(stream, data):
    raw = bytearray(serialized(message(stream)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = parse_compressed(raw, max_bytes=1 << 22)
        frame = image.decode()
    except CodecError:
        return
    assert frame.pixels.shape == (image.height, image.width, 3)


def test_damaged_png_is_an_error():
    broken = PNG.copy()
    broken[len(broken) // 2] ^= 0xFF
    with pytest.raises(CodecError, match="not a decodable png"):
        parse_compressed(message(broken)).decode()


def test_jpeg_padded_behind_its_end():
    padded = np.concatenate([JPEG, np.zeros(100, np.uint8)])
    np.testing.assert_array_equal(
        parse_compressed(message(padded)).decode().pixels, cv2.imdecode(JPEG, cv2.IMREAD_COLOR)
    )


def test_end_mark_of_an_embedded_thumbnail_does_not_count():
    thumbnail = encoded(".jpg", SCENE[:8, :8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail.tobytes()
    whole = JPEG[:2].tobytes() + segment + JPEG[2:].tobytes()
    image = parse_compressed(message(whole))
    assert (image.height, image.width) == (48, 64)
    assert image.decode().pixels.shape == (48, 64, 3)
    with pytest.raises(CodecError, match="without its end mark"):
        parse_compressed(message(whole[:-20]))


def test_size_that_would_fill_the_memory_is_refused_before_decoding():
    png, jpeg = PNG.copy(), JPEG.copy()
    png[16:24] = np.frombuffer((60_000).to_bytes(4, "big") * 2, np.uint8)
    frame_header = jpeg.tobytes().index(b"\xff\xc0")
    jpeg[frame_header + 5 : frame_header + 9] = 0xFF
    for stream in (png, jpeg):
        with pytest.raises(CodecError, match="over the limit") as error:
            parse_compressed(message(stream))
        assert error.value.field == "height, width"


def test_received_bytes_count_against_the_limit():
    with pytest.raises(CodecError, match="over the limit of 100") as error:
        parse_compressed(message(JPEG), max_bytes=100)
    assert error.value.field == "data"


def test_endless_header_is_refused():
    endless = np.full(1 << 20, 0xFF, np.uint8)
    endless[1] = 0xD8
    with pytest.raises(CodecError, match="no JPEG marker"):
        parse_compressed(message(endless))


def test_size_zero_is_refused():
    png = PNG.copy()
    png[16:24] = 0
    with pytest.raises(CodecError, match="empty"):
        parse_compressed(message(png))


@pytest.mark.parametrize(
    ("field", "data", "named"),
    [
        ("format", PNG, "16UC1; compressedDepth png"),
        ("data", np.zeros(0, np.uint8), "jpeg"),
        ("data", np.frombuffer(b"GIF89a" + bytes(50), np.uint8), "gif"),
        ("data", np.frombuffer(b"\x00\x00\x00\x01\x67" + bytes(50), np.uint8), "h264"),
        ("data", [1, 2, 3], "jpeg"),
    ],
)
def test_what_is_no_picture_names_the_field(field, data, named):
    with pytest.raises(CodecError) as error:
        parse_compressed(message(data, named))
    assert error.value.field == field


@pytest.mark.parametrize("source", [None, "text", STORE.types["builtin_interfaces/msg/Time"](0, 0)])
def test_other_objects_are_refused(source):
    with pytest.raises(CodecError, match="not a sensor_msgs/CompressedImage"):
        parse_compressed(source)


@pytest.mark.parametrize("make", [bytes, np.asarray, memoryview, lambda data: data[:, None]])
def test_encode_compressed_equals_rosbags_serializer(make):
    assert encode_compressed(make(JPEG), "jpeg", STAMP_NS, "camera") == serialized(message(JPEG))


def test_message_of_rclpy():
    msg = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is not installed").CompressedImage()
    msg.format, msg.data = "jpeg", array.array("B", JPEG.tobytes())
    np.testing.assert_array_equal(parse_compressed(msg).decode().pixels, cv2.imdecode(JPEG, cv2.IMREAD_COLOR))
