"""Node video_player: publishes a video, an image folder, a webcam or a stream as a camera, and /clock."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from perception_rt.codec.encode import encode_image
from perception_rt.codec.video import VideoFrame, is_live, read_video
from perception_rt.component.parameters import Parameter
from perception_rt.node.run import run
from perception_rt.node.source import SOURCE_PARAMETERS, Event, SourceNode
from perception_rt.types import ConfigError

ANSWER_S = 10.0


class VideoPlayerNode(SourceNode):
    """Publishes frames with the spacing of the file; stamps start at the time of playing."""

    PARAMETERS = (
        Parameter(
            "video",
            "",
            "A video file, a folder of images, a webcam (its number or /dev/video<n>), or the address of a "
            "stream (rtsp://, http://).",
        ),
        Parameter("topic", "image_raw", "Topic of the images."),
        Parameter("frame_id", "camera_optical_frame", "frame_id of the images."),
        Parameter("frame_rate_hz", 0.0, "Frame rate; 0: by the file's stamps (folder: 10 Hz).", (0.0, 1e3)),
        Parameter("epoch_s", 0.0, "Stamp of the first frame, s since 1970; 0: the current time."),
        Parameter("duration_s", 0.0, "Length to play, s; 0: all.", (0.0, 1e9)),
        Parameter("keep", "", "Folder to store the published frames as <stamp in ns>.jpg; empty: none."),
        Parameter(
            "answers", "", "Topic that must answer each frame before the next one; empty: do not wait."
        ),
        *SOURCE_PARAMETERS,
    )

    def __init__(self, node_name: str = "video_player", **kwargs: Any) -> None:
        super().__init__(node_name, **kwargs)
        self._frames: Iterator[VideoFrame] = iter(())
        self._images: Publisher | None = None
        self._answers: Subscription | None = None
        self._answered = threading.Event()
        self._last_ns = 0

    def setup(self) -> None:
        """Open the source, read its first frame, and create the publisher."""
        if not self.values["video"]:
            raise ConfigError("video='': name a file, a folder or a device, e.g. -p video:=street.mp4")
        frames = read_video(self.values["video"], self.values["frame_rate_hz"])
        # Check that the source can be read before the node is configured.
        self._frames = itertools.chain([next(frames)], frames)
        if is_live(self.values["video"]):
            del frames  # opened again for playing, as buffered frames would be old
            self._frames = read_video(self.values["video"])
        self._images = self.create_publisher(Image, self.values["topic"], 5)
        if self.values["answers"]:
            self._answers = self.create_subscription(
                Detection2DArray, self.values["answers"], self._on_answer, 5, raw=True
            )

    def teardown(self) -> None:
        """Close the source."""
        self._frames = iter(())
        if self._images is not None:
            self.destroy_publisher(self._images)
            self._images = None
        if self._answers is not None:
            self.destroy_subscription(self._answers)
            self._answers = None

    def listened(self) -> list[Publisher]:
        """Return the publisher of the images."""
        return [] if self._images is None else [self._images]

    def events(self) -> Iterator[Event]:
        """Yield every frame at its time."""
        epoch_ns, end_ns = round(self.values["epoch_s"] * 1e9), round(self.values["duration_s"] * 1e9)
        for frame in self._frames:
            if end_ns and frame.time_ns >= end_ns:
                return
            epoch_ns = epoch_ns or time.time_ns() - frame.time_ns
            stamp_ns = epoch_ns + frame.time_ns
            yield stamp_ns, partial(self._emit, frame, stamp_ns)
            self._await_answer()
        if is_live(self.values["video"]):
            self.get_logger().warning(f"video={self.values['video']!r}: no more pictures come from it")

    def _await_answer(self) -> None:
        if self._answers is not None and not self._answered.wait(ANSWER_S):
            self.get_logger().warning(f"no answer within {ANSWER_S:g} s; going on")

    def _emit(self, frame: VideoFrame, stamp_ns: int) -> None:
        if self._images is not None:
            self._last_ns = stamp_ns
            self._answered.clear()
            self._images.publish(encode_image(frame.pixels, "bgr8", stamp_ns, self.values["frame_id"]))
            if self.values["keep"]:
                file = Path(self.values["keep"], f"{stamp_ns}.jpg")
                if not cv2.imwrite(str(file), frame.pixels, [cv2.IMWRITE_JPEG_QUALITY, 95]):
                    self.get_logger().warning(f"keep={file}: cannot be written", throttle_duration_sec=1.0)

    def _on_answer(self, data: bytes) -> None:
        sec, nanosec = struct.unpack_from("<iI", data, 4)  # the header comes first
        if sec * 10**9 + nanosec >= self._last_ns:
            self._answered.set()


def main(args: list[str] | None = None) -> int:
    """Run the node until the video ends."""
    return run([VideoPlayerNode], args)
