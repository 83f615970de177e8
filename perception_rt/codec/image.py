"""sensor_msgs/Image to frames, with cv_bridge's meaning of the encodings.

Parsing checks the header and the layout and touches no pixel, so it is cheap enough for the thread that
receives; `RawImage.decode` does the work, where there is any: rgb8 and bgr8 are views into the message.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from perception_rt.codec.cdr import BYTES_LIKE, MAX_BYTES, CdrReader, message_header, message_octets
from perception_rt.types import CameraFrame, CodecError


@dataclass(frozen=True, slots=True, eq=False)
class RawImage:
    """One sensor_msgs/Image whose layout was found sound; make it with `parse_image`.

    Attributes:
        stamp_ns: the sensor's stamp, ns.
        frame_id: the optical frame of the camera.
        encoding: name of the pixel layout, as in sensor_msgs/image_encodings.hpp.
        height: rows, px.
        width: columns, px.
        step: bytes from one row to the next, padding included.
        is_bigendian: byte order of 16-bit pixels.
        data: (N,) uint8, read-only view into the message.
        significant_bits: of 16-bit values, counted from the right.
    """

    stamp_ns: int
    frame_id: str
    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: bool
    data: np.ndarray
    significant_bits: int = 16

    def decode(self) -> CameraFrame:
        """The pixels as (H, W, 3) uint8.

        rgb8, bgr8 and 8UC3 are read-only views (strided where rows are padded); all else becomes new pixels.
        16-bit values are scaled by 255 / (2 ** significant_bits - 1) and rounded, as in cv_bridge for 16
        bits; what lies above becomes 255.

        Raises:
            CodecError: for an encoding that only cv_bridge knows, and cannot make a picture of.
        """
        layout = _layout(self.encoding)
        pixels = layout.unpack(self)
        wide = _native16(self, layout.pixel_bytes // 2) if layout.wide else None
        return CameraFrame(
            pixels, layout.bgr, self.stamp_ns, self.frame_id, unused_bits(wide, self.significant_bits)
        )


def parse_image(source: object, max_bytes: int = MAX_BYTES, significant_bits: int = 16) -> RawImage:
    """Check a sensor_msgs/Image and give a handle on it; no pixel is read or copied.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        max_bytes: limit on the image as received and as decoded, bytes.
        significant_bits: of 16-bit values, counted from the right; drivers put 10, 12 or 14 bits there.

    Raises:
        CodecError: for truncated bytes, zero size, an encoding or a step that does not fit, short data, or
            an image over the limit.
    """
    as_bytes = isinstance(source, BYTES_LIKE)
    image = _from_bytes(source, significant_bits) if as_bytes else _from_message(source, significant_bits)
    _check(image, max_bytes)
    return image


def _from_bytes(source: Any, significant_bits: int) -> RawImage:
    reader = CdrReader(source)
    stamp_ns, frame_id = reader.header()
    height, width = reader.scalars("height, width", "I", 2)
    encoding = reader.string("encoding")
    (is_bigendian,) = reader.scalars("is_bigendian", "B")
    (step,) = reader.scalars("step", "I")
    data = reader.octets("data")
    return RawImage(
        stamp_ns, frame_id, encoding, height, width, step, bool(is_bigendian), data, significant_bits
    )


def _from_message(message: Any, significant_bits: int) -> RawImage:
    try:
        return RawImage(
            *message_header(message),
            message.encoding,
            message.height,
            message.width,
            message.step,
            bool(message.is_bigendian),
            message_octets("data", message.data),
            significant_bits,
        )
    except AttributeError as error:
        raise CodecError("source", type(message).__name__, f"not a sensor_msgs/Image: {error}") from error


def _check(image: RawImage, max_bytes: int) -> None:
    layout = _layout(image.encoding)
    height, width, step = image.height, image.width, image.step
    for field, size, multiple in (
        ("height", height, layout.even_rows),
        ("width", width, layout.even_columns),
    ):
        if size < layout.least or size % multiple:
            rule = f"at least {layout.least}" if size < layout.least else f"a multiple of {multiple}"
            raise CodecError(field, size, f"{image.encoding} needs {rule}")
    row = width * layout.pixel_bytes
    if step < row or step % layout.planes_per_step:
        raise CodecError("step", step, f"{width} px of {image.encoding} take {row} bytes")
    rows = height * layout.rows_per_2 // 2
    received = step * rows - (step - row) // layout.planes_per_step
    if max(received, height * width * 3) > max_bytes:
        raise CodecError(
            "height x width x step", (height, width, step), f"over the limit of {max_bytes} bytes"
        )
    if len(image.data) < received:
        raise CodecError("data", len(image.data), f"{rows} rows of {step} bytes need at least {received}")


def _view(image: RawImage, *shape: int, dtype: str = "u1", offset: int = 0, step: int = 0) -> np.ndarray:
    """Rows of the message's data as an array of `shape`: no copy."""
    itemsize = np.dtype(dtype).itemsize
    strides = [step or image.step, itemsize]
    if len(shape) == 3:
        strides.insert(1, itemsize * shape[2])
    return np.ndarray(shape, dtype, image.data, offset, strides)


def _packed(image: RawImage) -> np.ndarray:
    return _view(image, image.height, image.width, 3)


def _colour(image: RawImage, *, code: int, channels: int) -> np.ndarray:
    shape = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)
    return cv2.cvtColor(_view(image, *shape), code)


def _native16(image: RawImage, channels: int = 1) -> np.ndarray:
    shape = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)
    wire = _view(image, *shape, dtype=">u2" if image.is_bigendian else "<u2")
    # An odd step or an odd place in the message leaves the values unaligned, which OpenCV does not take.
    return np.require(wire, np.uint16, ["ALIGNED"])


def _packed16(image: RawImage, *, channels: int) -> np.ndarray:
    pixels = to_8_bit(_native16(image, channels), image.significant_bits)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if channels == 1 else pixels[..., :3]


def _bayer16(image: RawImage, *, code: int) -> np.ndarray:
    return to_8_bit(cv2.cvtColor(_native16(image), code), image.significant_bits)


def _nv(image: RawImage, *, code: int) -> np.ndarray:
    return cv2.cvtColor(_view(image, image.height * 3 // 2, image.width), code)


def _planar420(image: RawImage, *, code: int) -> np.ndarray:
    """Luma, then two planes of half the width, height and step."""
    height, width, step = image.height, image.width, image.step
    if step == width:
        return cv2.cvtColor(_view(image, height * 3 // 2, width), code)
    luma = _view(image, height, width)
    chroma = _view(image, height, width // 2, offset=height * step, step=step // 2)
    return cv2.cvtColor(np.concatenate((luma, chroma.reshape(height // 2, width))), code)


def _nv24(image: RawImage) -> np.ndarray:
    """Each pixel has its own U and V: two equal luma samples make it a UYVY pair, of which one is kept."""
    luma = _view(image, image.height, image.width)
    chroma = _view(image, image.height, image.width, 2, offset=image.height * image.step, step=2 * image.step)
    pairs = np.stack((chroma[..., 0], luma, chroma[..., 1], luma), axis=-1)
    wide = cv2.cvtColor(pairs.reshape(image.height, 2 * image.width, 2), cv2.COLOR_YUV2RGB_UYVY)
    return np.ascontiguousarray(wide[:, ::2])


def _by_cv_bridge(image: RawImage) -> np.ndarray:
    cv_bridge = importlib.import_module("cv_bridge")
    try:
        pixels = cv_bridge.CvBridge().imgmsg_to_cv2(image, "rgb8")
    except cv_bridge.CvBridgeError as error:
        raise CodecError("encoding", image.encoding, f"cv_bridge makes no picture of it: {error}") from error
    return np.ascontiguousarray(pixels)


def to_8_bit(pixels: np.ndarray, significant_bits: int = 16) -> np.ndarray:
    """16-bit pixels scaled to 8 bits and rounded, with 16 significant bits as cv_bridge does."""
    return cv2.convertScaleAbs(pixels, alpha=255 / ((1 << significant_bits) - 1))


def unused_bits(values: np.ndarray | None, significant_bits: int) -> int:
    """How many of the significant bits are zero in every one of the 16-bit values; 0 for None."""
    return 0 if values is None else max(0, significant_bits - int(values.max()).bit_length())


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one encoding lies in memory.

    Attributes:
        pixel_bytes: bytes per pixel in the first plane.
        unpack: makes the (H, W, 3) uint8 pixels.
        bgr: the channel order that `unpack` leaves.
        rows_per_2: rows of `step` bytes for every two image rows (more than two where chroma planes follow).
        even_rows: the height is a multiple of this.
        even_columns: the width is a multiple of this.
        least: smallest height and width.
        planes_per_step: rows of the last plane that `step` bytes hold.
        wide: values have 16 bits.
    """

    pixel_bytes: int
    unpack: Callable[[RawImage], np.ndarray]
    bgr: bool = False
    rows_per_2: int = 2
    even_rows: int = 1
    even_columns: int = 1
    least: int = 1
    planes_per_step: int = 1
    wide: bool = False


_UYVY = _Layout(2, partial(_colour, code=cv2.COLOR_YUV2RGB_UYVY, channels=2), even_columns=2)
_YUYV = _Layout(2, partial(_colour, code=cv2.COLOR_YUV2RGB_YUYV, channels=2), even_columns=2)

# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's first two.
BAYER_TO_RGB = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
"""OpenCV's conversion codes by the pattern's name in ROS."""


def _i420(code: int) -> _Layout:
    unpack = partial(_planar420, code=code)
    return _Layout(1, unpack, rows_per_2=3, even_rows=2, even_columns=2, planes_per_step=2)


def _wide(channels: int, bgr: bool = False) -> _Layout:
    return _Layout(2 * channels, partial(_packed16, channels=channels), bgr, wide=True)


_MONO8 = _Layout(1, partial(_colour, code=cv2.COLOR_GRAY2RGB, channels=1))
_BGR8 = _Layout(3, _packed, bgr=True)
_BGRA8 = _Layout(4, partial(_colour, code=cv2.COLOR_BGRA2RGB, channels=4))

_LAYOUTS = {
    "rgb8": _Layout(3, _packed),
    "bgr8": _BGR8,
    "rgba8": _Layout(4, partial(_colour, code=cv2.COLOR_RGBA2RGB, channels=4)),
    "bgra8": _BGRA8,
    "rgb16": _wide(3),
    "bgr16": _wide(3, bgr=True),
    "rgba16": _wide(4),
    "bgra16": _wide(4, bgr=True),
    "mono8": _MONO8,
    "mono16": _wide(1),
    # Without names for their channels: in OpenCV's order, blue green red.
    "8UC1": _MONO8,
    "8UC3": _BGR8,
    "8UC4": _BGRA8,
    "16UC1": _wide(1),
    "16UC3": _wide(3, bgr=True),
    "16UC4": _wide(4, bgr=True),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "yuy2": _YUYV,
    "nv12": _Layout(1, partial(_nv, code=cv2.COLOR_YUV2RGB_NV12), rows_per_2=3, even_rows=2, even_columns=2),
    "nv21": _Layout(1, partial(_nv, code=cv2.COLOR_YUV2RGB_NV21), rows_per_2=3, even_rows=2, even_columns=2),
    "nv24": _Layout(1, _nv24, rows_per_2=6),
    "i420": _i420(cv2.COLOR_YUV2RGB_I420),
    "yuv420": _i420(cv2.COLOR_YUV2RGB_I420),
    "yv12": _i420(cv2.COLOR_YUV2RGB_YV12),
    # OpenCV leaves a Bayer image of less than 3 x 3 px black.
    **{
        f"bayer_{name}8": _Layout(1, partial(_colour, code=code, channels=1), least=3)
        for name, code in BAYER_TO_RGB.items()
    },
    **{
        f"bayer_{name}16": _Layout(2, partial(_bayer16, code=code), least=3, wide=True)
        for name, code in BAYER_TO_RGB.items()
    },
}
ENCODINGS = tuple(_LAYOUTS)
"""The encodings that `parse_image` takes by itself; others go through cv_bridge where it is installed."""


def _layout(encoding: str) -> _Layout:
    """The layout of an encoding.

    Raises:
        CodecError: unknown here, and to cv_bridge where that is installed.
    """
    known = _LAYOUTS.get(encoding)
    if known is not None:
        return known
    try:
        cv_bridge = importlib.import_module("cv_bridge")
    except ImportError:
        more = "further ones need cv_bridge, which cannot be imported"
    else:
        try:
            dtype, channels = cv_bridge.CvBridge().encoding_to_dtype_with_channels(encoding)
            return _Layout(np.dtype(dtype).itemsize * channels, _by_cv_bridge)
        except (cv_bridge.CvBridgeError, ValueError, TypeError, AttributeError) as error:
            more = f"cv_bridge: {error}"
    near = difflib.get_close_matches(encoding.lower(), [name.lower() for name in _LAYOUTS], 1)
    hint = f"did you mean {next(n for n in _LAYOUTS if n.lower() == near[0])}? " if near else ""
    raise CodecError("encoding", encoding, f"no picture; {hint}taken are {', '.join(_LAYOUTS)}; {more}")
