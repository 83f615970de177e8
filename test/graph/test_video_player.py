"""The node video_player: frames on a topic, with the spacing of the source."""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import Image

from perception_rt.codec.image import parse_image
from perception_rt.node.video_player import VideoPlayerNode

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


def test_a_source_that_cannot_be_read_is_refused(bench, tmp_path):
    bench.start(VideoPlayerNode, video=str(tmp_path / "nothing.mp4"))
    assert not bench.up
    assert bench.said("video=", "nothing.mp4")
