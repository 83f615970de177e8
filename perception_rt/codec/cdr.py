"""CDR, the wire form of ROS 2 messages: a bounds-checked reader over a buffer and a small writer.

Plain CDR (XCDR version 1, DDSI-RTPS 2.5, section 10): a four-byte encapsulation header, then every primitive
aligned to its own size, counted from the end of that header.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from perception_rt.types import CodecError

BYTES_LIKE = (bytes, bytearray, memoryview)
MAX_BYTES = 1 << 28
"""Default limit on one image or cloud, received or decoded: 256 MiB, above any sensor of today."""
_HEADER_SIZE = 4
CDR_LITTLE_ENDIAN = b"\x00\x01\x00\x00"
"""The encapsulation header of what is written here."""
_BYTE_ORDERS = {b"\x00\x00": ">", b"\x00\x01": "<"}
_SIZES = {code: struct.calcsize(f"<{code}") for code in "bBHIifd"}


class CdrReader:
    """A cursor over one serialized message.

    Views that it hands out are read-only and share the buffer's memory.

    Raises:
        CodecError: for a buffer that ends before the field does, or an encapsulation other than plain CDR.
    """

    __slots__ = ("_order", "_payload", "_position")

    def __init__(self, buffer: bytes | bytearray | memoryview) -> None:
        view = memoryview(buffer).toreadonly().cast("B")
        header = bytes(view[:_HEADER_SIZE])
        if len(header) < _HEADER_SIZE:
            raise CodecError("encapsulation", header, f"a message starts with {_HEADER_SIZE} bytes")
        order = _BYTE_ORDERS.get(header[:2])
        if order is None:
            raise CodecError("encapsulation", header, "only plain CDR, big or little endian, is read")
        self._order = order
        self._payload = view[_HEADER_SIZE:]
        self._position = 0

    def _take(self, field: str, align: int, size: int) -> int:
        """Move past the padding and `size` bytes; where those bytes start."""
        start = (self._position + align - 1) & -align
        if start + size > len(self._payload):
            raise CodecError(
                field, size, f"bytes wanted at {start}, the message ends at {len(self._payload)}"
            )
        self._position = start + size
        return start

    def scalars(self, field: str, code: str, count: int = 1) -> tuple:
        """The next `count` numbers of one primitive type; `code` as in the struct module."""
        size = _SIZES[code]
        start = self._take(field, size, size * count)
        return struct.unpack_from(f"{self._order}{count}{code}", self._payload, start)

    def string(self, field: str) -> str:
        """The next string, without its terminator."""
        (length,) = self.scalars(field, "I")
        start = self._take(field, 1, length)
        raw = bytes(self._payload[start : start + length])
        if length and raw[-1]:
            raise CodecError(field, raw, "the string does not end with NUL")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError as error:
            raise CodecError(field, raw, "not UTF-8") from error

    def rest(self) -> tuple[str, memoryview, int]:
        """The struct module's byte order, the bytes after the encapsulation, how many of them were read."""
        return self._order, self._payload, self._position

    def octets(self, field: str) -> np.ndarray:
        """The next ``uint8[]``, (N,) uint8: a view, no copy."""
        (length,) = self.scalars(field, "I")
        start = self._take(field, 1, length)
        return np.frombuffer(self._payload[start : start + length], np.uint8)

    def doubles(self, field: str, count: int | None = None) -> np.ndarray:
        """The next ``float64[count]``, or ``float64[]`` where no count is given: (N,) float64, a view."""
        if count is None:
            (count,) = self.scalars(field, "I")
        if not count:
            return np.zeros(0)
        start = self._take(field, 8, 8 * count)
        return np.frombuffer(self._payload[start : start + 8 * count], f"{self._order}f8")

    def header(self) -> tuple[int, str]:
        """The next std_msgs/Header: stamp in ns and frame_id."""
        (sec,) = self.scalars("sec", "i")
        (nanosec,) = self.scalars("nanosec", "I")
        return sec * 1_000_000_000 + nanosec, self.string("frame_id")


class CdrWriter:
    """Builds one little-endian serialized message, field by field."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray(CDR_LITTLE_ENDIAN)

    def align(self, size: int) -> None:
        """Pad to the next multiple of `size`."""
        self._buffer += bytes(-(len(self._buffer) - _HEADER_SIZE) % size)

    def scalars(self, code: str, *values: float) -> None:
        """Append numbers of one primitive type; `code` as in the struct module."""
        self.align(_SIZES[code])
        self._buffer += struct.pack(f"<{len(values)}{code}", *values)

    def string(self, text: str) -> None:
        """Append a string with its length and terminator."""
        raw = text.encode()
        self.scalars("I", len(raw) + 1)
        self._buffer += raw + b"\x00"

    def raw(self, data: bytes) -> None:
        """Append bytes that are in CDR already, from where the last field ended."""
        self._buffer += data

    def header(self, stamp_ns: int, frame_id: str) -> None:
        """Append a std_msgs/Header."""
        self._buffer += stamp_bytes(stamp_ns)
        self.string(frame_id)

    def bytes_with(self, data: Any, after: bytes = b"") -> bytes:
        """The message with `data`, a contiguous buffer, as ``uint8[]``, then the bytes `after`: one copy."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")  # an empty view has no cast
        self.scalars("I", len(view))
        return b"".join((self._buffer, view, after))

    def bytes(self) -> bytes:
        """The message so far."""
        return bytes(self._buffer)


def stamp_bytes(stamp_ns: int) -> bytes:
    """A builtin_interfaces/Time, little endian.

    Raises:
        CodecError: for a stamp beyond the 32 bits that the seconds have.
    """
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    if not -(1 << 31) <= sec < 1 << 31:
        raise CodecError("stamp_ns", stamp_ns, "the seconds do not fit 32 bits")
    return struct.pack("<iI", sec, nanosec)


def message_header(message: Any) -> tuple[int, str]:
    """Stamp in ns and frame_id of a message object with a std_msgs/Header."""
    header = message.header
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec, header.frame_id


def message_octets(field: str, data: Any) -> np.ndarray:
    """A message object's ``uint8[]`` (bytes, array.array or NumPy) as a read-only (N,) uint8 view."""
    try:
        view = memoryview(data).toreadonly().cast("B")
    except TypeError as error:
        raise CodecError(field, type(data).__name__, "not a contiguous buffer of bytes") from error
    return np.frombuffer(view, np.uint8)
