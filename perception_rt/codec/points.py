"""sensor_msgs/PointCloud2 of any layout to points x y z intensity.

Parsing checks the header and the layout and touches no point, so it is cheap enough for the thread that
receives; `RawCloud.decode` looks at the numbers. Where the points already are x y z intensity as float32 in
16 bytes, they stay where they are: a view into the message.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, MAX_BYTES, CdrReader, message_header, message_octets
from perception_rt.types import CodecError, LidarFrame

# sensor_msgs/PointField, INT8 to FLOAT64.
_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_FLOATS = (7, 8)
_INTENSITY_NAMES = ("intensity", "reflectivity")  # by preference; drivers that name both mean it so
_TIME_NAMES = ("t", "time", "timestamp", "time_offset", "offset_time", "time_stamp")  # as drivers call it
_UNITS = (1.0, 1e-3, 1e-6, 1e-9)
_SWEEP_S = 0.002, 1.0  # what the times of one cloud span
_MAX_FIELDS = 128
"""Fields looked at; real drivers name about ten."""
_POINT_BYTES = 16
_ALL_TRUE = np.uint32(0x01010101)
"""Four true bools, seen as one number."""


class Field(NamedTuple):
    """One sensor_msgs/PointField: a name, bytes from the point's start, a code of its type, how many."""

    name: str
    offset: int
    datatype: int
    count: int  # type: ignore[assignment]  # the name in sensor_msgs/PointField, and a method of tuple


class _Column(NamedTuple):
    """A field that is used: bytes from the point's start, and its type."""

    offset: int
    dtype: np.dtype


@dataclass(frozen=True, slots=True, eq=False)
class RawCloud:
    """One sensor_msgs/PointCloud2 whose layout was found sound; make it with `parse_points`.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        frame_id: the sensor's frame (REP 103: x forward, y left, z up).
        height: rows; 1 where the cloud is not organised.
        width: points per row.
        fields: what lies in a point.
        is_bigendian: byte order of the points.
        point_step: bytes from one point to the next.
        row_step: bytes from one row to the next, padding included; what the data's length shows where the
            message is wrong about it.
        data: (N,) uint8, read-only view into the message.
        timed: whether `decode` reads the time of each point.
    """

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    fields: tuple[Field, ...]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: np.ndarray
    timed: bool = False

    def decode(self) -> LidarFrame:
        """The points as (N, 4) float32 row by row, without those that have a NaN or infinite coordinate.

        A read-only view where the layout allows it and every number is finite. Intensity keeps the sensor's
        scale; it is 0 where the cloud has none and where it is not finite. `is_dense` is not trusted.

        Where `timed`, the times of the points are read too: from the first of the fields t, time, timestamp,
        time_offset, offset_time. They may be s, ms, µs or ns, which the span of a sweep tells, after the
        stamp or absolute; of another clock, the first point counts as measured at the stamp.
        """
        points = _points(self)
        finite = np.isfinite(points)
        if finite.all():
            times = _times(self) if self.timed else None
            return LidarFrame(points, 0, self.stamp_ns, self.frame_id, times)
        finite[:, 3] = True
        used = finite.view(np.uint32).ravel() == _ALL_TRUE
        kept = points.compress(used, axis=0)
        intensity = kept[:, 3]
        intensity[~np.isfinite(intensity)] = 0
        times = _times(self, used) if self.timed else None
        return LidarFrame(kept, len(points) - len(kept), self.stamp_ns, self.frame_id, times)


def parse_points(source: object, max_bytes: int = MAX_BYTES, timed: bool = False) -> RawCloud:
    """Check a sensor_msgs/PointCloud2 and give a handle on it; no point is read or copied.

    Of the fields, x y z (float32 or float64) and intensity (any type; where absent, reflectivity) are used,
    and only these must be sound. A cloud without points is valid with any fields, as filters publish it.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        max_bytes: limit on the cloud as received and as decoded, bytes.
        timed: let `RawCloud.decode` read the time of each point, where there is one.

    Raises:
        CodecError: for truncated bytes, a missing or doubled field, a datatype, count or offset that cannot
            be, steps that are too small, short data, or a cloud over the limit.
    """
    cloud = _from_bytes(source) if isinstance(source, BYTES_LIKE) else _from_message(source)
    cloud = _with_row_step(cloud)
    _check(cloud, max_bytes)
    return replace(cloud, timed=True) if timed else cloud


def _from_bytes(source: bytes | bytearray | memoryview) -> RawCloud:
    reader = CdrReader(source)
    stamp_ns, frame_id = reader.header()
    height, width = reader.scalars("height, width", "I", 2)
    (count,) = reader.scalars("fields", "I")
    _check_field_count(count)
    fields = tuple(_field_from_bytes(reader) for _ in range(count))
    (is_bigendian,) = reader.scalars("is_bigendian", "B")
    point_step, row_step = reader.scalars("point_step, row_step", "I", 2)
    data = reader.octets("data")
    reader.scalars("is_dense", "B")
    return RawCloud(stamp_ns, frame_id, height, width, fields, bool(is_bigendian), point_step, row_step, data)


def _field_from_bytes(reader: CdrReader) -> Field:
    name = reader.string("fields.name")
    (offset,) = reader.scalars("fields.offset", "I")
    (datatype,) = reader.scalars("fields.datatype", "B")
    (count,) = reader.scalars("fields.count", "I")
    return Field(name, offset, datatype, count)


def _from_message(message: Any) -> RawCloud:
    try:
        _check_field_count(len(message.fields))
        return RawCloud(
            *message_header(message),
            message.height,
            message.width,
            tuple(Field(field.name, field.offset, field.datatype, field.count) for field in message.fields),
            bool(message.is_bigendian),
            message.point_step,
            message.row_step,
            message_octets("data", message.data),
        )
    except AttributeError as error:
        name = type(message).__name__
        raise CodecError("source", name, f"not a sensor_msgs/PointCloud2: {error}") from error


def _check_field_count(count: int) -> None:
    if count > _MAX_FIELDS:
        raise CodecError("fields", count, f"fields, over the limit of {_MAX_FIELDS}")


def _with_row_step(cloud: RawCloud) -> RawCloud:
    """The cloud with the `row_step` that it must have, where the data are as long as rows without padding.

    Drivers leave it at 0, give points or pixels for bytes, or keep that of an organised cloud.
    """
    row = cloud.width * cloud.point_step
    whole = len(cloud.data) == row * cloud.height
    return replace(cloud, row_step=row) if row and whole and cloud.row_step != row else cloud


def _check(cloud: RawCloud, max_bytes: int) -> None:
    height, width, row = cloud.height, cloud.width, cloud.width * cloud.point_step
    if not height * width:
        return
    if not cloud.point_step:
        raise CodecError("point_step", 0, "points of no bytes")
    _columns(cloud)
    if cloud.row_step < row:
        reason = f"{width} points of {cloud.point_step} bytes take {row} bytes"
        raise CodecError(
            "row_step", cloud.row_step, f"{reason}, and {len(cloud.data)} bytes are not {height} rows"
        )
    received = cloud.row_step * (height - 1) + row
    if max(received, height * width * _POINT_BYTES) > max_bytes:
        size = (height, width, cloud.point_step, cloud.row_step)
        raise CodecError("height, width, point_step, row_step", size, f"over the limit of {max_bytes} bytes")
    if len(cloud.data) < received:
        raise CodecError(
            "data", len(cloud.data), f"{height} rows of {width} points need at least {received} bytes"
        )


def _columns(cloud: RawCloud) -> list[_Column]:
    """Where x y z, and intensity if there is any, lie in a point.

    Raises:
        CodecError: where they cannot lie so.
    """
    named = {field.name: field for field in cloud.fields}
    intensity = next((name for name in _INTENSITY_NAMES if name in named), None)
    used = ("x", "y", "z", intensity) if intensity else ("x", "y", "z")
    columns = []
    for name in used:
        if name not in named:
            raise CodecError("fields", [field.name for field in cloud.fields], f"no field {name}")
        if sum(field.name == name for field in cloud.fields) > 1:
            raise CodecError("fields", [field.name for field in cloud.fields], f"more than one field {name}")
        columns.append(_column(named[name], cloud, _FLOATS if name in "xyz" else _DATATYPES))
    for (before, first), (after, second) in pairwise(sorted(zip(columns, used, strict=True), key=_offset)):
        if before.offset + before.dtype.itemsize > after.offset:
            raise CodecError(f"{second}.offset", after.offset, f"inside of {first}, at {before.offset}")
    return columns


def _offset(used: tuple[_Column, str]) -> int:
    return used[0].offset


def _column(field: Field, cloud: RawCloud, allowed: tuple[int, ...] | dict[int, str]) -> _Column:
    if field.datatype not in allowed:
        raise CodecError(f"{field.name}.datatype", field.datatype, f"must be one of {list(allowed)}")
    if field.count > 1:  # 0 means 1: the point cloud library has always read it so
        raise CodecError(f"{field.name}.count", field.count, "must be 1")
    dtype = np.dtype(_DATATYPES[field.datatype]).newbyteorder(">" if cloud.is_bigendian else "<")
    if field.offset + dtype.itemsize > cloud.point_step:
        reason = f"{dtype.itemsize} bytes there do not fit a point_step of {cloud.point_step}"
        raise CodecError(f"{field.name}.offset", field.offset, reason)
    return _Column(field.offset, dtype)


def _points(cloud: RawCloud) -> np.ndarray:
    """All points as (N, 4) float32, in place where they lie so."""
    count = cloud.height * cloud.width
    if not count:
        return np.zeros((0, 4), np.float32)
    columns = _columns(cloud)
    start, dtype = columns[0]
    block = _neighbours(columns)
    dense = cloud.point_step == _POINT_BYTES and cloud.row_step * cloud.height == count * _POINT_BYTES
    if dense and block == 4 and dtype.isnative:
        points = np.ndarray((count, 4), dtype, cloud.data, start)
        if points.flags.aligned:
            return points
    return _gathered(cloud, columns, block).reshape(count, 4)


def _times(cloud: RawCloud, used: np.ndarray | None = None) -> np.ndarray | None:
    """When each point was measured, (N,) float64 s after the stamp; None where no field tells it soundly.

    With `used`, only the points that it marks are looked at and told of.
    """
    named = {field.name: field for field in cloud.fields}
    name = next((name for name in _TIME_NAMES if name in named), None)
    if name is None or not cloud.height * cloud.width:
        return None
    try:
        column = _column(named[name], cloud, _DATATYPES)
    except CodecError:  # the points are sound, and all that is lost is the time within the sweep
        return None
    values = _field(cloud, *column).astype(np.float64).ravel()
    values = values if used is None else values[used]
    finite = values[np.isfinite(values)]
    later = finite[finite != 0]
    unit = _unit(later)
    if unit is not None and later.min() * unit > _SWEEP_S[1]:
        finite = later  # drivers leave an absolute time at 0 where nothing came back
    else:
        unit = _unit(finite)
    if unit is None:
        return None
    first, last = float(finite.min()), float(finite.max())
    values = np.where((values >= first) & (values <= last), values, first)
    stamp_s = cloud.stamp_ns / 1e9
    if max(abs(first), abs(last)) * unit <= _SWEEP_S[1]:
        return values * unit
    if abs(first * unit - stamp_s) <= _SWEEP_S[1]:
        return values * unit - stamp_s
    return (values - first) * unit


def _unit(times: np.ndarray) -> float | None:
    """The unit of times that span a sweep, s; None where there is none."""
    span = np.ptp(times) if len(times) else 0.0
    return next((unit for unit in _UNITS if _SWEEP_S[0] <= span * unit <= _SWEEP_S[1]), None)


def _neighbours(columns: list[_Column]) -> int:
    """How many columns from x on are float32 of one byte order, each right behind the one before."""
    start, dtype = columns[0]
    if dtype.itemsize != 4:
        return 0
    in_row = (column == (start + 4 * place, dtype) for place, column in enumerate(columns))
    return sum(takewhile(bool, in_row))


def _gathered(cloud: RawCloud, columns: list[_Column], block: int) -> np.ndarray:
    """The points copied, (height, width, 4) float32; the first `block` columns move as one, quicker."""
    points = np.zeros((cloud.height, cloud.width, 4), np.float32)
    if block:
        start, dtype = columns[0]
        item = f"V{4 * block}"
        np.ndarray(points.shape[:2], item, points, 0, points.strides[:2])[...] = _field(cloud, start, item)
        if not dtype.isnative:
            points.byteswap(inplace=True)
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 becomes infinite, and goes
        for column, (offset, dtype) in enumerate(columns[block:], block):
            points[..., column] = _field(cloud, offset, dtype)
    return points


def _field(cloud: RawCloud, offset: int, dtype: str | np.dtype) -> np.ndarray:
    """What lies at that offset of every point, (height, width): no copy."""
    strides = (cloud.row_step, cloud.point_step)
    return np.ndarray((cloud.height, cloud.width), dtype, cloud.data, offset, strides)
