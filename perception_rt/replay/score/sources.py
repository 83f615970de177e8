"""Load ground truth from topics of the recording and from label files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.detection_array import NamedDetections
from perception_rt.codec.detections import decode_named_detections
from perception_rt.codec.detections3d import decode_named_detections3d
from perception_rt.codec.vehicle import parse_odometry
from perception_rt.replay.bag import Bag
from perception_rt.replay.score.labels import LabelledSensor, read_labels
from perception_rt.replay.score.truth import BoxTruth, EgoTruth, Moment, Truth
from perception_rt.stage.road_users import canonical
from perception_rt.types import BagError, CodecError, ConfigError, Detections2D, Detections3D

BOXES_2D = "vision_msgs/msg/Detection2DArray"
BOXES_3D = "vision_msgs/msg/Detection3DArray"
ODOMETRY = "nav_msgs/msg/Odometry"
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CLOUDS = ("sensor_msgs/msg/PointCloud2",)


def load_truth(source: str, bag: Bag) -> list[Truth]:
    """Load ground truth of a recording.

    Args:
        source: one of

            - a topic of the recording, of type Detection2DArray or Detection3DArray (an `id` is a track id),
              or Odometry (the vehicle's own path);
            - a folder of KITTI object labels (`000012.txt`: frame 12), a KITTI tracking label file, or a
              MOTChallenge `gt.txt` (persons become `pedestrian`);
            - `TOPIC=PATH`: such labels for the sensor on that topic, if the recording has several.

            The frame number of a label is the index of the message on the sensor's topic: KITTI counts from
            0, MOTChallenge from 1. KITTI's boxes in space need its calibration, `../calib/NAME.txt` beside
            the labels' folder, and the recording's only point cloud.
        bag: the recording.

    Returns:
        One truth for a topic; for KITTI's files one in the image and one in space, if the sensors exist.

    Raises:
        ConfigError: the source is neither a topic of such a type nor a path, or its sensor is ambiguous.
        BagError: labels or messages cannot be read, label a frame that the recording does not have, or count
            messages of which some are damaged.
    """
    if not source.startswith("/") and f"/{source}" in bag.topics and not Path(source).exists():
        source = f"/{source}"
    if source in bag.topics:
        return [_of_topic(source, bag)]
    topic, equals, path = source.partition("=")
    if not (equals and topic in bag.topics):
        topic, path = "", source
    if not Path(path).exists():
        known = ", ".join(bag.of_type(BOXES_2D, BOXES_3D, ODOMETRY)) or "none"
        raise ConfigError(f"--truth {source}: neither a path nor a topic of the recording (it has: {known})")
    sensors = [sensor for kind in (IMAGES, CLOUDS) if (sensor := _sensor(source, topic, kind, bag))]
    if not sensors:
        raise ConfigError(f"--truth {source}: {topic or 'the recording'} has no images and no point clouds")
    return [*read_labels(Path(path), sensors)]


def _sensor(source: str, topic: str, kinds: tuple[str, ...], bag: Bag) -> LabelledSensor | None:
    """Return the named or only sensor of a kind; None if there is none."""
    topics = [name for name in bag.of_type(*kinds) if not topic or name == topic]
    if not topics:
        return None
    if len(topics) > 1:
        raise ConfigError(f"--truth {source}: the sensor is ambiguous: write TOPIC=PATH with one of {topics}")
    stamps, frame_id = [], ""
    for message in bag.messages(topics):
        stamp_ns, frame_id = CdrReader(message.data).header()
        stamps.append(stamp_ns)
    promised = bag.topics[topics[0]][1]
    if promised and len(stamps) < promised:
        raise BagError(
            f"--truth {source}: frames are counted by messages, but of {topics[0]} only {len(stamps)} of "
            f"{promised} can be read"
        )
    return LabelledSensor(topics[0], frame_id, tuple(stamps), kinds is IMAGES)


def _of_topic(topic: str, bag: Bag) -> Truth:
    kind = bag.topics[topic][0]
    if kind == ODOMETRY:
        return _ego_truth(topic, bag)
    if kind not in (BOXES_2D, BOXES_3D):
        raise ConfigError(
            f"--truth {topic}: {kind} cannot be ground truth; must be {BOXES_2D}, {BOXES_3D}, {ODOMETRY}"
        )
    flat = kind == BOXES_2D
    decode = decode_named_detections if flat else decode_named_detections3d
    classes: dict[str, int] = {}
    ids: dict[str, int] = {}
    moments: dict[int, Moment] = {}
    frame_id = ""
    for message in bag.messages([topic]):
        try:
            named = decode(message.data)
        except CodecError as error:
            raise BagError(f"{topic} at {message.log_ns} ns: {error}") from error
        if named.rejected:
            raise BagError(
                f"{topic} at {message.log_ns} ns: {len(named.rejected)} of "
                f"{len(named.rejected) + len(named.detections)} boxes are no truth: {named.rejected[0]}"
            )
        if moments and named.frame_id != frame_id:
            raise BagError(f"{topic}: frame_id={named.frame_id!r} after {frame_id!r}: must stay the same")
        frame_id = named.frame_id
        given = [id_ for id_ in named.ids if id_]
        if len(set(given)) < len(given):
            raise BagError(f"{topic} at {message.log_ns} ns: ids={given}: duplicate id")
        moments[named.stamp_ns] = _moment(named, classes, ids)
    ordered = [moments[stamp_ns] for stamp_ns in sorted(moments)]
    return BoxTruth(topic, frame_id, tuple(classes), ordered, flat)


def _moment(
    named: NamedDetections[Detections2D] | NamedDetections[Detections3D],
    classes: dict[str, int],
    ids: dict[str, int],
) -> Moment:
    found = named.detections
    index = [classes.setdefault(canonical(name), len(classes)) for name in named.classes]
    boxes = found.xyxy if isinstance(found, Detections2D) else found.xyzlwh_yaw
    return Moment(
        stamp_ns=named.stamp_ns,
        boxes=boxes.astype(np.float64),
        labels=np.array([index[label] for label in found.labels], np.int64),
        ids=np.array([ids.setdefault(id_, len(ids)) if id_ else -1 for id_ in named.ids], np.int64),
        ignored=np.zeros(len(found), bool),
    )


def _ego_truth(topic: str, bag: Bag) -> EgoTruth:
    rows, frame_id = {}, ""
    for message in bag.messages([topic]):
        try:
            reading = parse_odometry(message.data)
        except CodecError as error:
            raise BagError(f"{topic} at {message.log_ns} ns: {error}") from error
        frame_id = reading.frame_id
        if reading.pose is None or reading.speed is None:
            raise BagError(f"{topic} at {message.log_ns} ns: pose or speed is missing")
        row = (*reading.pose, reading.speed)
        if not np.isfinite(row).all():
            raise BagError(f"{topic} at {message.log_ns} ns: x, y, yaw, speed={row}: not finite")
        rows[reading.stamp_ns] = row
    stamps = sorted(rows)
    values = np.array([rows[stamp] for stamp in stamps], np.float64).reshape(-1, 4)
    poses = np.column_stack([values[:, :2], np.unwrap(values[:, 2])])
    return EgoTruth(topic, frame_id, np.array(stamps, np.int64), poses, values[:, 3])
