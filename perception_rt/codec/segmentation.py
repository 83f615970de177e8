"""Segmentation to serialized sensor_msgs/Image (mono8) and vision_msgs/LabelInfo, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_rt.codec.cdr import CdrWriter
from perception_rt.codec.image import parse_image
from perception_rt.types import CodecError
from perception_rt.types.segmentation import UNLABELLED, Segmentation

ENCODING = "mono8"
UNLABELLED_NAME = "unlabelled"


def encode_segmentation(found: Segmentation, stamp_ns: int, frame_id: str) -> bytes:
    """A serialized sensor_msgs/Image of encoding mono8: the value of a pixel is its label.

    Raises:
        CodecError: there is no pixel.
    """
    if not found.labels.size:
        raise CodecError("labels", found.labels.shape, "must not be empty")
    height, width = found.labels.shape
    writer = CdrWriter()
    writer.header(stamp_ns, frame_id)
    writer.scalars("I", height, width)
    writer.string(ENCODING)
    writer.scalars("B", 0)
    writer.scalars("I", width)
    return writer.bytes_with(np.ascontiguousarray(found.labels))


def decode_segmentation(source: object, classes: Sequence[str]) -> tuple[int, str, Segmentation]:
    """Stamp in ns, frame_id and labels of a sensor_msgs/Image; the labels are a view where rows have no gap.

    Args:
        source: the message object (of rclpy or rosbags), or its serialized bytes.
        classes: the names of the labels.

    Raises:
        CodecError: for truncated bytes, another encoding than mono8, or a label without a class.
    """
    image = parse_image(source)
    if image.encoding not in (ENCODING, "8UC1"):
        raise CodecError("encoding", image.encoding, f"labels are {ENCODING}")
    size = image.height, image.width
    labels = np.ndarray(size, np.uint8, image.data, 0, (image.step, 1))
    last = int(np.where(labels == UNLABELLED, 0, labels).max(initial=0))
    if last >= len(classes):
        raise CodecError("labels", last, f"there are {len(classes)} classes")
    return image.stamp_ns, image.frame_id, Segmentation(labels)


def encode_label_info(classes: Sequence[str], threshold: float, stamp_ns: int, frame_id: str) -> bytes:
    """A serialized vision_msgs/LabelInfo: the names of the values in the images, `UNLABELLED` the last.

    Args:
        classes: names by label.
        threshold: least score of a pixel or an object.
        stamp_ns: the header's stamp, ns.
        frame_id: the header's frame.

    Raises:
        CodecError: more classes than an image can tell.
    """
    if len(classes) > UNLABELLED:
        raise CodecError("classes", len(classes), f"an image of {ENCODING} tells {UNLABELLED}")
    writer = CdrWriter()
    writer.header(stamp_ns, frame_id)
    names = {**dict(enumerate(classes)), UNLABELLED: UNLABELLED_NAME}
    writer.scalars("I", len(names))
    for label, name in names.items():
        writer.scalars("H", label)
        writer.string(name)
    writer.scalars("f", threshold)
    return writer.bytes()
