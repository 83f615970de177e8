"""The message types that bags and viewers know: those of ROS 2, and vision_msgs."""

from __future__ import annotations

from functools import cache

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
    "Detection2D": _DETECTION.format(2),
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
    "Detection3D": _DETECTION.format(3),
    "Detection3DArray": "std_msgs/Header header\nDetection3D[] detections",
}
"""The part of vision_msgs that is published; rosbags does not know it."""


@cache
def typestore() -> Typestore:
    """All types; shared, so register nothing into it."""
    store = get_typestore(Stores.LATEST)
    for name, text in VISION_MSGS.items():
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return store


@cache
def definition(message_type: str) -> str | None:
    """The text of a type (``vision_msgs/msg/Detection2DArray``) and of all that it is made of (``ros2msg``).

    None for a type that is not known.
    """
    if message_type not in typestore().types:
        return None
    return typestore().generate_msgdef(message_type, ros_version=2)[0]
