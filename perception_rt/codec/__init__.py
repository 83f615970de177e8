"""Messages to values and back, by attribute or from serialized bytes; knows no ROS.

`perception_rt.codec.tensor` is apart, so that the thread that receives need not import torch.
"""

from perception_rt.codec.camera_info import CameraModel, parse_camera_info
from perception_rt.codec.compressed import EncodedImage, parse_compressed
from perception_rt.codec.detections import DetectionEncoder, decode_detections
from perception_rt.codec.encode import encode_compressed, encode_image, encode_points
from perception_rt.codec.image import ENCODINGS, MAX_BYTES, RawImage, parse_image
from perception_rt.codec.points import RawCloud, parse_points

__all__ = [
    "ENCODINGS",
    "MAX_BYTES",
    "CameraModel",
    "DetectionEncoder",
    "EncodedImage",
    "RawCloud",
    "RawImage",
    "decode_detections",
    "encode_compressed",
    "encode_image",
    "encode_points",
    "parse_camera_info",
    "parse_compressed",
    "parse_image",
    "parse_points",
]
