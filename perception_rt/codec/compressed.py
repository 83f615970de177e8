"""sensor_msgs/CompressedImage (JPEG, PNG) to frames.

OpenCV decodes a truncated JPEG to a picture that is grey from the break on, and trusts the size that a header
claims. So the end mark and the size are checked first, from the stream's own bytes, as is the kind of stream:
the message's `format` is free text that drivers fill in many ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, CdrReader, message_header, message_octets
from perception_rt.codec.image import MAX_BYTES, to_8_bit
from perception_rt.types import CameraFrame, CodecError

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_JPEG_SEGMENTS = 4096
"""Segments and fill bytes looked at before the first scan; real headers have some tens."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """One complete JPEG or PNG of known size; make it with `parse_compressed`.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        frame_id: the optical frame of the camera.
        encoding: ``"jpeg"`` or ``"png"``, as the data shows.
        height: rows, px.
        width: columns, px.
        data: (N,) uint8, read-only view into the message.
    """

    stamp_ns: int
    frame_id: str
    encoding: str
    height: int
    width: int
    data: np.ndarray

    def decode(self) -> CameraFrame:
        """The pixels as (H, W, 3) uint8, blue green red; alpha is dropped, an EXIF orientation ignored.

        Raises:
            CodecError: for a stream that OpenCV cannot decode.
        """
        try:
            pixels = cv2.imdecode(self.data, cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise CodecError("data", bytes(self.data[:16]), f"not decodable: {error.err}") from error
        size = (self.height, self.width)
        if pixels is None or pixels.shape[:2] != size:
            raise CodecError("data", bytes(self.data[:16]), f"not a decodable {self.encoding} of {size} px")
        if pixels.dtype == np.uint16:
            pixels = to_8_bit(pixels)
        if pixels.ndim == 2:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        elif pixels.shape[2] == 4:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR)
        return CameraFrame(pixels, True, self.stamp_ns, self.frame_id)


def parse_compressed(source: Any, max_bytes: int = MAX_BYTES) -> EncodedImage:
    """Check a sensor_msgs/CompressedImage and give a handle on it; nothing is decoded or copied.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        max_bytes: limit on the image as received and as decoded, bytes.

    Raises:
        CodecError: for a truncated message or stream, a stream that is neither JPEG nor PNG, or an image over
            the limit.
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
        raise CodecError("format", named, "a depth image, not a picture")
    if len(data) > max_bytes:
        raise CodecError("data", len(data), f"bytes, over the limit of {max_bytes}")
    encoding, height, width = _inspect(data.data, named)
    if min(height, width) < 1:
        raise CodecError("height, width", (height, width), "an empty image")
    if height * width * 3 > max_bytes:
        raise CodecError("height, width", (height, width), f"over the limit of {max_bytes} bytes")
    return EncodedImage(stamp_ns, frame_id, encoding, height, width, data)


def _inspect(view: memoryview, named: str) -> tuple[str, int, int]:
    """Kind, height and width of a stream that has its end."""
    if view[: len(_JPEG_START)] == _JPEG_START:
        encoding, end = "jpeg", _JPEG_END
        height, width, start = _jpeg_size(view)
    elif view[: len(_PNG_START)] == _PNG_START:
        encoding, end, start = "png", _PNG_END, len(_PNG_START) + 8
        width = int.from_bytes(view[start - 8 : start - 4], "big")
        height = int.from_bytes(view[start - 4 : start], "big")
    else:
        raise CodecError("data", bytes(view[:16]), f"format is {named!r}, but no JPEG or PNG starts so")
    # Some drivers pad a JPEG behind its end, so that the mark need not be last.
    if view[-len(end) :] != end and end not in bytes(view[start:]):
        raise CodecError("data", bytes(view[-16:]), f"{len(view)} bytes of {encoding} without its end mark")
    return encoding, height, width


def _jpeg_size(view: memoryview) -> tuple[int, int, int]:
    """Height, width and where the first scan starts, from the marker segments (ITU-T T.81, annex B)."""
    at, size = 2, None
    for _ in range(_JPEG_SEGMENTS):
        if at + 4 > len(view) or view[at] != 0xFF:
            break
        kind = view[at + 1]
        if kind == _JPEG_SCAN and size:
            return *size, at
        if kind in _JPEG_FRAMES and at + 9 <= len(view):
            size = int.from_bytes(view[at + 5 : at + 7], "big"), int.from_bytes(view[at + 7 : at + 9], "big")
        # 0xFF is a fill byte before a marker; all else has its length.
        at += 1 if kind == 0xFF else 2 + int.from_bytes(view[at + 2 : at + 4], "big")
    raise CodecError("data", bytes(view[at : at + 16]), f"no JPEG marker at byte {at} of {len(view)}")
