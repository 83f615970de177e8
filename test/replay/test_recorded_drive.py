"""A recorded drive through real topics: FastestDet on KITTI."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from perception_rt.cli.demo import session
from perception_rt.cli.demo.check import check
from perception_rt.cli.demo.plan import plan_bag
from perception_rt.cli.main import main
from perception_rt.model.runtime import Runtime
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import BagError, ConfigError
from test.domains import claim_domain

TOPIC, POINTS = "/camera/front/image_raw", "/lidar/points"


@pytest.fixture(scope="module")
def fastestdet(shared_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "fastestdet.pt"
    onnx = str(shared_data / "models" / "FastestDet.onnx")
    assert main(["bundle", "export", "onnx", onnx, "--decoder", "fastestdet", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def drive(shared_data):
    return shared_data / "bags" / "kitti_city"


def arguments(**changes) -> argparse.Namespace:
    names = ("config", "bag", "bundle", "lidar_bundle", "topic", "out", "video", "realtime")
    return argparse.Namespace(**dict.fromkeys(names) | {"seconds": 10.0} | changes)


@pytest.fixture(scope="module")
def played(fastestdet, drive, tmp_path_factory):
    """The drive, played at half its speed through rclpy topics: (plan, collector).

    Every frame is to be answered, whatever else this machine computes.
    """
    pytest.importorskip("rclpy", reason="rclpy is not installed: run `make setup`")
    domain, _lock = claim_domain()
    out = tmp_path_factory.mktemp("drive")
    plan = plan_bag(arguments(bag=drive, bundle=str(fastestdet), out=out))
    plan = replace(plan, overrides=(*plan.overrides, "bag_player:speed:=0.5"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        return plan, session.run_graph(plan, Console())


def recorded(drive, topic: str) -> list:
    """The frames of a topic, straight from the bag."""
    with Bag(drive) as bag:
        return [frame_of(message) for message in bag.messages([topic])]


def test_every_image_is_answered_and_has_a_car(played, drive):
    plan, collector = played
    (stream,) = plan.of("camera_detector")
    found = collector.detections[stream.output]
    assert sorted(found) == [frame.stamp_ns for frame in recorded(drive, TOPIC)]
    assert len(found) == 24
    assert all((detections.labels == stream.classes.index("car")).any() for detections in found.values())
    account = collector.statuses[stream.status]
    assert (account["received"], account["published"], account["pending"]) == ("24", "24", "0")


def test_every_cloud_is_answered_and_has_cars_ahead(played, drive):
    plan, collector = played
    (stream,) = plan.of("lidar_detector")
    found = collector.detections[stream.output]
    assert sorted(found) == [frame.stamp_ns for frame in recorded(drive, POINTS)]
    assert len(found) == 24

    def ahead(detections) -> bool:
        x, y = detections.xyzlwh_yaw[:, 0], detections.xyzlwh_yaw[:, 1]
        return bool(((detections.labels == stream.classes.index("car")) & (x > 3) & (abs(y) < x)).any())

    assert sum(map(ahead, found.values())) >= 22
    account = collector.statuses[stream.status]
    assert (account["received"], account["published"], account["pending"]) == ("24", "24", "0")
    assert account["points_dropped"] == "0"


def test_every_cloud_is_fused_with_its_image(played):
    plan, collector = played
    lidar, camera = plan.of("fusion")
    stats = [collector.statuses[stream.status] for stream in (lidar, camera)]
    assert [account["received"] for account in stats] == ["24", "24"]
    assert [account["published"] for account in stats] == ["24", "24"]
    assert len(collector.detections[lidar.output]) == 24
    sources = [set(ids) for ids in collector.ids[lidar.output].values()]
    assert set().union(*sources) <= {"camera+lidar", "lidar", "camera"}
    assert sum("camera+lidar" in found for found in sources) >= 22


def test_cars_are_tracked_through_the_drive(played):
    plan, collector = played
    (stream,) = plan.of("object_tracker")
    account = collector.statuses[stream.status]
    assert (account["received"], account["published"]) == ("24", "24")
    assert len(collector.detections[stream.output]) == 24
    ids = [set(found) for _, found in sorted(collector.ids[stream.output].items())]
    assert len(set.intersection(*ids[6:])) >= 2  # the cars ahead keep their ids
    ahead = collector.detections[plan.ahead]
    assert all(
        len(ahead[stamp]) == 6 * len(found) for stamp, found in collector.detections[stream.output].items()
    )


def test_the_graph_says_what_the_bundles_say(played, drive, fastestdet):
    """Parity: topics, threads and batches change nothing."""
    plan, collector = played
    runtimes = {
        TOPIC: Runtime.open(fastestdet, device="cpu"),
        POINTS: Runtime.open("bev_cluster", device="cpu"),
    }
    for stream in plan.streams[:2]:
        runtime = runtimes[stream.topic]
        for frame in recorded(drive, stream.topic):
            found = collector.detections[stream.output][frame.stamp_ns]
            if stream.task == "detect2d":
                expected = detect2d(runtime, [frame])[0]
                np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-2)
            else:
                expected = detect3d(runtime, frame)
                np.testing.assert_allclose(found.xyzlwh_yaw, expected.xyzlwh_yaw, atol=1e-3)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_a_bag_tells_its_topics(drive):
    with Bag(drive) as bag:
        assert bag.topics[TOPIC] == ("sensor_msgs/msg/Image", 24)
        assert bag.of_type("sensor_msgs/msg/PointCloud2") == ["/lidar/points"]
        assert bag.duration_s == pytest.approx(2.3, abs=0.1)
        assert sum(1 for _ in bag.messages()) == sum(count for _, count in bag.topics.values())


def test_what_cannot_be_played_is_said_in_one_line(drive, tmp_path, capsys):
    with pytest.raises(BagError, match="no such bag"):
        Bag(tmp_path / "nothing")
    (tmp_path / "metadata.yaml").write_text("not: a bag")
    with pytest.raises(BagError, match="not a readable rosbag2"):
        Bag(tmp_path)
    with pytest.raises(ConfigError, match="--bundle"):
        check(arguments(bag=drive, out=tmp_path))
    assert (
        main(["demo", "--bag", str(drive), "--bundle", "x.pt", "--topic", "/none", "--out", str(tmp_path)])
        == 2
    )
    line = capsys.readouterr().err.strip()
    assert line.count("\n") == 0
    assert "/none" in line
    assert "/camera/front/image_raw" in line


def test_a_camera_topic_without_messages_is_said(tmp_path):
    with Writer(tmp_path / "empty", version=9) as writer:
        writer.add_connection(
            "/image_raw", "sensor_msgs/msg/Image", typestore=get_typestore(Stores.ROS2_KILTED)
        )
    with pytest.raises(BagError, match="no messages on /image_raw"):
        check(arguments(bag=tmp_path / "empty", bundle="x.pt", out=tmp_path))
