"""What a replay shows people: messages of the recorded drive, and what nodes publish of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception_rt.codec import (
    Detection3DEncoder,
    DetectionEncoder,
    box_markers,
    encode_image,
    encode_markers,
    parse_image,
)
from perception_rt.codec.diagnostics import encode_diagnostics
from perception_rt.codec.vehicle import encode_odometry, encode_path
from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.stage.draw import draw_detections
from perception_rt.types import Detections2D, Detections3D
from perception_rt.types.state import EgoPath, EgoState
from perception_rt.types.status import Level, Status

CLASSES = ("Car", "Pedestrian")
IMAGE, CAMERA_INFO, POINTS = "/camera/front/image_raw", "/camera/front/camera_info", "/lidar/points"
DETECTIONS, ANNOTATED = "/camera_detector/detections", "/camera_detector/image_annotated"
TRACKS, PREDICTIONS = "/object_tracker/tracks", "/object_tracker/predictions"
MARKERS = "/object_tracker/markers"
ODOMETRY, PATH = "/vehicle_state/odometry", "/vehicle_state/predicted_path"
BOXES_2D = Detections2D(
    np.array([[60, 100, 300, 250], [600, 150, 700, 220]], np.float32),
    np.array([0.9, 0.5], np.float32),
    np.array([0, 1]),
)
BOXES = Detections3D(
    np.array([[12, 6, -0.9, 4, 1.7, 1.5, 0.5], [15, -4, -0.8, 0.8, 0.6, 1.8, -2]], np.float32),
    np.array([0.9, 0.5], np.float32),
    np.array([0, 1]),
)
STEPS = 5


def predicted() -> Detections3D:
    """`BOXES` at `STEPS` times each, moving along x."""
    boxes = np.repeat(BOXES.xyzlwh_yaw, STEPS, 0)
    boxes[:, 0] += np.tile(np.arange(STEPS), len(BOXES))
    return Detections3D(boxes, np.repeat(BOXES.scores, STEPS), np.repeat(BOXES.labels, STEPS))


def seen(data: Path, frames: int) -> list[BagMessage]:
    """The first frames of the recorded city drive, and after each image what nodes say of it."""
    messages, images = [], 0
    with Bag(data / "bags" / "kitti_city") as bag:
        for message in bag.messages():
            messages.append(message)
            if message.topic == IMAGE:
                messages += answers(message)
                images += 1
            elif message.topic == CAMERA_INFO and images == frames:
                return messages
    raise AssertionError(f"the recording has {images} images, not {frames}")


def answers(image: BagMessage) -> list[BagMessage]:
    """One message of each kind that nodes publish, 20 ms after the image."""
    frame = parse_image(image.data).decode()
    stamp, log, lidar = frame.stamp_ns, image.log_ns + 20_000_000, "velodyne"
    drawn = draw_detections(frame.pixels, BOXES_2D, CLASSES, bgr=frame.bgr)
    boxes, ids = Detection3DEncoder(CLASSES), ["1", "2"]
    state = EgoState(stamp, 3.0, 4.0, 0.5, 2.0, 0.1, 0.0, np.eye(6))
    path = EgoPath(
        stamp + np.arange(3) * 100_000_000,
        np.array([[3.0, 4.0, 0.5, 2.0, 0.1, 0.0]] * 3) + np.arange(3)[:, None],
        np.zeros((3, 6, 6)),
    )
    status = Status("camera_detector", Level.OK, "running", "", {"received": 1})
    again = np.repeat(ids, STEPS).tolist()
    return [
        BagMessage(topic, kind, log, data)
        for topic, kind, data in (
            (
                DETECTIONS,
                "vision_msgs/msg/Detection2DArray",
                DetectionEncoder(CLASSES).encode(BOXES_2D, stamp, frame.frame_id),
            ),
            (ANNOTATED, "sensor_msgs/msg/Image", encode_image(drawn, "bgr8", stamp, frame.frame_id)),
            (TRACKS, "vision_msgs/msg/Detection3DArray", boxes.encode(BOXES, stamp, lidar, ids)),
            (PREDICTIONS, "vision_msgs/msg/Detection3DArray", boxes.encode(predicted(), stamp, lidar, again)),
            (
                MARKERS,
                "visualization_msgs/msg/MarkerArray",
                encode_markers(box_markers(BOXES, CLASSES, ids), stamp, lidar),
            ),
            (ODOMETRY, "nav_msgs/msg/Odometry", encode_odometry(state, "odom", "base_link")),
            (PATH, "nav_msgs/msg/Path", encode_path(path, "odom")),
            ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", encode_diagnostics([status], log)),
        )
    ]
