"""What the stages find on a simulated drive, as a bag of outputs with times of publishing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from perception_rt.codec import Detection3DEncoder, DetectionEncoder
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.codec.transforms import parse_transforms
from perception_rt.codec.vehicle import encode_odometry, parse_imu, parse_odometry, pose_covariance
from perception_rt.model.runtime import Runtime
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.prediction.ego import predict_path
from perception_rt.stage.tracking.object_tracking import ObjectTracking3D, boxes_of
from perception_rt.stage.transforms import TransformBuffer
from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
from perception_rt.types import Detections3D
from perception_rt.types.state import Imu, Twist

from .drives import IMAGE, IMU, ODOM, POINTS, TF, TF_STATIC, TRUTH, TRUTH_3D, Logged, write_bag

FOUND_2D, FOUND_3D = "/camera_detector/detections", "/lidar_detector/detections"
TRACKS, AHEAD = "/object_tracker/tracks", "/object_tracker/predictions"
STATE, PATH = "/vehicle_state/odometry", "/vehicle_state/predictions"
TOPICS = {
    FOUND_2D: "vision_msgs/msg/Detection2DArray",
    FOUND_3D: "vision_msgs/msg/Detection3DArray",
    TRACKS: "vision_msgs/msg/Detection3DArray",
    AHEAD: "vision_msgs/msg/Detection3DArray",
    STATE: "nav_msgs/msg/Odometry",
    PATH: "vision_msgs/msg/Detection3DArray",
}
CLASSES = ("car", "pedestrian", "cyclist")
METRICS = {
    "bundles": {
        "/camera_detector": {"classes": list(CLASSES)},
        "/lidar_detector": {"classes": list(CLASSES)},
    },
    "outputs": {topic: {"node": topic.rpartition("/")[0], "type": kind} for topic, kind in TOPICS.items()},
}
"""As far as scores look at the metrics of a replay."""


def write_answers(folder: Path, drive: Path, perfect: bool, latency_ns: int) -> Path:
    """Write what was found on a drive of `drives.write_drive`.

    Args:
        folder: of the bag; must not be there.
        perfect: the truth is what was found; else the shipped detectors answer.
        latency_ns: from a message's stamp to the publishing of its answer.

    Returns:
        `folder`.
    """
    with Bag(drive) as bag:
        messages = [*_seen(bag, perfect, latency_ns), *_driven(bag)]
    return write_bag(folder, TOPICS, sorted(messages, key=lambda message: message[0]))


def _seen(bag: Bag, perfect: bool, latency_ns: int) -> Iterator[Logged]:
    tracking, transforms = ObjectTracking3D(3.0, 0.5, odometry=True), TransformBuffer()
    flat = DetectionEncoder(CLASSES)
    camera, lidar = (Runtime.open(name, device="cpu", threads=1) for name in ("sim_camera", "bev_cluster"))
    for message in bag.messages([IMAGE, POINTS, TF, TF_STATIC, TRUTH, TRUTH_3D]):
        if message.topic in (TF, TF_STATIC):
            for t in parse_transforms(message.data):
                static = message.topic == TF_STATIC
                transforms.add(t.parent, t.child, t.stamp_ns, t.translation, t.quaternion, static)
        elif message.topic == TRUTH and perfect:
            named = decode_named_detections(message.data)
            labels = _labels(named)
            found = type(named.detections)(named.detections.xyxy, named.detections.scores, labels)
            data = flat.encode(found, named.stamp_ns, named.frame_id)
            yield named.stamp_ns + latency_ns, FOUND_2D, data
        elif message.topic == IMAGE and not perfect:
            frame = frame_of(message)
            (found,) = detect2d(camera, [frame])
            data = DetectionEncoder(camera.manifest.classes).encode(found, frame.stamp_ns, frame.frame_id)
            yield frame.stamp_ns + latency_ns, FOUND_2D, data
        elif message.topic == (TRUTH_3D if perfect else POINTS):
            if perfect:
                named = decode_named_detections3d(message.data)
                found = Detections3D(named.detections.xyzlwh_yaw, named.detections.scores, _labels(named))
                named = replace(named, detections=found, classes=CLASSES)
            else:
                frame = frame_of(message)
                found = detect3d(lidar, frame)
                empty = [""] * len(found)
                named = NamedDetections(frame.stamp_ns, frame.frame_id, found, empty, lidar.manifest.classes)
            data = Detection3DEncoder(named.classes).encode(found, named.stamp_ns, named.frame_id)
            yield named.stamp_ns + latency_ns, FOUND_3D, data
            yield from _tracked(tracking, named, transforms, latency_ns)


def _labels(named: NamedDetections) -> np.ndarray:
    index = np.array([CLASSES.index(name) for name in named.classes], np.int64)
    return index[named.detections.labels] if len(index) else named.detections.labels


def _tracked(
    tracking: ObjectTracking3D, named: NamedDetections, transforms: TransformBuffer, latency_ns: int
) -> Iterator[Logged]:
    matrix = transforms.lookup("odom", named.frame_id, named.stamp_ns)
    tracks, predictions = tracking.update(named, matrix)
    encoder, published_ns = Detection3DEncoder(tracking.classes.names), named.stamp_ns + latency_ns
    boxes = Detections3D(tracks.xyzlwh_yaw, tracks.scores, tracks.labels)
    ids = [str(number) for number in tracks.ids]
    plane = pose_covariance(tracks.covariance[:, :3, :3].astype(np.float64))
    data = encoder.encode(boxes, named.stamp_ns, "odom", ids, covariances=plane)
    yield published_ns, TRACKS, data
    ahead, stamps, covariances = boxes_of(predictions, tracks)
    ids = [str(number) for number in np.repeat(tracks.ids, len(predictions.stamps_ns))]
    data = encoder.encode(
        ahead,
        named.stamp_ns,
        "odom",
        ids,
        covariances=pose_covariance(covariances),
        stamps_ns=stamps.tolist(),
    )
    yield published_ns, AHEAD, data


def _driven(bag: Bag) -> Iterator[Logged]:
    """The state after every odometry, and the path ahead ten times a second."""
    config = VehicleStateConfig(start_at_origin=True)
    state_filter, encoder = VehicleStateFilter(config), Detection3DEncoder(("ego",))
    for number, message in enumerate(bag.messages([IMU, ODOM])):
        if message.topic == IMU:
            imu = parse_imu(message.data)
            variances = imu.angular_covariance[2, 2], imu.linear_covariance[0, 0]
            state_filter.add(
                Imu(
                    imu.stamp_ns,
                    imu.angular_velocity[2],
                    variances[0],
                    imu.linear_acceleration[0],
                    variances[1],
                )
            )
            continue
        read = parse_odometry(message.data)
        state_filter.add(
            Twist(read.stamp_ns, read.speed, read.twist_variance[0], read.yaw_rate, read.twist_variance[1])
        )
        state = state_filter.state_at(read.stamp_ns)
        yield read.stamp_ns, STATE, encode_odometry(state, "odom", "base_link")
        if number % 15 == 1:
            path = predict_path(state, config.motion, 3.0, 0.5)
            boxes = np.zeros((len(path), 7), np.float32)
            boxes[:, :2], boxes[:, 6] = path.states[:, :2], path.states[:, 2]
            found = Detections3D(boxes, np.ones(len(path), np.float32), np.zeros(len(path), np.int64))
            data = encoder.encode(
                found,
                state.stamp_ns,
                "odom",
                ["ego"] * len(path),
                covariances=pose_covariance(path.covariance[:, :3, :3]),
                stamps_ns=path.stamps_ns.tolist(),
            )
            yield state.stamp_ns, PATH, data
