"""perception-rt init: a parameter file for any recording, which replay takes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from perception_rt.cli.main import main
from perception_rt.codec import encode_compressed, encode_image, encode_points
from perception_rt.component.graph import read_graph
from perception_rt.component.parameters import check_names, resolve
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.lockstep.graph import replayable_nodes
from perception_rt.replay.parameter_file import parameter_file
from perception_rt.replay.storage.metadata import read_metadata
from perception_rt.replay.survey import Survey, SurveyedTopic, survey_bag
from test import drives

COMPRESSED = "sensor_msgs/msg/CompressedImage"
IMAGE, CLOUD, IMU = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Imu"
S = 10**9


def written(path: Path, out: Path) -> tuple[dict[str, dict], str]:
    """The parameters of each node in the file for a recording, and its text."""
    assert main(["init", str(path), "--out", str(out), "--force"]) == 0
    nodes = read_graph(out)
    for node, make in replayable_nodes(nodes):
        check_names(make.PARAMETERS, node.parameters)
        resolve(make.PARAMETERS, {**node.inherited, **node.parameters})
    return {node.name: node.parameters for node in nodes}, out.read_text()


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    return drives.write_drive(tmp_path_factory.mktemp("init") / "drive", 1.0)


def test_a_drive_with_every_sensor(drive, tmp_path):
    nodes, text = written(drive, tmp_path / "car.yaml")
    assert nodes["camera_detector"] == {"image_topics": [drives.IMAGE], "warmup_sizes": ["320x180"]}
    assert nodes["lidar_detector"] == {"points_topics": [drives.POINTS]}
    assert nodes["fusion"]["camera_info_topic"] == drives.CAMERA_INFO
    assert nodes["fusion"]["fixed_frame"] == nodes["object_tracker"]["fixed_frame"] == "odom"
    assert nodes["object_tracker"]["detections_topic"] == "fusion/detections"
    ego = nodes["vehicle_state"]
    assert (ego["odometry_topic"], ego["imu_topic"]) == (drives.ODOM, drives.IMU)
    assert (ego["frame_id"], ego["base_frame"]) == ("odom", "base_link")
    assert nodes["bag_player"]["bag"] == str(drive)
    assert f"{drives.IMAGE}: 320x180, " in text
    assert "mounted in base_link at x " in text


def test_the_file_works_with_replay(drive, tmp_path, capsys):
    config = tmp_path / "car.yaml"
    written(drive, config)
    arguments = ("--config", str(config), "--out", str(tmp_path / "out"), "--inference", "fixed:20")
    assert main(["replay", str(drive), *arguments, "--no-report"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert all("boxes on one object" in line for line in said)  # the detector's, not the file's


@pytest.mark.parametrize("name", ["kitti_city", "nuscenes_keyframe", "husky_test1.bag"])
def test_real_recordings(shared_data, tmp_path, name):
    nodes, text = written(shared_data / "bags" / name, tmp_path / "car.yaml")
    if name == "husky_test1.bag":
        assert nodes["vehicle_state"]["odometry_topic"] == "/husky_velocity_controller/odom"
        assert nodes["vehicle_state"]["fix_topic"] == "/fix"
        assert "/imu/data: no transform from 'imu_link' to 'base_link'" in text
    else:
        assert len(nodes["camera_detector"]["image_topics"]) == (6 if "nuscenes" in name else 1)
        fusion = nodes["fusion"]
        if "nuscenes" in name:
            assert len(fusion["detections_2d_topics"]) == len(fusion["camera_info_topics"]) == 6
            at = fusion["camera_info_topics"].index("/cam_front/camera_info")
            assert fusion["detections_2d_topics"][at] == "camera_detector/cam_front/detections"
        else:
            assert fusion["camera_info_topic"] == "/camera/front/camera_info"
            assert fusion["detections_2d_topic"] == "camera_detector/detections"


def image(frame: str, encoding: str = "rgb8", size: int = 8) -> bytes:
    return encode_image(np.zeros((size, size, 3), np.uint8), encoding, S, frame)


def test_a_broken_first_message_does_not_cost_the_camera(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for number in range(4):
            data = image("cam")[:40] if number < 2 else image("cam")
            writer.write("/cam/image_raw", IMAGE, S + number * S // 10, data)
    nodes, text = written(tmp_path / "bag", tmp_path / "car.yaml")
    assert nodes["camera_detector"]["image_topics"] == ["/cam/image_raw"]
    assert "/cam/image_raw: 8x8" in text


def test_of_several_topics_of_a_camera_one_is_used_and_the_others_are_told():
    survey = Survey(
        [
            SurveyedTopic("/cam/image_rect", IMAGE, 10.0, image("cam")),
            SurveyedTopic("/cam/image_raw", IMAGE, 10.0, image("cam")),
            SurveyedTopic("/camera_detector/image_annotated", IMAGE, 10.0, image("cam")),
            SurveyedTopic("/depth/image_raw", IMAGE, 10.0, image("cam")),
            SurveyedTopic("/silent/image_raw", IMAGE),
            SurveyedTopic("/broken/image_raw", IMAGE, 10.0, image("cam")[:40]),
        ]
    )
    text = parameter_file(survey, "x", False, {})
    nodes = yaml.safe_load(text)
    assert nodes["camera_detector"]["ros__parameters"]["image_topics"] == ["/cam/image_raw"]
    assert nodes["object_tracker"]["ros__parameters"]["dimensions"] == "2d"
    for reason in (
        "/cam/image_rect: /cam/image_raw is used",
        "/camera_detector/image_annotated: its name says camera_detector",
        "/depth/image_raw: its name says depth",
        "/silent/image_raw: no message came",
        "/broken/image_raw: ",
    ):
        assert f"# not used: {reason}" in text
    assert "use_sim_time" not in text


@pytest.mark.parametrize("frames", [("left", "right"), ("", "")])
def test_cameras_whose_names_begin_alike_are_each_used(frames):
    names = "/image_left", "/image_right"
    survey = Survey(
        [SurveyedTopic(name, IMAGE, 10.0, image(frame)) for name, frame in zip(names, frames, strict=True)]
        + [SurveyedTopic("/image_left_rect_color", IMAGE, 10.0, image(frames[0]))]
    )
    nodes = yaml.safe_load(parameter_file(survey, "x", False, {}))
    assert nodes["camera_detector"]["ros__parameters"]["image_topics"] == list(names)


def test_cameras_and_lidars_that_share_a_namespace_are_each_used():
    points = {frame: encode_points(np.zeros((4, 4), np.float32), S, frame) for frame in ("left", "right")}
    survey = Survey(
        [SurveyedTopic(f"/cameras/{name}", IMAGE, 10.0, image(name)) for name in ("a", "b")]
        + [SurveyedTopic("/cameras/a_rectified", IMAGE, 10.0, image("a"))]
        + [SurveyedTopic(f"/lidar_{name}", CLOUD, 10.0, data) for name, data in points.items()]
        + [SurveyedTopic("/os/points", CLOUD, 10.0, points["left"])]
        + [SurveyedTopic("/os/points_filtered", CLOUD, 10.0, points["right"])]
    )
    text = parameter_file(survey, "x", False, {})
    nodes = yaml.safe_load(text)
    assert nodes["camera_detector"]["ros__parameters"]["image_topics"] == ["/cameras/a", "/cameras/b"]
    lidars = nodes["lidar_detector"]["ros__parameters"]["points_topics"]
    assert lidars == ["/lidar_left", "/lidar_right", "/os/points"]
    assert "# not used: /cameras/a_rectified: /cameras/a is used" in text
    assert "# not used: /os/points_filtered: /os/points is used" in text


def test_a_compressed_image_is_replayed_whatever_its_name(tmp_path, capsys):
    with BagWriter(tmp_path / "bag") as writer:
        for number in range(4):
            stamp_ns = S + number * S // 10
            jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1]
            data = encode_compressed(jpeg, "jpeg", stamp_ns, "cam")
            writer.write("/cam0/jpeg", COMPRESSED, stamp_ns, data)
    nodes, text = written(tmp_path / "bag", tmp_path / "car.yaml")
    assert nodes["camera_detector"]["image_topics"] == ["/cam0/jpeg/compressed"]
    assert "-r /cam0/jpeg/compressed:=/cam0/jpeg; replay does not" in text
    given = ["--config", str(tmp_path / "car.yaml"), "--inference", "fixed:20", "--no-report"]
    assert main(["replay", str(tmp_path / "bag"), *given, "--out", str(tmp_path / "out")]) == 0
    streams = json.loads((tmp_path / "out/metrics.json").read_text())["streams"].values()
    assert next(one for one in streams if one["topic"] == "/cam0/jpeg")["states"]["published"] == 4
    capsys.readouterr()
    given += ["-p", "image_topics:=[/cam0/jpeg]", "--out", str(tmp_path / "other")]
    assert main(["replay", str(tmp_path / "bag"), *given]) == 2
    assert "name it /cam0/jpeg/compressed" in capsys.readouterr().err


def test_a_camera_info_goes_to_one_image(drive):
    with Bag(drive) as bag:
        survey = survey_bag(bag)
    survey.topics.append(SurveyedTopic("/a/drawn", IMAGE, 10.0, image(drives.OPTICAL_FRAME)))
    text = parameter_file(survey, "x", False, {})
    fusion = yaml.safe_load(text)["fusion"]["ros__parameters"]
    assert fusion["camera_info_topic"] == drives.CAMERA_INFO
    assert fusion["detections_2d_topic"] == "camera_detector/camera/detections"
    assert f"# not fused: /a/drawn: {drives.CAMERA_INFO} is the CameraInfo of {drives.IMAGE}" in text


def test_the_name_of_an_image_tells_whether_it_is_rectified(drive):
    def rectified(name: str) -> bool:
        with Bag(drive) as bag:
            survey = survey_bag(bag)
        next(topic for topic in survey.topics if topic.name == drives.IMAGE).name = name
        fusion = yaml.safe_load(parameter_file(survey, "x", False, {}))["fusion"]["ros__parameters"]
        return fusion.get("image_is_rectified", False)

    names = ("image_rect_color", "image_rectified/compressed", "image_unrectified", "direct", "image_raw")
    assert [rectified(f"/camera/{name}") for name in names] == [True, True, False, False, False]


def test_frames_without_a_transform_are_not_fused_and_nothing_gives_a_comment():
    points = encode_points(np.zeros((4, 4), np.float32), S, "lidar")
    survey = Survey(
        [
            SurveyedTopic("/cam/image_raw", IMAGE, 10.0, image("cam")),
            SurveyedTopic("/lidar/points", CLOUD, 10.0, points),
        ]
    )
    nodes = yaml.safe_load(parameter_file(survey, "x", False, {}))
    assert "fusion" not in nodes
    assert nodes["object_tracker"]["ros__parameters"]["detections_topic"] == "lidar_detector/detections"
    assert "# no topic here that a node accepts" in parameter_file(Survey(), "x", True, {"bag": "x"})


def test_a_mount_that_is_published_on_tf_is_no_motion():
    points = encode_points(np.zeros((4, 4), np.float32), S, "lidar")
    mount, unturned = ("base_link", "lidar", (1, 0, 2), (0, 0, 0, 1)), (0, 0, 0, 1)

    def tracker(*rows: tuple) -> tuple[dict, str]:
        survey = Survey([SurveyedTopic("/lidar/points", CLOUD, 10.0, points)])
        survey.add_transforms("/tf", [drives.transforms([(S + at, *row)]) for at, row in enumerate(rows)])
        text = parameter_file(survey, "x", False, {})
        return yaml.safe_load(text)["object_tracker"]["ros__parameters"], text

    drive = [("odom", "base_link", (x, 0, 0), unturned) for x in (0, 1)]
    above = ("map", "odom", (5, 0, 0), unturned)
    assert tracker(mount, drive[0], above, mount, drive[1], above)[0]["fixed_frame"] == "odom"
    standing, text = tracker(mount, drive[0], mount, drive[0])
    assert standing["fixed_frame"] == "odom"
    assert "# fixed_frame: nothing moves in the transforms that were read" in text
    assert tracker(mount, mount)[0]["fixed_frame"] == ""


@pytest.mark.parametrize("version", [8, 9])
def test_qos_is_read_from_the_metadata_of_any_version(tmp_path, version):
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    never = QosTime(0, 0)
    qos = Qos(
        QosHistory.KEEP_LAST,
        5,
        QosReliability.BEST_EFFORT,
        QosDurability.VOLATILE,
        never,
        never,
        QosLiveliness.AUTOMATIC,
        never,
        avoid_ros_namespace_conventions=False,
    )
    with Writer(tmp_path / "bag", version=version, storage_plugin=StoragePlugin.SQLITE3) as bag:
        given = {"typestore": drives.typestore(), "offered_qos_profiles": [qos]}
        bag.write(bag.add_connection("/cam/image_raw", IMAGE, **given), S, image("cam"))
    assert read_metadata(tmp_path / "bag").offers == {"/cam/image_raw": "best effort"}
    with Bag(tmp_path / "bag") as opened:
        assert survey_bag(opened).topics[0].qos == "best effort"


def test_qos_of_humble_is_a_text_of_numbers(drive, tmp_path):
    text = (drive / "metadata.yaml").read_text()
    content = yaml.safe_load(text)
    for entry in content["rosbag2_bagfile_information"]["topics_with_message_count"]:
        profile = [{"history": 3, "reliability": 2, "durability": 1}]
        entry["topic_metadata"]["offered_qos_profiles"] = yaml.safe_dump(profile)
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump(content))
    assert set(read_metadata(tmp_path).offers.values()) == {"best effort, transient local"}


def test_unknown_keys_are_refused_with_the_nearest(drive, tmp_path, capsys):
    config = tmp_path / "car.yaml"
    for text, words in {
        "vehicle_state: {ros__parameters: {odometri_topic: /odom}}": "did you mean odometry_topic",
        "/**: {ros__parameters: {imu_topc: a}}\nvehicle_state: {ros__parameters: {}}": "/**: no parameter",
    }.items():
        config.write_text(text)
        assert main(["replay", str(drive), "--config", str(config), "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    config.write_text("vehicle_state: {ros__parameters: {}}")
    given = ["--config", str(config), "--out", str(tmp_path / "out"), "-p", "rate_hs:=5.0"]
    assert main(["replay", str(drive), *given]) == 2
    assert "did you mean rate_hz" in capsys.readouterr().err


def test_an_existing_file_stays(drive, tmp_path, capsys):
    (tmp_path / "car.yaml").write_text("mine")
    assert main(["init", str(drive), "--out", str(tmp_path / "car.yaml")]) == 2
    assert (tmp_path / "car.yaml").read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "nowhere")]) == 2
