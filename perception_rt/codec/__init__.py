"""Messages to values and back, by attribute or from serialized bytes; knows no ROS.

Names are loaded when they are first used: a node without a camera need not import OpenCV.
`perception_rt.codec.tensor` is apart, so that the thread that receives need not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_rt.codec.camera_info import CameraModel, parse_camera_info
    from perception_rt.codec.compressed import EncodedImage, parse_compressed
    from perception_rt.codec.detection_array import NamedDetections
    from perception_rt.codec.detections import DetectionEncoder, decode_detections, decode_named_detections
    from perception_rt.codec.detections3d import (
        Detection3DEncoder,
        decode_detections3d,
        decode_named_detections3d,
    )
    from perception_rt.codec.encode import encode_compressed, encode_image, encode_points
    from perception_rt.codec.image import ENCODINGS, MAX_BYTES, RawImage, parse_image
    from perception_rt.codec.markers import Marker, box_markers, encode_markers, path_markers
    from perception_rt.codec.points import RawCloud, parse_points
    from perception_rt.codec.transforms import Transform, parse_transforms

_NAMES = {
    "camera_info": (
        "CameraModel",
        "parse_camera_info",
    ),
    "compressed": (
        "EncodedImage",
        "parse_compressed",
    ),
    "detection_array": ("NamedDetections",),
    "detections": (
        "DetectionEncoder",
        "decode_detections",
        "decode_named_detections",
    ),
    "detections3d": (
        "Detection3DEncoder",
        "decode_detections3d",
        "decode_named_detections3d",
    ),
    "encode": (
        "encode_compressed",
        "encode_image",
        "encode_points",
    ),
    "image": (
        "ENCODINGS",
        "MAX_BYTES",
        "RawImage",
        "parse_image",
    ),
    "markers": (
        "Marker",
        "box_markers",
        "encode_markers",
        "path_markers",
    ),
    "points": (
        "RawCloud",
        "parse_points",
    ),
    "transforms": (
        "Transform",
        "parse_transforms",
    ),
}
_SOURCES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "ENCODINGS",
    "MAX_BYTES",
    "CameraModel",
    "Detection3DEncoder",
    "DetectionEncoder",
    "EncodedImage",
    "Marker",
    "NamedDetections",
    "RawCloud",
    "RawImage",
    "Transform",
    "box_markers",
    "decode_detections",
    "decode_detections3d",
    "decode_named_detections",
    "decode_named_detections3d",
    "encode_compressed",
    "encode_image",
    "encode_markers",
    "encode_points",
    "parse_camera_info",
    "parse_compressed",
    "parse_image",
    "parse_points",
    "parse_transforms",
    "path_markers",
]


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_SOURCES[name]}"), name)
    globals()[name] = value
    return value
