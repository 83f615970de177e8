"""Parameters of components without ROS: defaults, types and bounds as ROS has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_rt.component.camera_detector import CameraDetector
from perception_rt.component.graph import class_of, output_prefixes, read_graph
from perception_rt.component.parameters import Parameter, check_names, resolve
from perception_rt.types import ConfigError
from perception_rt.types.executables import SOURCES

CONFIGS = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_shipped_files_name_parameters_that_exist(path):
    for node in read_graph(path):
        if node.name not in SOURCES:
            table = class_of("perception_rt.component", node.name).PARAMETERS
            check_names(table, node.parameters)
            resolve(table, node.parameters)


def test_the_lists_of_the_rig_of_six_cameras_fit_each_other():
    graph = {node.name: node.parameters for node in read_graph(CONFIGS[0].with_name("six_cameras.yaml"))}
    images, fusion = graph["camera_detector"]["image_topics"], graph["fusion"]
    prefixes = [output_prefixes(images)[image] for image in images]
    assert fusion["detections_2d_topics"] == [f"camera_detector{prefix}/detections" for prefix in prefixes]
    assert fusion["camera_info_topics"] == [f"{prefix}/camera_info" for prefix in prefixes]
    assert fusion["image_topics"] == images
    assert len(images) == 6


@pytest.mark.parametrize(
    ("topics", "prefixes"),
    [
        (["/image_raw"], [""]),
        (["/front/image_raw", "/rear/image_raw/compressed"], ["/front", "/rear"]),
        (["/image_raw", "/rear/image_raw"], ["", "/rear"]),
        (["/cameras/front", "/cameras/rear/compressed"], ["/cameras/front", "/cameras/rear"]),
        (["/ring_left", "/ring_right"], ["/ring_left", "/ring_right"]),
        (["/a/left", "/a/right", "/b/left"], ["/a/left", "/a/right", "/b/left"]),
    ],
)
def test_each_sensor_publishes_under_a_name_of_its_own(topics, prefixes):
    assert list(output_prefixes(topics).values()) == prefixes


def test_one_camera_as_image_and_as_compressed_image_is_refused():
    with pytest.raises(ConfigError, match="would publish under one name"):
        output_prefixes(["/a/image_raw", "/a/image_raw/compressed"])


def test_what_is_not_given_is_the_default_and_what_is_not_declared_is_left():
    values = resolve(CameraDetector.PARAMETERS, {"rate_hz": 12.0, "use_sim_time": True})
    assert values["rate_hz"] == 12.0
    assert values["bundle"] == "sim_camera"
    assert "use_sim_time" not in values


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rate_hz": 10}, "rate_hz=10: must be of type float"),
        ({"rate_hz": "10"}, "rate_hz='10': must be of type float"),
        ({"half": 1}, "half=1: must be of type bool"),
        ({"threads": True}, "threads=True: must be of type int"),
        ({"image_topics": "image"}, "must be of type list of str"),
        ({"image_topics": [1]}, "must be of type list of str"),
        ({"rate_hz": 0.0}, "rate_hz=0.0: must be within"),
        ({"reliability": "sure"}, "must be one of best_effort, reliable"),
    ],
)
def test_what_ros_would_refuse_is_refused(given, reason):
    with pytest.raises(ConfigError, match=reason):
        resolve(CameraDetector.PARAMETERS, given)


def test_an_empty_list_is_a_list():
    assert resolve([Parameter("topics", ["a"], "")], {"topics": []}) == {"topics": []}


def test_unknown_names_are_refused_with_the_nearest_that_exist():
    with pytest.raises(ConfigError) as error:
        check_names(CameraDetector.PARAMETERS, ["image_topic", "score_treshold", "rate_hz", "zzz", 7])
    said = str(error.value)
    assert "'image_topic': did you mean image_topics" in said
    assert "'score_treshold': did you mean score_threshold" in said
    assert "'zzz'" in said
    assert "'7'" in said
    assert "rate_hz" not in said


def test_what_every_ros_node_has_is_no_unknown_name():
    check_names([], ["use_sim_time", "autostart", "cpu_affinity", "qos_overrides./tf.publisher.depth"])


def test_a_frame_loses_the_leading_slash_that_tf2_refuses():
    table = [Parameter("base_frame", "base_link", ""), Parameter("topic", "/a", "")]
    assert resolve(table, {"base_frame": "/car"}) == {"base_frame": "car", "topic": "/a"}
