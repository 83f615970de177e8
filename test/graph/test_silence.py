"""Inputs that are silent: a driver that was not started, a robot that is parked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sensor_msgs.msg import CameraInfo, Image, Imu

from perception_rt.node import qos
from perception_rt.node.qos import AdaptiveSubscription

from .conftest import wait_for


def subscription(bench, kind: type) -> AdaptiveSubscription:
    return AdaptiveSubscription(bench.node, kind, "/sensor", lambda data: None, "best_effort")


def seconds(one: AdaptiveSubscription, count: int) -> None:
    for _ in range(count):
        one.every_second()


@pytest.mark.parametrize("kind", [Image, Imu, CameraInfo])
def test_without_a_publisher_nothing_changes(bench, kind):
    one = subscription(bench, kind)
    seconds(one, 60)
    assert one.reliability == "best_effort"
    assert not bench.said("/sensor", "instead of")


@pytest.mark.parametrize("kind", [Imu, CameraInfo])
def test_small_messages_are_not_lost_for_their_size(bench, kind):
    one = subscription(bench, kind)
    bench.publisher("/sensor", "reliable", kind)
    assert wait_for(one.publisher_count)
    seconds(one, 60)
    assert one.reliability == "best_effort"


def test_a_silent_publisher_of_images_is_tried_as_reliable_once_and_left_again(bench):
    one = subscription(bench, Image)
    publisher = bench.publisher("/sensor", "reliable")
    assert wait_for(one.publisher_count)
    seconds(one, qos.SILENT_S - 1)
    assert one.reliability == "best_effort"
    seconds(one, 1)
    assert one.reliability == "reliable"
    assert bench.said("/sensor", "1 publisher, but no message came for 8 s")
    seconds(one, qos.TRIAL_S)
    assert one.reliability == "best_effort"
    assert bench.said("/sensor", "the publisher is silent")
    seconds(one, 60)
    assert one.reliability == "best_effort"
    for _ in range(qos.STARVED_S):  # it begins to send, and most of it is lost
        one.lost += 10
        seconds(one, 1)
    assert one.reliability == "reliable"
    bench.node.destroy_publisher(publisher)
    assert wait_for(lambda: not one.publisher_count())
    seconds(one, 1)
    assert one.reliability == "best_effort"
    one.lost = 0
    bench.publisher("/sensor", "reliable")  # another one: it may be tried
    assert wait_for(one.publisher_count)
    seconds(one, qos.SILENT_S)
    assert one.reliability == "reliable"


def test_what_reliable_brought_stays_until_its_publishers_are_gone(bench):
    one = subscription(bench, Image)
    publisher = bench.publisher("/sensor", "reliable")
    assert wait_for(one.publisher_count)
    seconds(one, qos.SILENT_S)
    assert wait_for(publisher.get_subscription_count)
    publisher.publish(Image())
    assert wait_for(lambda: one._received)
    seconds(one, 60)
    assert one.reliability == "reliable"
    bench.node.destroy_publisher(publisher)
    assert wait_for(lambda: not one.publisher_count())
    seconds(one, 1)
    assert one.reliability == "best_effort"
    assert bench.said("/sensor", "its publishers are gone")


def test_silence_counts_from_the_last_message_and_only_with_the_same_matching_publishers(bench):
    one = AdaptiveSubscription(bench.node, Imu, "/sensor", lambda data: None, "reliable")
    seconds(one, 3)
    assert one.silent_s == 0
    bench.publisher("/sensor", "best_effort", Imu)  # which reliable does not match
    assert wait_for(one.publisher_count)
    one._count_silence(heard=False)
    one._count_silence(heard=False)
    assert one.silent_s == 0
    publisher = bench.publisher("/sensor", "reliable", Imu)
    assert wait_for(lambda: one.publisher_count() == 2)
    for _ in range(4):
        one._count_silence(heard=False)
    assert one.silent_s == 3
    one._count_silence(heard=True)
    assert one.silent_s == 0
    one._count_silence(heard=False)
    bench.node.destroy_publisher(publisher)
    assert wait_for(lambda: one.publisher_count() == 1)
    one._count_silence(heard=False)
    assert one.silent_s == 0


def test_a_topic_without_a_publisher_is_named_once_with_the_nearest_that_has_one(bench):
    one = subscription(bench, Image)
    bench.publisher("/sensors/image", "reliable")
    bench.publisher("/sensor_imu", "reliable", Imu)  # nearer, but of another type
    assert wait_for(lambda: bench.node.count_publishers("/sensors/image"))
    seconds(one, qos.ALONE_S - 1)
    assert not bench.said("no publisher of /sensor ")
    seconds(one, 60)
    (line,) = [line for line in bench.logs if "no publisher of /sensor " in line]
    assert "did you mean /sensors/image?" in line


def test_losses_from_a_publisher_that_offers_no_better_are_said_once_with_the_remedy(bench):
    """As with 4K at 10 Hz without the shared-memory profile: the transport reports what it lost."""
    one = subscription(bench, Image)
    bench.publisher("/sensor", "best_effort")
    assert wait_for(one.publisher_count)
    for _ in range(10):
        one.lost += 8
        seconds(one, 1)
    assert one.reliability == "best_effort"
    said = [line for line in bench.logs if "8 of 8 messages of one second were lost" in line]
    assert len(said) == 1
    assert "/sensor" in said[0]
    assert "from bench: start it with FASTDDS_DEFAULT_PROFILES_FILE=" in said[0]


def test_a_topic_of_another_type_is_named_with_what_makes_an_image_of_it(bench, monkeypatch):
    for kind, remedy in (
        ("sensor_msgs/msg/CompressedImage", "its name must end in /compressed"),
        ("ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "image_transport republish"),
    ):
        one = subscription(bench, Image)
        # One participant has one type a topic; the discovered publishers are all that is asked for here.
        monkeypatch.setattr(one, "_publishers", lambda kind=kind: [SimpleNamespace(topic_type=kind)])
        for _ in range(2 * qos.ALONE_S):
            one._check_publishers()
        said = [line for line in bench.logs if f"/sensor is published as {kind}, not as" in line]
        assert len(said) == 1
        assert remedy in said[0]
