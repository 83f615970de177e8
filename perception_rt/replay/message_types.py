"""The message types for bags and viewers: those of ROS 2, and vision_msgs."""

from __future__ import annotations

from functools import cache
from typing import Literal

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

_DETECTION = "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox{}D bbox\nstring id"
VISION_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Classification": "std_msgs/Header header\nObjectHypothesis[] results",
    "VisionClass": "uint16 class_id\nstring class_name",
    "LabelInfo": "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold",
    "Detection2D": _DETECTION.format(2),
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
    "Detection3D": _DETECTION.format(3),
    "Detection3DArray": "std_msgs/Header header\nDetection3D[] detections",
}
"""The types of vision_msgs that the nodes publish; rosbags does not include them."""


LABEL_INFO = "vision_msgs/msg/LabelInfo"


def is_static(topic: str) -> bool:
    """Return whether transforms on a topic hold at any time: /tf_static, in a namespace too."""
    return topic.rpartition("/")[2] == "tf_static"


def is_latched(topic: str, message_type: str) -> bool:
    """Return whether a topic is published once, for those that come later too (transient local)."""
    return is_static(topic) or message_type == LABEL_INFO


@cache
def typestore() -> Typestore:
    """Return the store of all types; it is shared, so do not register types in it."""
    store = get_typestore(Stores.LATEST)
    for name, text in VISION_MSGS.items():
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return store


def has_header(message_type: str, store: Typestore | None = None) -> bool:
    """Return whether messages of a type begin with a std_msgs/Header."""
    fields = (store or typestore()).fielddefs.get(message_type, (None, []))[1]
    return bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"


def header_stamp_ns(data: bytes) -> int | None:
    """Return the stamp of a message that begins with a header; None if it is too short."""
    if len(data) < 12:
        return None
    order: Literal["little", "big"] = "little" if data[1] else "big"
    sec = int.from_bytes(data[4:8], order, signed=True)
    return sec * 1_000_000_000 + int.from_bytes(data[8:12], order)


@cache
def definition(message_type: str) -> str | None:
    """Return the definition of a type (``vision_msgs/msg/Detection2DArray``) and its parts as ``ros2msg``.

    Return None for an unknown type.
    """
    if message_type not in typestore().types:
        return None
    return typestore().generate_msgdef(message_type, ros_version=2)[0]
