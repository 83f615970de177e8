"""The clock of a replay: stamps of another clock, of several clocks, and gaps in log time."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.cli.main import main
from perception_rt.codec.vehicle import encode_odometry
from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.time_base import choose_time_base
from perception_rt.replay.warnings import warnings_of
from perception_rt.types import ConfigError
from perception_rt.types.state import EgoState
from test.mcap_forms import write_mcap

S, MS = 10**9, 10**6
START_NS = 1_700_000_000 * S
ODOM = "nav_msgs/msg/Odometry"


def odometry(stamp_ns: int, x: float = 0.0) -> bytes:
    return encode_odometry(EgoState(stamp_ns, x, 0.0, 0.0, 5.0, 0.0, 0.0, np.eye(6)), "odom", "base_link")


def write(folder: Path, behind_ns: dict[str, int], count: int = 60, late_ns: int = 5 * MS) -> Path:
    """Odometry at 20 Hz on each topic, whose stamps are behind the log time by a clock and by `late_ns`."""
    with BagWriter(folder) as bag:
        for number in range(count):
            for topic, behind in behind_ns.items():
                stamp_ns = START_NS + number * 50 * MS - behind
                bag.write(topic, ODOM, START_NS + number * 50 * MS + late_ns, odometry(stamp_ns, number / 4))
    return folder


def clock_of(folder: Path, how: str = "auto"):
    with Bag(folder) as bag:
        base = choose_time_base(bag, list(bag.topics), how)
        bag.retime(base.behind_ns)
        return base, list(bag.messages())


def replayed(folder: Path, out: Path, *more: str, **parameters: object) -> tuple[int, dict]:
    config = out.parent / f"{out.name}.yaml"
    values = {"odometry_topic": "/odom", "imu_topic": "", **parameters}
    config.write_text(yaml.safe_dump({"vehicle_state": {"ros__parameters": values}}))
    given = [
        "replay",
        folder,
        "--config",
        config,
        "--out",
        out,
        "--inference",
        "fixed:5",
        "--no-report",
        *more,
    ]
    code = main(list(map(str, given)))
    path = out / "metrics.json"
    return code, json.loads(path.read_text()) if path.exists() else {}


def test_stamps_of_one_other_clock_move_all_topics_alike(tmp_path):
    bag = write(tmp_path / "bag", {"/a": 1000 * S, "/b": 1000 * S + 20 * MS})
    base, messages = clock_of(bag)
    assert base.follows == "stamps"
    # The topic that comes soonest after its stamp comes at it: the other keeps its delay.
    assert base.behind_ns == {"/a": 1000 * S + 5 * MS, "/b": 1000 * S + 5 * MS}
    assert [m.topic for m in messages] == ["/a", "/b"] * 60
    assert messages[0].log_ns == START_NS - 1000 * S
    assert base.summary()["offsets_s"] == {"/a": -1000.005, "/b": -1000.025}


def test_log_times_stay_where_the_stamps_agree_and_where_that_is_asked_for(tmp_path):
    same, other = write(tmp_path / "same", {"/a": 30 * MS}), write(tmp_path / "other", {"/a": -5 * S})
    assert clock_of(same)[0].follows == "log"
    base, messages = clock_of(other, "log")
    assert base.follows == "log"
    assert messages[0].log_ns == START_NS + 5 * MS
    assert base.summary()["offsets_s"] == {"/a": 4.995}
    with pytest.raises(ConfigError, match="--time=clock: must be one of auto, log, stamps"):
        clock_of(same, "clock")


def test_one_sensor_of_another_clock_moves_only_with_stamps(tmp_path):
    bag = write(tmp_path / "bag", {"/a": 0, "/b": 0, "/camera": -30 * S})
    base, _ = clock_of(bag)
    assert set(base.behind_ns.values()) == {0}
    base, messages = clock_of(bag, "stamps")
    assert base.behind_ns == {"/a": 0, "/b": 0, "/camera": -30 * S + 5 * MS}
    assert [m.log_ns for m in messages] == sorted(m.log_ns for m in messages)
    assert [m.topic for m in messages[-60:]] == ["/camera"] * 60
    with Bag(bag) as opened:  # a range of time is that of the moved times
        opened.retime(base.behind_ns)
        part = list(opened.messages(["/camera"], START_NS + 30 * S, START_NS + 31 * S))
    assert len(part) == 20


def test_no_time_goes_below_zero_and_stamps_of_zero_say_nothing(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/early", "std_msgs/msg/Empty", 2 * S, b"\0\1\0\0\0")
        for number in range(40):
            stamp_ns = 0 if number < 2 else number * 100 * MS
            bag.write("/odom", ODOM, 9 * S + number * 100 * MS, odometry(stamp_ns))
    base, messages = clock_of(tmp_path / "bag")
    assert base.behind_ns["/odom"] == 9 * S
    assert messages[0].log_ns == 0
    assert messages[3].log_ns == 200 * MS


FAULTS = {
    "zero": (lambda number: 0, "/odom: all stamps are 0: the driver must set header.stamp"),
    "equal": (
        lambda number: START_NS,
        "/odom: all stamps are the same: the driver must stamp each message anew",
    ),
    "falling": (lambda number: START_NS - number * 100 * MS, "/odom: stamps run backwards"),
    "falling far": (lambda number: START_NS - number * 2 * S, "/odom: stamps run backwards"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside good ones"])
def test_stamps_that_say_nothing_are_named_and_move_no_clock(tmp_path, capsys, fault, alone):
    stamp_of, said = FAULTS[fault]
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(60):
            log_ns = START_NS + number * 100 * MS
            bag.write("/odom", ODOM, log_ns, odometry(stamp_of(number)))
            if not alone:
                bag.write("/other", ODOM, log_ns, odometry(log_ns - 5 * MS))
    base, _ = clock_of(tmp_path / "bag")
    assert not any(base.behind_ns.values())
    assert set(base.offsets) == (set() if alone else {"/other"})
    _, metrics = replayed(tmp_path / "bag", tmp_path / "out")
    told = capsys.readouterr().out
    lines = [line for line in warnings_of(metrics) if "/odom" in line]
    assert lines[0].startswith(said)
    assert said in told
    assert [word for word in ("slower than", "faster bundle", "--time") if word in told] == []


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["/a", "/b", "/c", "/d"]),
        st.integers(-(10**6), 10**6).map(lambda s: s * S),
        min_size=1,
    ),
    st.sampled_from(["auto", "log", "stamps"]),
)
def test_messages_come_in_order_and_complete_for_any_clocks(behind_ns, how):
    with tempfile.TemporaryDirectory() as folder:
        _, messages = clock_of(write(Path(folder) / "bag", behind_ns, count=8), how)
    assert len(messages) == 8 * len(behind_ns)
    assert [m.log_ns for m in messages] == sorted(m.log_ns for m in messages)


@pytest.mark.parametrize("behind_s", [-5, 1_699_999_072])
def test_a_replay_follows_the_stamps_and_says_so(tmp_path, capsys, behind_s):
    bag = write(tmp_path / "bag", {"/odom": behind_s * S})
    code, metrics = replayed(bag, tmp_path / "out")
    assert code == 0
    assert metrics["outputs"]["/vehicle_state/odometry"]["messages"] > 140
    assert metrics["streams"]["/vehicle_state: /odom"]["age_ms"]["max"] < 50
    told = "".join(capsys.readouterr().out.split("\n"))
    assert f"warning: /odom: stamps are {abs(behind_s)}.0 s" in told
    assert "the clock follows the stamps" in told


def test_a_gap_in_log_time_is_skipped_and_told(tmp_path, capsys):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(100):
            log_ns = START_NS + number * 50 * MS + (number >= 50) * 66 * 86400 * S
            bag.write("/odom", ODOM, log_ns, odometry(log_ns))
    code, metrics = replayed(tmp_path / "bag", tmp_path / "out")
    assert code == 0
    assert metrics["streams"]["/vehicle_state: /odom"]["states"]["published"] == 100
    assert metrics["outputs"]["/vehicle_state/odometry"]["messages"] < 400
    assert 5 < metrics["bag"]["duration_s"] < 7
    assert "s without a message skipped" in capsys.readouterr().out
    (gap,) = metrics["bag"]["gaps"]
    assert abs(gap["skipped_ns"] - 66 * 86400 * S) < 2 * S
    assert replayed(tmp_path / "bag", tmp_path / "out", "--max-gap", "0")[0] == 2


def test_what_is_due_moves_with_the_clock():
    loop, made = EventLoop(0), []
    loop.every(10, lambda: made.append(loop.now_ns()))
    loop.run_until(25)
    loop.skip_to(1025)
    loop.run_until(1050)
    assert made == [10, 20, 1030, 1040, 1050]


def test_mostly_lost_streams_are_named_with_reason_and_remedy(tmp_path, capsys):
    bag = tmp_path / "bag"
    with BagWriter(bag) as writer:
        for number in range(20):
            log_ns = START_NS + number * 50 * MS
            writer.write("/odom", ODOM, log_ns, odometry(log_ns)[: 200 if number % 4 else None])
    _, metrics = replayed(bag, tmp_path / "out")
    (line,) = [text for text in warnings_of(metrics) if "lost" in text]
    assert line.startswith("/vehicle_state: /odom: 15 of 20 messages are lost (decode_error: ")
    assert line.endswith("; correct the driver, or remap to another topic")
    assert line in "".join(capsys.readouterr().out.split("\n"))


def test_a_recording_without_a_message_is_named(tmp_path, capsys):
    with BagWriter(tmp_path / "bag"):
        pass
    config = tmp_path / "config.yaml"
    config.write_text("vehicle_state: {ros__parameters: {odometry_topic: /odom}}")
    assert (
        main(["replay", str(tmp_path / "bag"), "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    )
    assert "the recording has no messages" in capsys.readouterr().err


def test_a_topic_of_another_encoding_is_named_with_the_remedy(tmp_path, capsys):
    logged = [BagMessage("/odom", "nav_msgs/msg/Odometry", START_NS, b"{}")]
    bag = write_mcap(tmp_path / "bag.mcap", logged, encoding="json")
    assert replayed(bag, tmp_path / "out")[0] == 2
    said = capsys.readouterr().err
    assert "/odom (nav_msgs/msg/Odometry encoded as json)" in said
    assert "only CDR and ROS 1 messages are read" in said
    assert "did you mean" not in said
