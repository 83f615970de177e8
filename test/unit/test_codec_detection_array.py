"""Arrays of detections: the quick way to read them says what the general one says, for any bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.codec import detection_array
from perception_rt.codec.cdr import CdrWriter
from perception_rt.codec.detection_array import BOX_AT, read_array
from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.types import CodecError, Detections3D

TEXTS = st.one_of(
    st.sampled_from(["", "car", "pedestrian", "camera+lidar", "7"]),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=9),
)
COUNTS = st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 0, 2])  # of hypotheses


class Writer(CdrWriter):
    """Little endian or big, and strings that end with NUL or are of no bytes at all."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self._buffer[1] = order == "<"

    def scalars(self, code: str, *values: float) -> None:
        self.align(struct.calcsize(f"<{code}"))
        self._buffer += struct.pack(f"{self.order}{len(values)}{code}", *values)

    def header(self, stamp_ns: int, frame_id: str) -> None:
        self.scalars("i", stamp_ns // 10**9)
        self.scalars("I", stamp_ns % 10**9)
        self.string(frame_id)


@st.composite
def arrays(draw, box_size: int) -> bytes:
    writer = Writer(draw(st.sampled_from("<>")))
    frame = draw(TEXTS)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    writer.header(draw(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1)), frame)
    count = draw(st.integers(0, 6))
    writer.scalars("I", count)
    usual = draw(st.booleans())
    for _ in range(count):
        writer.header(int(rng.integers(2**60)), frame if usual else draw(TEXTS))
        hypotheses = 1 if usual else draw(COUNTS)
        writer.scalars("I", hypotheses)
        for _ in range(hypotheses):
            writer.string(draw(TEXTS))
            writer.scalars("d", *rng.normal(size=BOX_AT))
        writer.scalars("d", *rng.normal(size=box_size))
        writer.string(draw(TEXTS))
    return writer.bytes() + draw(st.sampled_from([b"", b"\0" * 7]))


def read(raw: bytes, box_size: int) -> object:
    """The rows as bytes and texts, or the error's words."""
    try:
        rows = read_array(raw, "array", box_size, lambda _: ())
    except CodecError as error:
        return str(error)
    return [
        (part.shape, part.dtype, part.tobytes()) if isinstance(part, np.ndarray) else part for part in rows
    ]


def assert_same(raw: bytes, box_size: int) -> None:
    quick = read(raw, box_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection_array, "_usual_rows", lambda *_: None)
        assert quick == read(raw, box_size)


@given(st.data(), st.sampled_from([5, 10]))
@settings(max_examples=200, deadline=None)
def test_both_ways_read_the_same(data, box_size):
    assert_same(data.draw(arrays(box_size)), box_size)


@given(st.data(), st.sampled_from([5, 10]))
@settings(max_examples=300, deadline=None)
def test_both_ways_find_the_same_wrong_with_damaged_bytes(data, box_size):
    raw = bytearray(data.draw(arrays(box_size)))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    for _ in range(data.draw(st.integers(0, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from([0, 1, 4, 128, 255]))
    assert_same(bytes(raw), box_size)


def test_every_cut_and_every_changed_byte_of_a_small_array():
    """Also those of lengths, which a random change seldom meets."""
    boxes = Detections3D(np.ones((2, 7), np.float32), np.ones(2, np.float32), np.array([0, 1]))
    raw = Detection3DEncoder(("car", "cyclist")).encode(boxes, 10**18, "lidar", ["12", ""])
    for place in range(len(raw)):
        assert_same(raw[:place], 10)
        for value in (0, 1, 9, 255):
            assert_same(raw[:place] + bytes([value]) + raw[place + 1 :], 10)


@pytest.mark.parametrize("count", [0, 1, 150])
def test_our_own_arrays_take_the_quick_way(count, monkeypatch):
    monkeypatch.delattr(detection_array, "_rows_of_bytes")
    boxes = Detections3D(
        np.ones((count, 7), np.float32), np.ones(count, np.float32), np.arange(count, dtype=np.int64) % 3
    )
    ids = [str(number) for number in range(count)]
    raw = Detection3DEncoder(("car", "pedestrian", "bus")).encode(boxes, 10**18, "lidar", ids)
    assert read_array(memoryview(raw), "array", 10, lambda _: ()).ids == ids
