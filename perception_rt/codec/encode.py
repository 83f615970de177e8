"""Pictures and clouds to serialized sensor_msgs: what a publisher sends as bytes, copied once."""

from __future__ import annotations

import numpy as np

from perception_rt.codec.cdr import CdrWriter
from perception_rt.types import CodecError

_FLOAT32 = 7  # of sensor_msgs/PointField


def encode_image(pixels: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> bytes:
    """A serialized sensor_msgs/Image.

    Args:
        pixels: (H, W, 3) uint8; copied twice where it is not C-contiguous.
        encoding: ``"rgb8"`` or ``"bgr8"``, the order of the channels in `pixels`.
        stamp_ns: the header's stamp, ns.
        frame_id: the header's frame.

    Raises:
        CodecError: for other shapes, types or encodings.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise CodecError("pixels", (pixels.shape, str(pixels.dtype)), "must be a non-empty (H, W, 3) uint8")
    if encoding not in ("rgb8", "bgr8"):
        raise CodecError("encoding", encoding, "must be rgb8 or bgr8")
    height, width, _ = pixels.shape
    writer = CdrWriter()
    writer.header(stamp_ns, frame_id)
    writer.scalars("I", height, width)
    writer.string(encoding)
    writer.scalars("B", 0)
    writer.scalars("I", 3 * width)
    return writer.bytes_with(np.ascontiguousarray(pixels))


def encode_compressed(data: bytes | np.ndarray, format_: str, stamp_ns: int, frame_id: str) -> bytes:
    """A serialized sensor_msgs/CompressedImage.

    Args:
        data: the JPEG or PNG stream, as of ``cv2.imencode``.
        format_: ``"jpeg"`` or ``"png"``.
        stamp_ns: the header's stamp, ns.
        frame_id: the header's frame.
    """
    writer = CdrWriter()
    writer.header(stamp_ns, frame_id)
    writer.string(format_)
    return writer.bytes_with(data)


def encode_points(points: np.ndarray, stamp_ns: int, frame_id: str) -> bytes:
    """A serialized sensor_msgs/PointCloud2: fields x y z intensity, 16 bytes a point, not organised.

    Args:
        points: (N, 4) float32, x y z in m and intensity; copied twice where it is not C-contiguous. Where all
            numbers are finite, the message says `is_dense`.
        stamp_ns: the header's stamp, ns.
        frame_id: the header's frame.

    Raises:
        CodecError: for other shapes or types.
    """
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 4:
        raise CodecError("points", (points.shape, str(points.dtype)), "must be (N, 4) float32")
    writer = CdrWriter()
    writer.header(stamp_ns, frame_id)
    writer.scalars("I", 1, len(points), 4)
    for place, name in enumerate(("x", "y", "z", "intensity")):
        writer.string(name)
        writer.scalars("I", 4 * place)
        writer.scalars("B", _FLOAT32)
        writer.scalars("I", 1)
    writer.scalars("B", 0)
    writer.scalars("I", 16, 16 * len(points))
    is_dense = bytes([bool(np.isfinite(points).all())])
    return writer.bytes_with(np.ascontiguousarray(points, "<f4"), after=is_dense)
