"""The buffer and the folder of bags of events."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_rt.replay import events
from perception_rt.replay.bag import Bag
from perception_rt.replay.events import EventBuffer, EventFolder, KeptMessage
from perception_rt.replay.message_types import LABEL_INFO
from perception_rt.types import BagError
from test.drives import TOPICS, transforms, write_drive

SECOND = 10**9
STRING = "std_msgs/msg/String"
TF = "tf2_msgs/msg/TFMessage"


def kept(log_ns: int, size: int = 20, topic: str = "/x") -> KeptMessage:
    return KeptMessage(
        log_ns, topic, STRING, b"\0\1\0\0" + size.to_bytes(4, "little") + b"a" * (size - 1) + b"\0"
    )


@given(
    steps=st.lists(st.tuples(st.integers(-2, 5), st.integers(1, 300)), max_size=80),
    seconds=st.integers(1, 20),
    limit=st.integers(50, 2000),
)
def test_the_buffer_is_bounded_in_time_and_bytes(steps, seconds, limit):
    buffer, now = EventBuffer(seconds, limit), 10 * SECOND
    for step, size in steps:
        now += step * SECOND
        buffer.add(kept(now, size))
        messages = buffer.messages()
        assert sum(len(message.data) for message in messages) == buffer.held_bytes <= limit
        times = [message.log_ns for message in messages]
        assert times == sorted(times)
        assert not times or times[-1] - times[0] <= seconds * SECOND


@pytest.mark.parametrize(
    ("topic", "message_type"),
    [("/tf_static", STRING), ("/robot/tf_static", STRING), ("/camera_segmenter/label_info", LABEL_INFO)],
)
def test_what_is_published_once_stays_and_comes_first_once_each(topic, message_type):
    buffer = EventBuffer(1.0, 1000)
    for _ in range(3):
        buffer.add(kept(5, topic=topic)._replace(message_type=message_type))
    buffer.add(kept(100 * SECOND))
    assert [(m.topic, m.log_ns) for m in buffer.messages()] == [(topic, 100 * SECOND), ("/x", 100 * SECOND)]


def test_equal_messages_of_two_topics_are_both_kept():
    buffer = EventBuffer(1.0, 1000)
    for topic in ("/left/label_info", "/right/label_info"):
        buffer.add(kept(5, topic=topic)._replace(message_type=LABEL_INFO))
    buffer.add(kept(6))
    assert [m.topic for m in buffer.messages()] == ["/left/label_info", "/right/label_info", "/x"]


def test_a_bag_of_an_event_reads_as_what_was_kept(tmp_path):
    buffer = EventBuffer(1.0, 10**9)
    with Bag(write_drive(tmp_path / "drive", 2.0)) as bag:
        for message in bag.messages():
            buffer.add(KeptMessage(message.log_ns, message.topic, TOPICS[message.topic], message.data))
    path = EventFolder(tmp_path / "events", 3, 10**9).write("1", buffer.messages())
    with Bag(path) as bag:
        read = [(message.log_ns, message.topic, bytes(message.data)) for message in bag.messages()]
        assert bag.duration_s <= 1.0
    assert sorted(read) == sorted((m.log_ns, m.topic, m.data) for m in buffer.messages())


def test_the_oldest_bags_go_and_nothing_else(tmp_path):
    store = EventFolder(tmp_path, 2, 10**6)
    (tmp_path / "mine.txt").write_text("stays")
    for number in range(4):
        store.write(str(number), [kept(SECOND)])
    assert [path.name for path in store.bags()] == ["event_2", "event_3"]
    assert (tmp_path / "mine.txt").exists()
    small = EventFolder(tmp_path, 100, sum(f.stat().st_size for f in (tmp_path / "event_3").iterdir()) + 200)
    small.write("4", [kept(SECOND)])
    assert [path.name for path in store.bags()] == ["event_3", "event_4"]


@pytest.mark.parametrize("messages", [[], [kept(SECOND, 2000)]])
def test_no_messages_and_too_many_are_refused(tmp_path, messages):
    with pytest.raises(BagError, match=r"event_1: "):
        EventFolder(tmp_path, 2, 1000).write("1", messages)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_typed_error_that_leaves_nothing_and_removes_nothing(tmp_path, monkeypatch):
    store = EventFolder(tmp_path, 5, 10**6)
    store.write("0", [kept(SECOND)])
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage(1000))
        with pytest.raises(BagError, match="the disk is full: 1000 bytes are free"):
            store.write("1", [kept(SECOND)])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(events.BagWriter, "write", full)
        with pytest.raises(BagError, match="No space left on device"):
            store.write("1", [kept(SECOND)])
    assert [path.name for path in tmp_path.iterdir()] == ["event_0"]
    store.write("2", [kept(SECOND)])
    assert len(store.bags()) == 2


def test_transforms_that_are_said_again_replace_their_earlier_message():
    buffer = EventBuffer(1.0, 10**6)
    mount = transforms([(0, "base_link", "imu", (0.0, 0.0, 1.0), 0.0)])
    buffer.add(KeptMessage(5, "/tf_static", TF, mount))
    for number in range(events.KEPT_STATIC + 5):
        again = transforms([(number, "base_link", "lidar", (0.0, 0.0, 2.0), 0.0)])
        buffer.add(KeptMessage(6, "/tf_static", TF, again))
    buffer.add(KeptMessage(7, "/tf_static", TF, b"damaged"))
    buffer.add(kept(8))
    assert [m.data for m in buffer.messages()[:3]] == [mount, again, b"damaged"]


def test_a_small_step_of_the_clock_costs_no_message():
    buffer = EventBuffer(60.0, 10**6)
    for log_ns in (5 * SECOND, 5 * SECOND - 1, 6 * SECOND):
        buffer.add(kept(log_ns))
    assert [m.log_ns for m in buffer.messages()] == [5 * SECOND, 5 * SECOND, 6 * SECOND]
    buffer.add(kept(4 * SECOND))
    assert [m.log_ns for m in buffer.messages()] == [4 * SECOND]


def test_what_a_killed_process_left_is_removed_before_the_next_bag(tmp_path):
    left, current = tmp_path / "event_0.part", tmp_path / "event_1.part"
    for folder, age_s in ((left, 2 * events.LEFT_S), (current, 0)):
        folder.mkdir()
        (folder / "x.mcap").touch()
        for path in (folder / "x.mcap", folder):
            os.utime(path, (time.time() - age_s,) * 2)
    EventFolder(tmp_path, 5, 10**6).write("2", [kept(SECOND)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["event_1.part", "event_2"]
