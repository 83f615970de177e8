"""What `--live` takes, and the message types that viewers know."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from perception_rt.replay.live import PACKAGES, open_live
from perception_rt.replay.live.address import parse_address
from perception_rt.replay.message_types import VISION_MSGS, definition, typestore
from perception_rt.types import ConfigError

INTERFACES = Path(__file__).parents[2] / "interfaces" / "vision_msgs" / "msg"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "127.0.0.1", 9),
        ("80", "127.0.0.1", 80),
        (":80", "127.0.0.1", 80),
        ("robot", "robot", 9),
        ("robot:80", "robot", 80),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::1]", "::1", 9),
        ("[::1]:80", "::1", 80),
    ],
)
def test_an_address(text, host, port):
    assert parse_address(text, 9) == (host, port)


@pytest.mark.parametrize("text", ["robot:http", "65536", "robot:-1"])
def test_a_port_that_is_none_is_named(text):
    with pytest.raises(ConfigError, match=f"port '{text.rpartition(':')[2]}': must be a number"):
        parse_address(text, 9)


def test_another_viewer_is_refused():
    with pytest.raises(ConfigError, match=r"--live rviz: must be foxglove\[:PORT\] or rerun"):
        open_live("rviz")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_missing_is_named_with_its_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # what Python keeps of a package that cannot be found
    monkeypatch.delitem(sys.modules, f"perception_rt.replay.live.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "perception_rt.replay.live.drawing", raising=False)
    with pytest.raises(ConfigError, match=f"--live {name}: pip install {PACKAGES[name]}"):
        open_live(name)


@pytest.mark.parametrize("name", VISION_MSGS)
def test_a_definition_is_that_of_the_interfaces_that_are_built(name):
    full = f"vision_msgs/msg/{name}"
    built = get_typestore(Stores.LATEST)
    for path in sorted(INTERFACES.glob("*.msg")):
        built.register(get_types_from_msg(path.read_text(), f"vision_msgs/msg/{path.stem}"))
    assert typestore().hash_rihs01(full) == built.hash_rihs01(full)


def test_the_hashes_are_the_published_ones():
    """By which nodes of other installations know the type."""
    assert typestore().hash_rihs01("vision_msgs/msg/Detection2DArray") == (
        "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    )
    assert typestore().hash_rihs01("vision_msgs/msg/Detection3DArray") == (
        "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018"
    )


def test_a_definition_holds_all_that_it_is_made_of():
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition("vision_msgs/msg/Detection3DArray"), "vision_msgs/msg/D"))
    assert "geometry_msgs/msg/PoseWithCovariance" in store.types
    assert definition("strange_msgs/msg/Thing") is None
