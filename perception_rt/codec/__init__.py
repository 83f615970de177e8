"""Messages to values and back, by attribute or from serialized bytes; knows no ROS.

`perception_rt.codec.tensor` is apart, so that the thread that receives need not import torch.
"""

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
