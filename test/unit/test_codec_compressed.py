"""sensor_msgs/CompressedImage to frames: whole streams decode, broken ones are errors, never grey."""

import array
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from perception_rt.codec import encode_compressed, parse_compressed
from perception_rt.codec.compressed import check_header
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
WEBP, TIFF = encoded(".webp", SCENE, cv2.IMWRITE_WEBP_QUALITY, 100), encoded(".tiff")
TIFF16 = encoded(".tiff", SCENE.astype(np.uint16) * 257)


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


@pytest.mark.parametrize("stream", [PNG, WEBP, TIFF], ids=["png", "webp", "tiff"])
def test_stream_truncated_anywhere_is_an_error(stream):
    for end in range(0, len(stream), 1 + len(stream) // 500):
        with pytest.raises(CodecError) as error:
            parse_compressed(message(stream[:end])).decode()
        assert error.value.field in ("data", "height, width")


JPEGS = {
    "baseline": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart marks": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "444": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "optimized": (cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_QUALITY, 40),
    "grey": (),
    "grey bar below": (),
    "grey bar below, progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_mark_is_decoded_and_a_cut_one_is_refused(kind):
    """A decoder shows the missing rest as grey of 128, as a picture may do too."""
    pixels = cv2.resize(SCENE, (256, 192), interpolation=cv2.INTER_CUBIC)
    if kind == "grey":
        pixels = pixels[..., 0]
    if kind.startswith("grey bar"):
        pixels[100:] = 128
    stream = encoded(".jpg", pixels, *JPEGS[kind])
    whole = parse_compressed(message(stream)).decode().pixels
    np.testing.assert_array_equal(whole, cv2.imdecode(stream, cv2.IMREAD_COLOR))
    np.testing.assert_array_equal(parse_compressed(message(stream[:-2])).decode().pixels, whole)
    np.testing.assert_array_equal(parse_compressed(message(stream[:-1])).decode().pixels, whole)
    scans = stream.tobytes().index(b"\xff\xda") + 40
    for end in np.linspace(scans, len(stream) - 40, 12).astype(int):
        for cut in (stream[:end], np.append(stream[:end], [0xFF, 0xD9]).astype(np.uint8)):
            with pytest.raises(CodecError, match=r"ends before its picture|not a decodable|cannot hold"):
                parse_compressed(message(cut)).decode()


def test_real_pictures_are_whole(shared_data):
    files = sorted((shared_data / "images").glob("*.jpg"))
    for file in files:
        data = np.fromfile(file, np.uint8)
        pixels = parse_compressed(message(data)).decode().pixels
        assert pixels.shape[2] == 3
    assert len(files) >= 4


@pytest.mark.parametrize(
    ("stream", "encoding", "slack"), [(WEBP, "webp", 6), (TIFF, "tiff", 0), (TIFF16, "tiff", 0)]
)
def test_webp_and_tiff(stream, encoding, slack):
    image = parse_compressed(message(stream, "bgr8; whatever compressed"))
    assert (image.encoding, image.height, image.width) == (encoding, 48, 64)
    assert np.abs(image.decode().pixels.astype(int) - SCENE).max() <= slack


def test_a_tiff_of_measurements_is_refused():
    depth = encoded(".tiff", SCENE[..., 0].astype(np.float32))
    with pytest.raises(CodecError, match=r"float32.*not a picture"):
        parse_compressed(message(depth)).decode()


BAYER = {"rggb": (0, 1, 1, 2), "bggr": (2, 1, 1, 0), "gbrg": (1, 2, 0, 1), "grbg": (1, 0, 2, 1)}


def mosaic(pattern):
    """One colour for each of R, G, B as a sensor with this pattern sees it."""
    cell = np.array([(200, 100, 50)[channel] for channel in BAYER[pattern]], np.uint8).reshape(2, 2)
    return np.tile(cell, (24, 32))


@pytest.mark.parametrize("pattern", BAYER)
@pytest.mark.parametrize("kind", ["jpeg", "jpeg compressed bgr8", "png 8", "png 16"])
def test_a_compressed_mosaic_is_debayered(pattern, kind):
    raw = mosaic(pattern)
    bits = 16 if kind == "png 16" else 8
    if kind == "jpeg compressed bgr8":  # some publishers write the mosaic as a grey colour picture
        stream = encoded(".jpg", np.repeat(raw[..., None], 3, 2), cv2.IMWRITE_JPEG_QUALITY, 100)
    elif kind == "jpeg":
        stream = encoded(".jpg", raw, cv2.IMWRITE_JPEG_QUALITY, 100)
    else:
        stream = encoded(".png", raw if bits == 8 else raw.astype(np.uint16) * 257)
    named = f"bayer_{pattern}{bits}; {kind.split()[0]} compressed " + ("bgr8" if "bgr8" in kind else "")
    pixels = parse_compressed(message(stream, named)).decode().pixels
    assert np.abs(pixels[2:-2, 2:-2].astype(int) - (50, 100, 200)).max() <= 4


def test_a_picture_that_the_publisher_has_debayered_stays():
    pixels = parse_compressed(message(JPEG, "bayer_rggb8; jpeg compressed bgr8")).decode().pixels
    np.testing.assert_array_equal(pixels, cv2.imdecode(JPEG, cv2.IMREAD_COLOR))


def test_twelve_bits_on_the_right():
    stream = encoded(".png", (SCENE.astype(np.uint16) * 257) >> 4)
    assert parse_compressed(message(stream)).decode().unused_bits == 4
    frame = parse_compressed(message(stream), significant_bits=12).decode()
    assert frame.unused_bits == 0
    assert np.abs(frame.pixels.astype(int) - SCENE).max() <= 1


@given(st.sampled_from([JPEG, PROGRESSIVE, PNG, WEBP]), st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_message_truncated_anywhere_is_an_error(stream, little, data):
    raw = serialized(message(stream), little)
    with pytest.raises(CodecError):
        parse_compressed(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.sampled_from([JPEG, PROGRESSIVE, PNG, WEBP, TIFF]), st.data())
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
    with pytest.raises(CodecError, match="ends before its picture does"):
        parse_compressed(message(whole[:-60])).decode()


def test_size_that_would_fill_the_memory_is_refused_before_decoding():
    png, jpeg = PNG.copy(), JPEG.copy()
    png[16:24] = np.frombuffer((60_000).to_bytes(4, "big") * 2, np.uint8)
    frame_header = jpeg.tobytes().index(b"\xff\xc0")
    jpeg[frame_header + 5 : frame_header + 9] = 0xFF
    for stream in (png, jpeg):
        with pytest.raises(CodecError, match="over the limit") as error:
            parse_compressed(message(stream))
        assert error.value.field == "height, width"


def chunk(kind, body=b"", length=None):
    head = struct.pack(">I", len(body) if length is None else length)
    return head + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*middle, width=64, height=48, depth=8, colour=2, interlaced=0, rows=None):
    """A PNG of black pixels; `middle` goes between its header and its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    packed = zlib.compress(bytes(height * (1 + width * 3)) if rows is None else rows, 1)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + b"".join(middle) + chunk(b"IDAT", packed) + chunk(b"IEND")


def jpeg_with(kind, body, at=2):
    """The JPEG with one more segment."""
    data = JPEG.tobytes()
    return data[:at] + bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body + data[at:]


def of_frame(kind):
    return JPEG.tobytes().replace(b"\xff\xc0", bytes([0xFF, kind]), 1)


SCANS = (
    JPEG.tobytes()[:-2] + JPEG.tobytes()[JPEG.tobytes().index(b"\xff\xda") : -2] * 1000 + JPEG.tobytes()[-2:]
)
ANIMATED = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x3f\0\0\x2f\0\0"
HOSTILE = {
    "chunk of 2 GB": (png(chunk(b"IDAT", b"x", 2**31 - 1)), "no whole chunk at byte 33"),
    "endless chunks": (png(chunk(b"tEXt") * 20_000), "in more than 16384 chunks"),
    "animation": (png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), "several pictures"),
    "two headers": (png(chunk(b"IHDR", bytes(13))), "several pictures"),
    "chunk before the header": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"gAMA", bytes(4)) + png()[8:],
        "starts with IHDR",
    ),
    "no such depth": (png(depth=5), "no PNG has such a header"),
    "no such colours": (png(colour=5), "no PNG has such a header"),
    "pixels from nothing": (png(width=4600, height=4600, rows=b""), "cannot hold"),
    "16 bit over the limit": (png(width=6000, height=6000, depth=16, colour=6, rows=b""), "over the limit"),
    "scans": (SCANS, "1001: scans, over the limit of 32"),
    "comments": (jpeg_with(0xFE, b"").replace(b"\xff\xfe\0\2", b"\xff\xfe\0\2" * 2000, 1), "no JPEG marker"),
    "two frames": (jpeg_with(0xC0, bytes(15)), "several frames"),
    "lossless": (of_frame(0xC3), "lossless"),
    "hierarchical": (of_frame(0xC5), "several frames"),
    "arithmetic": (of_frame(0xC9), "arithmetic"),
    "JPEG from nothing": (JPEG.tobytes().replace(b"\0\x30\0\x40", b"\x20\0\x20\0", 1), "cannot hold"),
    "JPEG whose height comes later": (JPEG.tobytes().replace(b"\0\x30\0\x40", b"\0\0\0\x40", 1), "empty"),
    "moving WebP": (ANIMATED, "animation"),
    "cut WebP": (WEBP.tobytes()[:-1], "no whole WebP"),
    "WebP over the limit": (ANIMATED[:20] + b"\0\0\0\0" + b"\xff\x3f\0" * 2, "over the limit"),
    "another RIFF": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "no whole WebP"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stream_made_to_cost_more_than_its_picture_is_refused_unread(name):
    data, reason = HOSTILE[name]
    raw = encode_compressed(data, "", STAMP_NS, "camera")
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=reason):
            parse_compressed(raw)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(raw) + 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_what_surrounds_the_pixels_of_a_png_and_what_follows_them_is_not_inflated(kind):
    bomb = zlib.compress(bytes(1 << 24), 9)
    image = parse_compressed(message(np.frombuffer(png(chunk(kind, b"k\0\0" + bomb)), np.uint8)))
    assert not image.decode().pixels.any()
    image = parse_compressed(message(np.frombuffer(png(rows=bytes(1 << 24)), np.uint8)))
    tracemalloc.start()
    assert image.decode().pixels.shape == (48, 64, 3)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("depth", "colour"), [(1, 0), (2, 0), (4, 3), (8, 3), (8, 4), (16, 0), (16, 2), (16, 6)]
)
@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (9, 5), (48, 61)])
def test_png_of_every_layout_decodes_as_opencv_does(depth, colour, interlaced, height, width):
    rng = np.random.default_rng(depth)
    rows = rng.integers(0, 2, 1 << 15, np.uint8).tobytes()  # filters 0 and 1
    palette = chunk(b"PLTE", rng.integers(0, 256, 48, np.uint8).tobytes()) if colour == 3 else b""
    size = {"width": width, "height": height}
    data = np.frombuffer(
        png(palette, **size, depth=depth, colour=colour, interlaced=interlaced, rows=rows), np.uint8
    )
    found = parse_compressed(message(data)).decode().pixels
    plain = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if plain.dtype == np.uint16:
        plain = np.rint(plain / 257).astype(np.uint8)
    plain = np.repeat(plain[..., None], 3, axis=2) if plain.ndim == 2 else plain[..., :3]
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
    ("stream", "per_pixel"),
    [
        (png(colour=colour, rows=bytes(48 * (1 + 64 * channels))), decoded)
        for colour, channels, decoded in ((0, 1, 3), (2, 3, 3), (4, 2, 4), (6, 4, 4))
    ]
    + [(JPEG.tobytes(), 3), (of_frame(0xC1), 3)],
    ids=["grey", "rgb", "grey+alpha", "rgba", "baseline", "extended"],
)
def test_the_limit_is_of_the_decoded_size(stream, per_pixel):
    size = 48 * 64 * per_pixel
    assert parse_compressed(message(stream), max_bytes=size).decode().pixels.shape == (48, 64, 3)
    with pytest.raises(CodecError, match="limit"):
        parse_compressed(message(stream), max_bytes=size - 1).decode()


def test_fill_bytes_before_a_marker_of_a_jpeg():
    plain = JPEG.tobytes()
    filled = plain[:2] + b"\xff\xff\xff" + plain[2:]
    pictures = [parse_compressed(message(data)).decode().pixels for data in (plain, filled)]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_both_byte_orders(order):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9), np.uint8)
    short, long = 3, 4
    tags = [
        (256, short, 9), (257, short, 6), (258, short, 8), (259, short, 1), (262, short, 1),
        (273, long, 8 + 2 + 9 * 12 + 4), (277, short, 1), (278, short, 6), (279, long, picture.size),
    ]  # fmt: skip
    data = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8) + struct.pack(order + "H", 9)
    for tag, kind, value in tags:
        packed = struct.pack(order + "HH", value, 0) if kind == short else struct.pack(order + "I", value)
        data += struct.pack(order + "HHI", tag, kind, 1) + packed
    found = parse_compressed(message(data + bytes(4) + picture.tobytes(), "tiff")).decode().pixels
    np.testing.assert_array_equal(found, np.repeat(picture[..., None], 3, axis=2))


def test_a_tiff_may_end_with_its_directory():
    entries = [(256, 9), (257, 6), (258, 8), (277, 1)]
    tags = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    data = (
        struct.pack("<2sHI", b"II", 42, 8 + 54)
        + bytes(54)
        + struct.pack("<H", len(entries))
        + tags
        + bytes(4)
    )
    header = check_header(memoryview(data))
    assert (header.height, header.width, header.decoded_bytes) == (6, 9, 54)


def test_a_webp_with_a_reserved_flag_is_no_animation():
    still = bytearray(ANIMATED)
    still[20] = 1
    header = check_header(memoryview(still))
    assert (header.height, header.width) == (48, 64)


def test_a_jpeg_that_ends_with_a_segment_has_no_picture():
    with pytest.raises(CodecError, match="no JPEG marker at byte 8 of 8"):
        check_header(memoryview(b"\xff\xd8\xff\xe0\0\x04ab"))


def test_a_jpeg_needs_a_bit_for_each_block():
    picture = encoded(".jpg", np.zeros((76, 140, 3), np.uint8))
    assert check_header(memoryview(picture.tobytes())).least_bytes == 18 * 10 // 8


@pytest.mark.parametrize("quality", [50, 101], ids=["lossy", "lossless"])
@pytest.mark.parametrize("channels", [3, 4])
def test_webp_decodes(quality, channels):
    pixels = np.dstack([SCENE, SCENE[..., 0]])[..., :channels]
    data = encoded(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, quality)
    image = parse_compressed(message(data, "webp"))
    assert (image.encoding, image.height, image.width) == ("webp", 48, 64)
    expected = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)[..., :3]
    np.testing.assert_array_equal(image.decode().pixels, expected)


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
        ("format", np.frombuffer(b"\x00\x00\x00\x01\x67" + bytes(50), np.uint8), ""),
        ("format", np.frombuffer(bytes(50), np.uint8), "bgr8; h265"),
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
