"""Frames to detections: channel order and sizes decide which frames share a forward."""

from __future__ import annotations

import numpy as np
import torch

from perception_rt.stage.detect2d import detect2d
from perception_rt.types import CameraFrame


class Recorder:
    """Answers one box an image, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], bool]] = []
        self.extras: dict[str, np.ndarray] = {}

    def __call__(self, images: torch.Tensor, bgr: bool, score_threshold, nms_threshold):
        self.calls.append((tuple(images.shape), bgr))
        n = len(images)
        boxes = np.tile(np.array([[1, 2, 3, 4]], np.float32), (n, 1)) + images[:, 0, 0, :1].numpy()
        return boxes, np.ones(n, np.float32), np.zeros(n, np.int64), np.arange(n)


def frame(value: int, bgr: bool, shape: tuple[int, int] = (4, 6)) -> CameraFrame:
    pixels = np.full((*shape, 3), value, np.uint8)
    return CameraFrame(pixels, bgr, 0, "camera")


def test_the_channel_order_reaches_the_network():
    for bgr in (False, True):
        recorder = Recorder()
        detect2d(recorder, [frame(1, bgr)])
        assert recorder.calls == [((1, 4, 6, 3), bgr)]


def test_frames_of_one_size_and_order_share_a_forward_and_keep_their_order():
    recorder = Recorder()
    frames = [frame(1, False), frame(2, True), frame(3, False), frame(4, False, (2, 2))]
    results = detect2d(recorder, frames)
    assert sorted(recorder.calls) == [((1, 2, 2, 3), False), ((1, 4, 6, 3), True), ((2, 4, 6, 3), False)]
    assert [float(found.xyxy[0, 0]) for found in results] == [2.0, 3.0, 4.0, 5.0]
