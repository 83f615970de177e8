"""sensor_msgs/CompressedImage (JPEG, PNG, WebP, TIFF) to frames.

OpenCV trusts what a stream claims: it allocates what a PNG chunk says is its length, decodes a progressive
JPEG as often as it has scans, and fills a truncated one with grey. So `check_header` walks the stream's own
bytes first, whatever the message's `format` says: that is free text, which drivers fill in many ways. Whether
a JPEG is whole shows when it is decoded.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from struct import error as struct_error
from struct import pack, unpack_from
from typing import Any, NamedTuple

import cv2
import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, message_header, message_octets
from perception_rt.codec.image import BAYER_TO_RGB, MAX_BYTES, to_8_bit, unused_bits
from perception_rt.types import CameraFrame, CodecError

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: as stored
_PNG_DECODED = {0: 1, 2: 3, 3: 4, 4: 4, 6: 4}  # and as OpenCV answers them
_PNG_CHUNKS = 1 << 14
"""Most chunks; libpng writes 8 kB in each, so that 128 MB fit."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Columns from, rows from, every so many columns, rows: the seven passes of an interlaced PNG."""
_DEFLATE_RATIO = 1032
"""Deflate's greatest: 258 bytes from two bits."""

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_HUFFMAN = {0xC0: 1, 0xC1: 1, 0xC2: 2}
"""Baseline, extended and progressive frames: bytes that decoding needs for each byte of the picture."""
_JPEG_SCAN = 0xDA
_JPEG_SEGMENTS = 1024
"""Segments and fill bytes looked at before the first scan; real headers have some tens."""
_JPEG_SCANS = 32
"""Most scans: each costs a pass over the whole picture. Encoders write ten for a progressive one."""

_SCAN = b"\0" + np.random.default_rng(0).integers(0, 255, 256, np.uint8).tobytes()
_JPEG_MORE = _SCAN + b"".join(bytes((0xFF, 0xD0 + n)) + _SCAN for n in range(8))
"""Scan data of no picture, then the same behind each restart mark."""
_MISSING = (128, 128, 128)  # what libjpeg shows where data is missing
# A scan's header, to the count of its components; within scan data 0xFF has other bytes behind it.
_SCAN_HEADER = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")

_WEBP_ANIMATED = 0x02
_TIFF_SIZE = ((256, 0), (257, 0), (258, 1), (277, 1))
"""Tags of a TIFF and what they are by default: width, height, bits of a sample, samples of a pixel."""
_TIFF_TAGS = 512
"""Most tags of a TIFF; real directories have some tens."""
_VIDEO = ("h264", "h265", "hevc", "av1", "vp8", "vp9", "ffmpeg", "mpeg")


class ImageHeader(NamedTuple):
    """What a stream says of its picture.

    Attributes:
        encoding: ``"jpeg"``, ``"png"``, ``"webp"`` or ``"tiff"``.
        height: rows, px.
        width: columns, px.
        decoded_bytes: what decoding allocates for the picture.
        least_bytes: that a stream of this size has.
        given_bytes: that it has.
    """

    encoding: str
    height: int
    width: int
    decoded_bytes: int
    least_bytes: int
    given_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """One picture of known size; make it with `parse_compressed`.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        frame_id: the optical frame of the camera.
        encoding: ``"jpeg"``, ``"png"``, ``"webp"`` or ``"tiff"``, as the data shows.
        height: rows, px.
        width: columns, px.
        data: (N,) uint8, read-only view into the message.
        pattern: of the Bayer mosaic that `format` names, as ``"rggb"``; empty for none.
        significant_bits: of 16-bit values.
    """

    stamp_ns: int
    frame_id: str
    encoding: str
    height: int
    width: int
    data: np.ndarray
    pattern: str = ""
    significant_bits: int = 16

    def decode(self) -> CameraFrame:
        """The pixels as (H, W, 3) uint8, blue green red; alpha is dropped, an EXIF orientation ignored.

        A Bayer mosaic is interpolated as that of a sensor_msgs/Image.

        Raises:
            CodecError: for a stream that OpenCV cannot decode, a JPEG that ends early, or values that are
                not of 8 or 16 bits.
        """
        data, end = _plain_png(self.data) if self.encoding == "png" else self.data, -1
        if self.encoding == "jpeg":
            end = _end_of_jpeg(data.data)
        ended = end < len(data)
        if not ended:  # a driver's fault, or a cut: what the picture shows tells them apart
            data = np.concatenate((data, np.frombuffer(_JPEG_END, np.uint8)))
        try:
            pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise CodecError("data", bytes(self.data[:16]), f"not decodable: {error.err}") from error
        size = (self.height, self.width)
        if pixels is None or pixels.shape[:2] != size:
            raise CodecError("data", bytes(self.data[:16]), f"not a decodable {self.encoding} of {size} px")
        if self.encoding == "jpeg":
            progressive = _jpeg_frame(data.data)[1]
            doubtful = progressive or not ended or np.all(pixels[-1, -1] == _MISSING[: pixels[-1, -1].size])
            if doubtful and _ends_early(data.data, end, progressive):
                raise CodecError("data", len(self.data), "bytes of a JPEG that ends before its picture does")
        if pixels.dtype not in (np.uint8, np.uint16):
            raise CodecError("data", str(pixels.dtype), "a measurement, not a picture of 8 or 16 bits")
        unused = unused_bits(pixels if pixels.dtype == np.uint16 else None, self.significant_bits)
        return CameraFrame(self._colours(pixels), True, self.stamp_ns, self.frame_id, unused)

    def _colours(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 BGR of what OpenCV decoded."""
        if self.pattern and pixels.ndim == 3 and (pixels[..., :1] == pixels[..., 1:3]).all():
            pixels = np.ascontiguousarray(pixels[..., 0])  # a mosaic, stored as a grey colour picture
        if self.pattern and pixels.ndim == 2 and min(pixels.shape) > 2:
            pixels = cv2.cvtColor(pixels, BAYER_TO_RGB[self.pattern])[..., ::-1]
        if pixels.dtype == np.uint16:
            pixels = to_8_bit(pixels, self.significant_bits)
        if pixels.ndim == 2:
            return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR) if pixels.shape[2] == 4 else pixels


def parse_compressed(source: Any, max_bytes: int = MAX_BYTES, significant_bits: int = 16) -> EncodedImage:
    """Check a sensor_msgs/CompressedImage and give a handle on it; nothing is decoded or copied.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        max_bytes: limit on the image as received and as decoded, bytes.
        significant_bits: of 16-bit values, counted from the right.

    Raises:
        CodecError: for a truncated message or stream, a stream of another kind, one made to cost more than
            its picture, or an image over the limit.
    """
    if isinstance(source, BYTES_LIKE):
        reader = CdrReader(source)
        stamp_ns, frame_id = reader.header()
        named, data = reader.string("format"), reader.octets("data")
    else:
        try:
            stamp_ns, frame_id = message_header(source)
            named, data = source.format, message_octets("data", source.data)
        except AttributeError as error:
            name = type(source).__name__
            raise CodecError("source", name, f"not a sensor_msgs/CompressedImage: {error}") from error
    if "compressedDepth" in named:
        raise CodecError("format", named, "a depth image, not a picture: give the topic of the colour image")
    if len(data) > max_bytes:
        raise CodecError("data", len(data), f"bytes, over the limit of {max_bytes}")
    header = check_header(data.data, max_bytes, named)
    first = named.partition(";")[0].strip()
    pattern = first[len("bayer_") : -1].rstrip("1") if first.startswith("bayer_") else ""
    return EncodedImage(
        stamp_ns,
        frame_id,
        header.encoding,
        header.height,
        header.width,
        data,
        pattern if pattern in BAYER_TO_RGB else "",
        significant_bits,
    )


def check_header(view: memoryview, max_bytes: int = MAX_BYTES, named: str = "") -> ImageHeader:
    """Check a whole stream before a decoder sees it, by its bytes alone; nothing is decoded or allocated.

    Args:
        view: (N,) bytes of the stream.
        max_bytes: limit on what decoding needs for the picture, bytes.
        named: the message's `format`, for the error.

    Raises:
        CodecError: no known format, truncated, larger than the limit, or made to cost more than its picture.
    """
    readers = {
        _JPEG_START: _jpeg_header,
        _PNG_START: _png_header,
        b"RIFF": _webp_header,
        b"II*\0": _tiff_header,
        b"MM\0*": _tiff_header,
    }
    read = next((read for start, read in readers.items() if view[: len(start)] == start), None)
    if read is None and (any(word in named.lower() for word in _VIDEO) or view[:4] == b"\0\0\0\1"):
        raise CodecError(
            "format",
            named,
            "a video stream, not single pictures: republish it with `ros2 run image_transport republish "
            "--ros-args -p in_transport:=ffmpeg -p out_transport:=raw`, or set the driver to JPEG",
        )
    if read is None:
        raise CodecError(
            "data", bytes(view[:16]), f"format is {named!r}, but no JPEG, PNG, WebP or TIFF starts so"
        )
    header = read(view)
    size = (header.height, header.width)
    if min(size) < 1:
        raise CodecError("height, width", size, "an empty image")
    if max(header.decoded_bytes, math.prod(size) * 3) > max_bytes:
        raise CodecError("height, width", size, f"over the limit of {max_bytes} bytes")
    if header.given_bytes < header.least_bytes:
        raise CodecError("data", header.given_bytes, f"bytes of pixels cannot hold {size} px")
    return header


# PNG (ISO/IEC 15948).


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and contents of every chunk of a PNG up to its end; CodecError where the end does not come."""
    at = len(_PNG_START)
    for _ in range(_PNG_CHUNKS):
        if at + 12 > len(view):
            break
        length, kind = unpack_from(">I4s", view, at)
        if at + 12 + length > len(view):
            break
        yield kind, view[at + 8 : at + 8 + length]
        if kind == b"IEND":
            return
        at += 12 + length
    else:
        raise CodecError("data", len(view), f"bytes of PNG in more than {_PNG_CHUNKS} chunks")
    raise CodecError("data", bytes(view[at : at + 12]), f"no whole chunk at byte {at} of {len(view)}")


def _png_header(view: memoryview) -> ImageHeader:
    packed, fields = 0, None
    for kind, body in _chunks(view):
        if fields is None:
            fields = _png_fields(kind, body)
        elif kind == b"IDAT":
            packed += len(body)
        elif kind in (b"IHDR", b"acTL"):
            raise CodecError("data", kind, "a PNG of several pictures")
    assert fields is not None  # the first chunk is one, or raised
    width, height, depth, colour, _ = fields
    decoded = width * height * _PNG_DECODED[colour] * (2 if depth == 16 else 1)
    return ImageHeader("png", height, width, decoded, _png_rows(*fields) // _DEFLATE_RATIO, packed)


def _png_fields(kind: bytes, body: memoryview) -> tuple[int, int, int, int, int]:
    """Width, height, depth, colour type and whether it is interlaced."""
    if kind != b"IHDR" or len(body) != 13:
        raise CodecError("data", kind, f"{len(body)} bytes: a PNG starts with IHDR of 13")
    width, height, depth, colour, compression, filtering, interlaced = unpack_from(">IIBBBBB", body)
    if depth not in (1, 2, 4, 8, 16) or colour not in _PNG_CHANNELS or compression or filtering:
        raise CodecError("data", bytes(body), "no PNG has such a header")
    return width, height, depth, colour, interlaced


def _png_rows(width: int, height: int, depth: int, colour: int, interlaced: int) -> int:
    """Bytes of all rows, each with the byte that names its filter."""
    bits = depth * _PNG_CHANNELS[colour]
    total = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _plain_png(data: np.ndarray) -> np.ndarray:
    """The same pixels in one chunk that is not compressed, and nothing else.

    libpng inflates any data after the last row, a thousand times the bytes received. This stops there, and
    takes no longer than OpenCV alone.

    Raises:
        CodecError: the pixels are damaged or too few.
    """
    kept, packed = {}, []
    for kind, body in _chunks(data.data):
        if kind == b"IDAT":
            packed.append(body)
        elif kind in (b"IHDR", b"PLTE", b"tRNS"):
            kept[kind] = bytes(body)
    wanted = _png_rows(*_png_fields(b"IHDR", memoryview(kept[b"IHDR"])))
    try:
        rows = zlib.decompressobj().decompress(b"".join(packed), wanted)
    except zlib.error as error:
        raise CodecError("data", bytes(data[:16]), f"not a decodable png: {error}") from error
    if len(rows) < wanted:
        raise CodecError("data", len(rows), f"not a decodable png: its pixels take {wanted} bytes")
    parts = [_PNG_START]
    for kind, content in (*kept.items(), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")):
        checksum = zlib.crc32(content, zlib.crc32(kind))
        parts += [pack(">I", len(content)), kind, content, pack(">I", checksum)]
    return np.frombuffer(b"".join(parts), np.uint8)


# JPEG (ITU-T T.81, annex B).


def _jpeg_header(view: memoryview) -> ImageHeader:
    header, _, start = _jpeg_frame(view)
    scans = bytes(view[start:])
    # No entropy-coded byte looks like a mark.
    count = scans.count(bytes([0xFF, _JPEG_SCAN]))
    if count > _JPEG_SCANS:
        raise CodecError("data", count, f"scans, over the limit of {_JPEG_SCANS}")
    return header._replace(given_bytes=len(scans))


def _jpeg_frame(view: memoryview) -> tuple[ImageHeader, bool, int]:
    """The picture's size, whether it is progressive, and where the first scan starts."""
    at, header, progressive = 2, None, False
    for _ in range(_JPEG_SEGMENTS):
        if at + 4 > len(view) or view[at] != 0xFF:
            break
        kind = view[at + 1]
        if kind == _JPEG_SCAN and header:
            return header, progressive, at
        if kind in _JPEG_FRAMES and at + 10 <= len(view):
            if header or kind not in _JPEG_HUFFMAN:
                raise CodecError("data", kind, "a JPEG of several frames, lossless or arithmetic")
            height, width, components = unpack_from(">HHB", view, at + 5)
            blocks = -(-height // 8) * -(-width // 8)  # of one bit or more
            decoded = height * width * components * _JPEG_HUFFMAN[kind]
            progressive = kind == 0xC2
            header = ImageHeader("jpeg", height, width, decoded, blocks // 8, 0)
        # 0xFF is a fill byte before a marker; all else has its length.
        at += 1 if kind == 0xFF else 2 + int.from_bytes(view[at + 2 : at + 4], "big")
    raise CodecError("data", bytes(view[at : at + 16]), f"no JPEG marker at byte {at} of {len(view)}")


def _end_of_jpeg(view: memoryview) -> int:
    """Where the end mark is, some drivers pad behind it; the length where there is none."""
    if view[-len(_JPEG_END) :] == _JPEG_END:
        return len(view) - len(_JPEG_END)
    start = _jpeg_frame(view)[2]
    found = bytes(view[start:]).rfind(_JPEG_END)
    return len(view) if found < 0 else start + found


def _ends_early(view: memoryview, end: int, progressive: bool) -> bool:
    """Whether data before the end mark would still belong to the picture: a scan that was cut.

    A decoder ignores what follows a complete scan, and takes it for the rest of one that is not. Pillow
    decodes, as OpenCV writes a line to the terminal for each such stream.
    """
    from PIL import Image

    if progressive and not _is_refined(bytes(view[:end])):
        return True
    shown = []
    for more in (b"", _JPEG_MORE):
        try:
            with Image.open(io.BytesIO(b"".join((view[:end], more, _JPEG_END)))) as picture:
                if not progressive:  # a cut scan lacks the blocks' means too: an eighth of the size shows it
                    picture.draft(None, (picture.width // 8, picture.height // 8))
                shown.append(picture.tobytes())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return False  # OpenCV decoded it
    return shown[0] != shown[1]


def _is_refined(stream: bytes) -> bool:
    """Whether a progressive JPEG has every bit of every coefficient (ITU-T T.81, annex G)."""
    left: dict[int, np.ndarray] = {}  # by component, the low bits that coefficients 0 to 63 still lack
    for scan in _SCAN_HEADER.finditer(stream):
        at = scan.end() + 2 * stream[scan.end() - 1]
        if at + 3 > len(stream):
            return False
        first, last, bits = stream[at : at + 3]
        for component in stream[scan.end() : at : 2]:
            left.setdefault(component, np.full(64, 255))[first : last + 1] = bits & 0xF
    return not any(lacks.any() for lacks in left.values())


# WebP (RFC 9649).


def _webp_header(view: memoryview) -> ImageHeader:
    whole = bytes(view[:30])
    if len(view) < 30 or whole[8:12] != b"WEBP" or 8 + int.from_bytes(whole[4:8], "little") > len(view):
        raise CodecError("data", whole[:16], f"{len(view)} bytes of RIFF: no whole WebP")
    kind, body = whole[12:16], whole[20:]
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (number & 0x3FFF for number in unpack_from("<HH", body, 6))
    elif kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X" and not body[0] & _WEBP_ANIMATED:
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    else:
        raise CodecError("data", whole, "an animation, or no WebP")
    return ImageHeader("webp", height, width, height * width * 4, 0, len(view))


# TIFF (revision 6.0, section 2).


def _tiff_header(view: memoryview) -> ImageHeader:
    """Of its first picture."""
    order = "<" if view[:2] == b"II" else ">"
    try:
        (directory,) = unpack_from(order + "I", view, 4)
        (tags,) = unpack_from(order + "H", view, directory)
        found = {}
        for at in range(directory + 2, directory + 2 + 12 * min(tags, _TIFF_TAGS), 12):
            tag, kind, count, value = unpack_from(order + "HHII", view, at)
            if kind == 3:  # two bytes, in place where they fit
                (value,) = unpack_from(order + "H", view, at + 8 if count <= 2 else value)
            found[tag] = value
    except struct_error as error:
        raise CodecError("data", len(view), f"bytes of a TIFF that is cut off: {error}") from error
    width, height, bits, samples = (found.get(tag, default) for tag, default in _TIFF_SIZE)
    return ImageHeader("tiff", height, width, height * width * samples * bits // 8, 0, len(view))
