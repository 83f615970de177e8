"""The live view in Foxglove, seen by a WebSocket client of its protocol."""

from __future__ import annotations

import json
import struct
import threading
import time

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from perception_rt.codec import parse_image, parse_points
from perception_rt.replay.bag import BagMessage
from perception_rt.replay.live import open_live
from perception_rt.types import ConfigError

from . import looks

pytest.importorskip("foxglove", reason="pip install foxglove-sdk")
websockets = pytest.importorskip("websockets", reason="pip install websockets")
client = pytest.importorskip("websockets.sync.client")

LIMIT_S = 10


class Viewer:
    """What Foxglove does: connects, takes every channel that is offered, and keeps what comes."""

    def __init__(self, port: int, **options) -> None:
        self.socket = client.connect(
            f"ws://127.0.0.1:{port}", subprotocols=["foxglove.sdk.v1"], max_size=None, **options
        )
        self.channels: dict[str, dict] = {}
        self.messages: list[tuple[str, int, bytes]] = []
        self.times: list[int] = []
        self.closed = False
        self._topics: dict[int, str] = {}

    def read_until(self, done) -> None:
        """Read until `done()`, or until the server hangs up."""
        end = time.monotonic() + LIMIT_S
        while not done():
            try:
                self._take(self.socket.recv(timeout=end - time.monotonic()))
            except websockets.ConnectionClosed:
                self.closed = True
                return

    def _take(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            told = json.loads(frame)
            new = told["channels"] if told["op"] == "advertise" else []
            self.channels |= {channel["topic"]: channel for channel in new}
            self._topics |= {channel["id"]: channel["topic"] for channel in new}
            wanted = [{"id": channel["id"], "channelId": channel["id"]} for channel in new]
            if wanted:
                time.sleep(0.05)  # the server offers a channel a moment before it lets it be taken
                self.socket.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))
        elif frame[0] == 1:
            number, log_ns = struct.unpack_from("<IQ", frame, 1)
            self.messages.append((self._topics[number], log_ns, frame[13:]))
        elif frame[0] == 2:
            self.times.append(struct.unpack_from("<Q", frame, 1)[0])

    def of(self, topic: str) -> list[tuple[int, bytes]]:
        return [(log_ns, data) for name, log_ns, data in self.messages if name == topic]


def wait_for(live, topics) -> None:
    """Until the server has the viewer's subscriptions."""
    end = time.monotonic() + LIMIT_S
    while not all(live._channels[topic].has_sinks() for topic in topics):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def live():
    live = open_live("foxglove:0")
    yield live
    live.close()


def show(live, messages: list[BagMessage]) -> None:
    for message in messages:
        live.message(message.topic, message.message_type, message.log_ns, message.data)


def test_a_viewer_sees_every_message_as_it_is(live, shared_data):
    messages = looks.seen(shared_data, frames=3)
    topics = {message.topic: message.message_type for message in messages}
    viewer, began = Viewer(live.port), []
    waiting = threading.Thread(target=lambda: began.append(live.begin(topics, LIMIT_S)))
    waiting.start()
    viewer.read_until(lambda: topics.keys() <= viewer.channels.keys())
    waiting.join()
    assert began == [True]
    wait_for(live, topics)

    show(live, messages)
    viewer.read_until(lambda: len(viewer.messages) >= len(messages))

    assert viewer.messages == [(message.topic, message.log_ns, message.data) for message in messages]
    viewer.read_until(lambda: viewer.times and messages[-1].log_ns - viewer.times[-1] < 50_000_000)
    assert set(viewer.times) <= {message.log_ns for message in messages}
    assert viewer.times[0] == messages[0].log_ns
    assert {looks.IMAGE, looks.POINTS, looks.ANNOTATED, looks.MARKERS, "/tf_static", "/diagnostics"} <= set(
        topics
    )


def test_what_is_told_of_a_channel_is_enough_to_read_it(live, shared_data):
    """As Foxglove does: nothing but the schema that came over the wire reads the bytes that came."""
    messages = looks.seen(shared_data, frames=1)
    topics = {message.topic: message.message_type for message in messages}
    viewer = Viewer(live.port)
    live.begin(topics, 0)
    viewer.read_until(lambda: topics.keys() <= viewer.channels.keys())
    wait_for(live, topics)
    show(live, messages)
    viewer.read_until(lambda: len(viewer.messages) >= len(messages))

    read = {}
    for topic, _, data in viewer.messages:
        channel = viewer.channels[topic]
        assert (channel["encoding"], channel["schemaEncoding"]) == ("cdr", "ros2msg")
        assert channel["schemaName"] == topics[topic]
        store = get_typestore(Stores.EMPTY)
        store.register(get_types_from_msg(channel["schema"], channel["schemaName"]))
        read[topic] = store.deserialize_cdr(data, channel["schemaName"])

    image, cloud = (next(m.data for m in messages if m.topic == t) for t in (looks.IMAGE, looks.POINTS))
    assert (parse_image(read[looks.IMAGE]).data == parse_image(image).data).all()
    assert (parse_points(read[looks.POINTS]).decode().points == parse_points(cloud).decode().points).all()
    assert [marker.text for marker in read[looks.MARKERS].markers if marker.text] == [
        "Car 1 0.90",
        "Pedestrian 2 0.50",
    ]
    assert read["/tf_static"].transforms[0].child_frame_id == "camera_front"
    assert [box.results[0].hypothesis.class_id for box in read[looks.DETECTIONS].detections] == [
        *looks.CLASSES
    ]


def test_ages_are_numbers_on_a_topic_of_their_own(live):
    topic = f"{looks.DETECTIONS}/age_ms"
    live.ages(looks.DETECTIONS, 5, 12.5)  # no client yet
    viewer = Viewer(live.port)
    viewer.read_until(lambda: topic in viewer.channels)
    wait_for(live, [topic])
    live.ages(looks.DETECTIONS, 7, 13.25)
    viewer.read_until(lambda: viewer.messages)
    assert viewer.channels[topic]["schemaName"] == "std_msgs/msg/Float64"
    (log_ns, data), *others = viewer.of(topic)
    read = get_typestore(Stores.LATEST).deserialize_cdr(data, "std_msgs/msg/Float64")
    assert (log_ns, read.data, others) == (7, 13.25, [])


def test_a_late_viewer_gets_the_static_transforms(live, shared_data):
    messages = looks.seen(shared_data, frames=1)
    show(live, messages)
    viewer = Viewer(live.port)
    viewer.read_until(lambda: viewer.messages)
    (static,) = [message for message in messages if message.topic == "/tf_static"]
    assert viewer.messages == [(static.topic, static.log_ns, static.data)]


def test_without_a_viewer_it_goes_on(live):
    began = time.monotonic()
    assert not live.begin({looks.IMAGE: "sensor_msgs/msg/Image"}, 0.2)
    assert 0.2 <= time.monotonic() - began < 2
    live.message(looks.IMAGE, "sensor_msgs/msg/Image", 1, b"\0\1\0\0")


def test_an_unknown_type_has_no_channel(live):
    live.message("/strange", "strange_msgs/msg/Thing", 1, b"\0\1\0\0")
    live.ages("/known", 2, 1.0)
    viewer = Viewer(live.port)
    viewer.read_until(lambda: "/known/age_ms" in viewer.channels)
    assert "/strange" not in viewer.channels


def test_closing_sends_the_last_messages(shared_data):
    messages = looks.seen(shared_data, frames=2)
    topics = {message.topic: message.message_type for message in messages}
    live = open_live("foxglove:0")
    viewer = Viewer(live.port)
    live.begin(topics, 0)
    viewer.read_until(lambda: topics.keys() <= viewer.channels.keys())
    wait_for(live, topics)
    show(live, messages)
    closing = threading.Thread(target=live.close)
    closing.start()
    viewer.read_until(lambda: False)
    closing.join()
    assert viewer.closed
    assert len(viewer.messages) == len(messages)


def test_a_viewer_that_hangs_does_not_keep_the_replay_from_its_end(shared_data):
    """Its buffers are full, and it does not disconnect."""
    messages = looks.seen(shared_data, frames=1)
    topics = {message.topic: message.message_type for message in messages}
    live = open_live("foxglove:0")
    viewer = Viewer(live.port, max_queue=1, ping_interval=None)
    live.begin(topics, 0)
    viewer.read_until(lambda: topics.keys() <= viewer.channels.keys())
    wait_for(live, topics)
    for _ in range(30):
        show(live, messages)
    began = time.monotonic()
    live.close()
    assert time.monotonic() - began < 5
    viewer.read_until(lambda: False)
    assert viewer.closed
    assert len(viewer.messages) < 30 * len(messages)  # so it did hang


def test_a_port_that_is_taken_is_named(live):
    with pytest.raises(
        ConfigError, match=f"--live foxglove:{live.port}: cannot serve on 127.0.0.1:{live.port}"
    ):
        open_live(f"foxglove:{live.port}")


def test_the_address_to_open_is_told(live):
    assert f"ws://localhost:{live.port}" in live.where
    assert "https://" in live.where
