"""The node video_player: frames on a topic, with the spacing of the source."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image

from perception_rt.codec.image import parse_image
from perception_rt.node.video_player import VideoPlayerNode
from test.streams import network_camera

from .conftest import stamp_of, wait_for


def test_a_folder_of_images_is_played(bench, tmp_path):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), (10 * number, 0, 0), np.uint8))
    images: list = []
    bench.node.create_subscription(Image, "/front/image", images.append, 50)
    node = bench.start(VideoPlayerNode, video=str(tmp_path), topic="/front/image", frame_rate_hz=20.0)
    assert bench.up
    assert wait_for(node.finished.is_set, 30)
    assert wait_for(lambda: len(images) == 5)
    stamps = [stamp_of(image) for image in images]
    assert np.diff(stamps).tolist() == [50_000_000] * 4
    for number, image in enumerate(images):
        frame = parse_image(image).decode()
        assert frame.bgr
        assert frame.pixels[0, 0].tolist() == [10 * number, 0, 0]


def test_a_network_camera_is_played_for_a_while_with_stamps_of_now(bench, tmp_path):
    images: list = []
    bench.node.create_subscription(Image, "/front/image", images.append, 50)
    picture = np.full((48, 64, 3), 90, np.uint8)
    with network_camera([picture], 20.0) as address:
        node = bench.start(
            VideoPlayerNode, video=address, topic="/front/image", duration_s=1.0, keep=str(tmp_path)
        )
        assert bench.up, bench.logs
        assert wait_for(node.finished.is_set, 30)
    kept = sorted(int(file.stem) for file in tmp_path.iterdir())
    assert wait_for(lambda: [stamp_of(image) for image in images] == kept)
    assert 0.5e9 < kept[-1] - kept[0] < 1e9
    assert 0 < bench.now_ns() - kept[-1] < 30e9


@pytest.mark.parametrize("video", ["nothing.mp4", "/dev/video250", "250", "http://127.0.0.1:9/a.mjpg"])
def test_a_source_that_cannot_be_read_is_refused_in_one_line(bench, video):
    bench.start(VideoPlayerNode, video=video)
    assert not bench.up
    assert bench.said("cannot configure", f"video='{video}': no ")
    assert not bench.said("Traceback")
