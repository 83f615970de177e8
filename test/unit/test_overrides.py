"""Overrides of parameters and topics, as they are written on a command line."""

from __future__ import annotations

import pytest

from perception_rt.cli.overrides import parse_parameters, parse_remaps
from perception_rt.types import ConfigError


@pytest.mark.parametrize(
    ("text", "node", "name", "value"),
    [
        ("rate_hz:=15.0", "", "rate_hz", 15.0),
        ("camera_detector:threads:=-1", "camera_detector", "threads", -1),
        ("/front/camera_detector:half:=true", "/front/camera_detector", "half", True),
        ("fix_lever_arm_m:=[1.5, -0.5]", "", "fix_lever_arm_m", [1.5, -0.5]),
        ("image_topics:=[/a/image_raw, /b/image_raw]", "", "image_topics", ["/a/image_raw", "/b/image_raw"]),
        ("bundle:=/models/a:=b.pt", "", "bundle", "/models/a:=b.pt"),
        ("fixed_frame:=''", "", "fixed_frame", ""),
        ("fixed_frame:='1'", "", "fixed_frame", "1"),
    ],
)
def test_values_are_read_as_ros_reads_them(text, node, name, value):
    found = parse_parameters([text])
    assert found == {node: {name: value}}
    assert type(found[node][name]) is type(value)


def test_the_last_of_two_wins_and_nodes_are_apart():
    found = parse_parameters(["a:x:=1", "a:y:=2", "x:=3", "a:x:=4"])
    assert found == {"a": {"x": 4, "y": 2}, "": {"x": 3}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rate_hz=15.0", "must be NAME:=VALUE"),
        (":=1", "must be NAME:=VALUE"),
        ("node::=1", "must be NAME:=VALUE"),
        ("", "must be NAME:=VALUE"),
        ("topics:=[a", "not YAML"),
        ("bundle:=2024-13-01", "not YAML: month must be in"),
        ("threads:=!!int many", "not YAML"),
        ("bundle:=!!python/name:os.system", "not YAML"),
    ],
)
def test_what_is_no_override_is_refused_by_name(text, said):
    with pytest.raises(ConfigError, match=said) as raised:
        parse_parameters([text])
    assert text in str(raised.value)


def test_topics_are_absolute():
    assert parse_remaps(["image_raw:=front/image_raw", "/tf:=/robot/tf"]) == {
        "/image_raw": "/front/image_raw",
        "/tf": "/robot/tf",
    }


@pytest.mark.parametrize("text", ["a", "a:=", ":=b", ""])
def test_what_is_no_remapping_is_refused(text):
    with pytest.raises(ConfigError, match="must be FROM:=TO"):
        parse_remaps([text])
