"""Write the parameter file for what a survey found; what is undecided becomes a comment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perception_rt.codec.camera_info import parse_camera_info
from perception_rt.codec.cdr import CdrReader
from perception_rt.codec.compressed import parse_compressed
from perception_rt.codec.image import parse_image
from perception_rt.codec.points import parse_points
from perception_rt.component.graph import output_prefixes
from perception_rt.replay.survey import TF_TYPE, Survey, SurveyedTopic
from perception_rt.types import PerceptionError
from perception_rt.types.executables import EXECUTABLES

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO, CLOUD = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2"
ODOMETRY, IMU, FIX = "nav_msgs/msg/Odometry", "sensor_msgs/msg/Imu", "sensor_msgs/msg/NavSatFix"
TWIST = "geometry_msgs/msg/TwistWithCovarianceStamped"
USED = (IMAGE, COMPRESSED, CAMERA_INFO, CLOUD, ODOMETRY, IMU, FIX, TWIST, TF_TYPE)
BASE_FRAMES = ("base_link", "base_footprint", "ego_vehicle", "vehicle", "body")
OURS = tuple(name for name in EXECUTABLES if not name.endswith("_player"))
"""Nodes that publish results, not sensor data; so is a topic whose name has a word of DERIVED."""
DERIVED = (
    "annotated",
    "ground_truth",
    "depth",
    "disparity",
    "mask",
    "segmentation",
    "thermal",
    "obstacle",
    "cluster",
    "costmap",
)
# Words at the end of a topic's name that say how its data were made from the sensor's.
# fmt: off
PROCESSED = (
    "raw", "color", "colour", "mono", "rgb", "bgr", "rect", "rectified", "compressed", "decompressed",
    "jpeg", "resized", "xyz", "xyzi", "xyzrgb", "filtered", "registered", "corrected", "deskewed",
    "undistorted", "transformed", "downsampled", "cropped", "nonground",
)
# fmt: on
NOT_COLOUR = ("16UC1", "32FC1")


@dataclass
class _Section:
    """The parameters of a node, and its comments."""

    parameters: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def parameter_file(survey: Survey, source: str, use_sim_time: bool, player: Mapping[str, Any]) -> str:
    """Return the text of a ROS parameter file.

    Args:
        survey: of the source. source: its name, for the first line.
        use_sim_time: whether the nodes run on /clock. player: parameters of `bag_player`; empty for none.
    """
    cameras, camera_notes = _chosen(survey, (IMAGE, COMPRESSED), _image_size, _camera_rank)
    lidars, lidar_notes = _chosen(survey, (CLOUD,), _cloud_size, lambda topic: 0)
    base, base_note = _base_frame(survey)
    sections: dict[str, _Section] = {}
    if cameras:
        sections["camera_detector"] = _cameras(cameras, camera_notes)
    if lidars:
        sections["lidar_detector"] = _lidars(lidars, lidar_notes, survey, base)
    if cameras and lidars:
        fusion = _fusion(survey, cameras, lidars, base)
        if fusion is not None:
            sections["fusion"] = fusion
    if cameras or lidars:
        fixed, fixed_note = _fixed_frame(survey, lidars[0].frame_id if lidars else "", base)
        sections["object_tracker"] = _tracker(sections, cameras, lidars, fixed, fixed_note)
    ego = _vehicle_state(survey, base)
    if ego is not None:
        sections["vehicle_state"] = ego
    head = [f"Parameters for {source}, by `perception-rt init`. Check the lines with a comment.", base_note]
    head += [] if cameras else camera_notes or ["no camera: no topic of type Image or CompressedImage"]
    head += [] if lidars else lidar_notes or ["no lidar: no topic of type PointCloud2"]
    head += survey.faults[:8] + _unused(survey) + _renamed_transforms(survey) + _renamed_images(cameras)
    if player and sections:
        sections["bag_player"] = _Section({"use_sim_time": False, **player})
    return _text(head, sections, use_sim_time)


# Choice of topics.


def _chosen(
    survey: Survey,
    types: Sequence[str],
    size: Callable[[SurveyedTopic], str],
    rank: Callable[[SurveyedTopic], int],
) -> tuple[list[SurveyedTopic], list[str]]:
    """Return the sensors' topics, one for each sensor, and notes on those left out."""
    chosen: list[SurveyedTopic] = []
    notes = []
    for topic in sorted(survey.of_type(*types), key=lambda topic: (rank(topic), topic.name)):
        reason = _derived(topic.name)
        if not reason and topic.sample is not None:
            reason = _use_sound_sample(topic, size)
        elif not reason:
            reason = "no message came"
        if not reason:
            reason = next((f"{one.name} is used" for one in chosen if _same_sensor(one, topic)), "")
        if reason:
            notes.append(f"not used: {topic.name}: {reason}")
        else:
            chosen.append(topic)
    return sorted(chosen, key=lambda topic: topic.name), notes


def _same_sensor(one: SurveyedTopic, other: SurveyedTopic) -> bool:
    """Return whether two topics carry the data of one sensor, like image_raw and image_rect in a namespace.

    Sensors that share a namespace, like /cameras/front and /cameras/rear, have names and frames of their own.
    """
    spaces, names = zip(
        *(topic.name.removesuffix("/compressed").rpartition("/")[::2] for topic in (one, other)), strict=True
    )
    frames = one.frame_id, other.frame_id
    alike = _sensor_name(names[0]) == _sensor_name(names[1]) or ("" != frames[0] == frames[1])
    return spaces[0] == spaces[1] and alike


def _sensor_name(name: str) -> str:
    """Return the last part of a topic without the words that say how the data were made from the sensor's."""
    words = name.split("_")
    while len(words) > 1 and words[-1] in PROCESSED:
        words.pop()
    return "_".join(words)


def _use_sound_sample(topic: SurveyedTopic, read: Callable[[SurveyedTopic], object]) -> str:
    """Make the first usable message the sample; return the reason if there is none."""
    first, reasons = topic.sample, []
    for sample in (first, *topic.spare):
        topic.sample = sample
        try:
            read(topic)
        except PerceptionError as error:
            reasons.append(str(error))
        else:
            return ""
    topic.sample = first
    return reasons[0]


def _derived(name: str) -> str:
    words = [word for word in (*OURS, *DERIVED) if word in name]
    return f"its name says {words[0]}" if words else ""


def _camera_rank(topic: SurveyedTopic) -> int:
    """Return the place of a topic among those of one camera: raw and in colour first."""
    name = topic.name.removesuffix("/compressed").rpartition("/")[2]
    order = ("image_raw", "image_color", "image", "image_rect_color", "image_rect")
    return 2 * (order.index(name) if name in order else len(order)) + (topic.message_type == COMPRESSED)


def _image_size(topic: SurveyedTopic) -> str:
    assert topic.sample is not None
    if topic.message_type == COMPRESSED:
        height, width = parse_compressed(topic.sample).decode().pixels.shape[:2]
        return f"{width}x{height}"
    image = parse_image(topic.sample)
    if image.encoding in NOT_COLOUR:
        raise PerceptionError(f"encoding={image.encoding!r}: no colours, perhaps depth")
    return f"{image.width}x{image.height}"


def _cloud_size(topic: SurveyedTopic) -> str:
    assert topic.sample is not None
    cloud = parse_points(topic.sample)
    return f"{cloud.width * cloud.height} points"


# Sections.


def _about(topic: SurveyedTopic, size: str = "") -> str:
    told = [size, f"{topic.rate_hz:.1f} Hz" if topic.rate_hz else "", f"frame {topic.frame_id!r}", topic.qos]
    return f"{topic.name}: {', '.join(word for word in told if word)}"


def _cameras(cameras: Sequence[SurveyedTopic], notes: list[str]) -> _Section:
    sizes = [_image_size(camera) for camera in cameras]
    section = _Section({"image_topics": [_heard_as(camera) for camera in cameras]})
    section.parameters["warmup_sizes"] = list(dict.fromkeys(sizes))
    section.notes = [_about(*pair) for pair in zip(cameras, sizes, strict=True)] + notes
    section.notes.append(
        "bundle: your own detector (`perception-rt bundle export`), or a pretrained one like deimv2_femto "
        "(`perception-rt bundle get`); default: sim_camera, which knows only the simulator"
    )
    return section


def _lidars(lidars: Sequence[SurveyedTopic], notes: list[str], survey: Survey, base: str) -> _Section:
    section = _Section({"points_topics": [lidar.name for lidar in lidars]})
    section.notes = [_about(lidar, _cloud_size(lidar)) for lidar in lidars]
    section.notes += [_mounting(survey, base, lidar.frame_id) for lidar in lidars] + notes
    return section


def _fusion(
    survey: Survey, cameras: Sequence[SurveyedTopic], lidars: Sequence[SurveyedTopic], base: str
) -> _Section | None:
    """Return the section for all cameras and lidars that CameraInfo and transforms connect."""
    lidar, section = lidars[0], _Section()
    usable: list[tuple[SurveyedTopic, SurveyedTopic]] = []
    infos = {camera.name: _info_of(survey, camera) for camera in cameras}
    for camera in cameras:
        info = infos[camera.name]
        if info is None:
            section.notes.append(f"not fused: {camera.name}: no CameraInfo")
        elif (owner := _owner(info, [one for one in cameras if infos[one.name] is info])) is not camera:
            section.notes.append(f"not fused: {camera.name}: {info.name} is the CameraInfo of {owner.name}")
        elif not survey.connected(camera.frame_id, lidar.frame_id):
            frames = f"{camera.frame_id!r} and {lidar.frame_id!r}"
            section.notes.append(f"not fused: {camera.name}: no transform between {frames} on /tf")
        else:
            usable.append((camera, info))
    if not usable:
        return None
    in_2d = output_prefixes([camera.name for camera in cameras])
    in_3d = output_prefixes([one.name for one in lidars])
    found = {
        "detections_2d_topic": [f"camera_detector{in_2d[camera.name]}/detections" for camera, _ in usable],
        "detections_3d_topic": [f"lidar_detector{in_3d[one.name]}/detections" for one in lidars],
        "camera_info_topic": [info.name for _, info in usable],
    }
    for name, topics in found.items():
        # CameraInfo is given like the detections: one name, or a list.
        several = len(found["detections_2d_topic" if name != "detections_3d_topic" else name]) > 1
        section.parameters[f"{name}s" if several else name] = topics if several else topics[0]
    rectified = [camera.name for camera, info in usable if _is_rectified(camera, info)]
    if len(rectified) == len(usable):
        section.parameters["image_is_rectified"] = True
        section.notes.append("image_is_rectified: by the images' names; P of CameraInfo holds, not K and D")
    elif rectified:
        section.notes.append(f"image_is_rectified: true would hold for {', '.join(rectified)} only")
    if base:
        section.notes.append(f"base_frame: {base} publishes objects in the vehicle's frame, not the lidar's")
    fixed, fixed_note = _fixed_frame(survey, lidar.frame_id, base)
    if fixed:
        section.parameters["fixed_frame"] = fixed
        section.notes += [fixed_note] if fixed_note else []
    return section


def _info_of(survey: Survey, camera: SurveyedTopic) -> SurveyedTopic | None:
    """Return the CameraInfo beside a camera, or else the one of its frame."""
    beside = _info_beside(camera)
    usable = []
    for info in survey.of_type(CAMERA_INFO):
        if reason := _use_sound_sample(info, lambda one: parse_camera_info(one.sample or b"")):
            survey.faults.append(f"{info.name}: {reason}")
        else:
            usable.append(info)
    same = [info for info in usable if info.name == beside or info.frame_id == camera.frame_id != ""]
    return min(same, key=lambda info: (info.name != beside, info.name), default=None)


def _info_beside(camera: SurveyedTopic) -> str:
    return camera.name.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


def _owner(info: SurveyedTopic, cameras: Sequence[SurveyedTopic]) -> SurveyedTopic:
    """Return the camera that a CameraInfo is of: others of its frame show what was drawn on its images."""
    return min(cameras, key=lambda one: (_info_beside(one) != info.name, one.frame_id != info.frame_id))


def _is_rectified(camera: SurveyedTopic, info: SurveyedTopic) -> bool:
    """Return whether the name, as image_rect_color, says that an image is rectified, and P is a camera's."""
    last = camera.name.removesuffix("/compressed").rpartition("/")[2]
    if not any(word.startswith("rect") for word in last.split("_")):
        return False
    try:
        parse_camera_info(info.sample or b"", image_is_rectified=True)
    except PerceptionError:
        return False
    return True


def _mounting(survey: Survey, base: str, frame: str) -> str:
    if not base:
        return f"frame {frame!r}: its mounting is not known: boxes stay in the lidar's frame"
    try:
        matrix = survey.transforms.lookup(base, frame, 0)
    except PerceptionError:
        return f"no transform from {frame!r} to {base!r}: boxes stay in the lidar's frame"
    x, y, z = matrix[:3, 3].tolist()
    tilt = float(np.degrees(np.arccos(np.clip(matrix[2, 2], -1.0, 1.0))))
    return f"mounted in {base} at x {x:.2f} y {y:.2f} z {z:.2f} m, tilted by {tilt:.1f} degrees"


def _tracker(
    sections: Mapping[str, _Section],
    cameras: Sequence[SurveyedTopic],
    lidars: Sequence[SurveyedTopic],
    fixed: str,
    fixed_note: str,
) -> _Section:
    section = _Section()
    if not lidars:
        prefix = output_prefixes([camera.name for camera in cameras])[cameras[0].name]
        section.parameters = {"dimensions": "2d", "detections_topic": f"camera_detector{prefix}/detections"}
        return section
    prefix = output_prefixes([lidar.name for lidar in lidars])[lidars[0].name]
    source = "fusion/detections" if "fusion" in sections else f"lidar_detector{prefix}/detections"
    section.parameters = {"detections_topic": source, "fixed_frame": fixed}
    section.notes += [fixed_note] if fixed_note else []
    return section


def _vehicle_state(survey: Survey, base: str) -> _Section | None:
    section = _Section()
    odometry = _best(survey, ODOMETRY, section)
    imu, fix, twist = (_best(survey, kind, section) for kind in (IMU, FIX, TWIST))
    frame = base or (imu.frame_id if imu else "") or "base_link"
    if imu is not None and not survey.connected(imu.frame_id, frame):
        section.notes.append(
            f"imu_topic: {imu.name}: no transform from {imu.frame_id!r} to {frame!r}; where the axes are "
            f"the same: set it, and base_frame: {imu.frame_id}"
        )
        imu = None
    sensors = {"odometry": odometry, "imu": imu, "fix": fix, "twist": twist}
    if not any(sensors.values()):
        return None
    section.parameters = {f"{name}_topic": topic.name if topic else "" for name, topic in sensors.items()}
    section.parameters["frame_id"] = "map" if fix else "odom"
    section.parameters["base_frame"] = frame
    section.notes = [_about(topic) for topic in sensors.values() if topic] + section.notes
    section.notes.append("turns_in_place: true for skid or differential steering")
    return section


def _best(survey: Survey, kind: str, section: _Section) -> SurveyedTopic | None:
    """Return the sensor's own topic of a type: not filtered, of the highest rate."""
    found = [topic for topic in survey.of_type(kind) if topic.sample is not None and not _derived(topic.name)]
    filtered = ("filtered", "fused", "gps", "global", "slam", "amcl")
    found.sort(key=lambda topic: (any(word in topic.name for word in filtered), -topic.rate_hz, topic.name))
    section.notes += [f"not used: {topic.name}" for topic in found[1:]]
    return found[0] if found else None


# Frames.


def _base_frame(survey: Survey) -> tuple[str, str]:
    """Return the vehicle's frame, and a note on how it was found; empty if it is not known."""
    frames = {*survey.parents, *(parent for parent, _ in survey.parents.values())}
    for name in BASE_FRAMES:
        if name in frames:
            return name, ""
    for topic in survey.of_type(ODOMETRY):
        try:
            reader = CdrReader(topic.sample or b"")
            reader.header()
            child = reader.string("child_frame_id").removeprefix("/")
        except PerceptionError:
            continue
        if child and not _derived(topic.name):
            return child, f"base_frame: {child!r}, the child frame of {topic.name}"
    if frames:
        return "", f"no frame of the vehicle (as base_link) among {', '.join(sorted(frames))}"
    return "", "no transforms on /tf or /tf_static"


def _fixed_frame(survey: Survey, frame: str, base: str) -> tuple[str, str]:
    """Return the frame nearest above `frame` in which it moves, empty if there is none, and a note.

    Where nothing moved, as while the vehicle stands, it is the topmost one on /tf that is not the vehicle's.
    """
    way = survey.way_up(frame)
    moved = next((child for child in way if child in survey.moved), None)
    if moved is not None:
        return survey.parents[moved][0], ""
    moving = [child for child in way if child in survey.parents and not survey.parents[child][1]]
    top = survey.parents[moving[-1]][0] if moving else ""
    if top in ("", base, *BASE_FRAMES):
        return "", "no moving transform to an odom or map frame: tracks live in the sensor's frame"
    return top, f"fixed_frame: nothing moves in the transforms that were read; {top} is the topmost of /tf"


def _unused(survey: Survey) -> list[str]:
    kinds = sorted({f"{topic.message_type}" for topic in survey.topics if topic.message_type not in USED})
    return [f"types that no node accepts: {', '.join(kinds)}"] if kinds else []


def _renamed_transforms(survey: Survey) -> list[str]:
    """Return a note where transforms come on topics that the nodes hear only if remapped."""
    names = [topic.name for topic in survey.of_type(TF_TYPE) if topic.name not in ("/tf", "/tf_static")]
    options = " ".join(f"-r {'/tf_static' if 'static' in name else '/tf'}:={name}" for name in names)
    return [f"transforms are on {', '.join(names)}: run with {options}"] if names else []


def _heard_as(camera: SurveyedTopic) -> str:
    """Return the name by which a node subscribes: it knows a CompressedImage by the end of the name."""
    untold = camera.message_type == COMPRESSED and not camera.name.endswith("/compressed")
    return f"{camera.name}/compressed" if untold else camera.name


def _renamed_images(cameras: Sequence[SurveyedTopic]) -> list[str]:
    """Return a note on compressed images whose names do not say so; replay finds them by their type."""
    options = [f"-r {heard}:={one.name}" for one in cameras if (heard := _heard_as(one)) != one.name]
    return [f"nodes of a running graph need {' '.join(options)}; replay does not"] if options else []


def _text(head: Sequence[str], sections: Mapping[str, _Section], use_sim_time: bool) -> str:
    lines = [f"# {_line(note)}" for note in head if note]
    if use_sim_time and sections:
        lines += ["/**:", "  ros__parameters:", "    use_sim_time: true"]
    for name, section in sections.items():
        lines += [f"{name}:", *(f"  # {_line(note)}" for note in section.notes), "  ros__parameters:"]
        # JSON is YAML; names of topics and frames may need its quotes.
        lines += [f"    {key}: {json.dumps(value)}" for key, value in section.parameters.items()]
    if not sections:
        lines.append("# no topic here that a node accepts")
    return "\n".join(lines) + "\n"


def _line(note: str) -> str:
    return " ".join(note.split())
