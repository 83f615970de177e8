"""Messages to values and back, by attribute or from serialized bytes; knows no ROS."""

from perception_rt.codec.image import MAX_BYTES, RawImage, parse_image

__all__ = ["MAX_BYTES", "RawImage", "parse_image"]
