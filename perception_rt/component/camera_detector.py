"""camera_detector: detects objects in camera images at a fixed rate and accounts for every frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from perception_rt.codec.compressed import parse_compressed
from perception_rt.codec.detections import DetectionEncoder
from perception_rt.codec.encode import encode_image
from perception_rt.codec.image import parse_image
from perception_rt.component.detector import DETECTOR_PARAMETERS, DetectorComponent
from perception_rt.component.graph import output_prefixes
from perception_rt.component.parameters import MAX_IMAGE_MB, SIGNIFICANT_BITS, Parameter
from perception_rt.model.task import DETECT2D
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.draw import draw_detections
from perception_rt.types import CameraFrame, CodecError, ConfigError, Detections2D

DARK_BITS = 4  # unused leading bits that make an image nearly black


class CameraDetector(DetectorComponent):
    """Detects in the images of one or several cameras with one bundle."""

    NAME = "camera_detector"
    TASK = DETECT2D
    TOPICS = "image_topics"
    PARAMETERS: ClassVar[Sequence[Parameter]] = (
        Parameter("bundle", "sim_camera", "Bundle file, or name of a shipped bundle.", live=True),
        Parameter(TOPICS, ["image_raw"], "Images; a name that ends in /compressed is a CompressedImage."),
        Parameter(
            "nms_threshold", -1.0, "IoU threshold of NMS; negative: the bundle's.", (-1.0, 1.0), live=True
        ),
        MAX_IMAGE_MB,
        SIGNIFICANT_BITS,
        Parameter("warmup_sizes", ["1280x720"], "Image sizes (WxH) to run once at configure."),
        *DETECTOR_PARAMETERS,
    )

    def inputs(self) -> dict[str, tuple[str, Any]]:
        """Return the message type and parser of each camera topic."""
        topics = self.values[self.TOPICS]
        if not topics or not all(topics) or len(set(topics)) != len(topics):
            raise ConfigError(f"{self.TOPICS}={topics}: must name at least one topic, each once")
        limit = round(self.values["max_image_mb"] * 1e6)
        given = {"max_bytes": limit, "significant_bits": self.values["significant_bits"]}
        image = ("sensor_msgs/msg/Image", partial(parse_image, **given))
        compressed = ("sensor_msgs/msg/CompressedImage", partial(parse_compressed, **given))
        return {topic: compressed if topic.endswith("/compressed") else image for topic in topics}

    def open_outputs(self, streams: list[str]) -> None:
        """Create `~/detections`, or `~/<camera>/detections` for several cameras."""
        self._detections, self._annotated = {}, {}
        self._dark: set[str] = set()  # streams with a warning
        for stream, prefix in output_prefixes(streams).items():
            self._detections[stream] = self.host.create_publisher(
                DETECT2D.message_type, f"~{prefix}/detections", 5
            )
            self._annotated[stream] = self.host.create_publisher(
                "sensor_msgs/msg/Image", f"~{prefix}/image_annotated", 1
            )

    def subscribers(self, stream: str) -> int:
        """Return the number of subscriptions of detections and annotated image."""
        outputs = self._detections[stream], self._annotated[stream]
        return sum(output.get_subscription_count() for output in outputs)

    def warm_up(self, runtime: Any) -> float:
        """Run one image and a batch of all cameras at every size of `warmup_sizes`."""
        sizes = [parse_size(text) for text in self.values["warmup_sizes"]]
        return min(runtime.warmup(sizes, batch) for batch in {1, len(self.values[self.TOPICS])})

    def batch_share(self, runtime: Any) -> float:
        """Return the time of a batch of all cameras as a share of the time one by one."""
        sizes = [parse_size(text) for text in self.values["warmup_sizes"]]
        return float(runtime.measure_batch(sizes[-1], len(self.values[self.TOPICS]))) if sizes else 1.0

    def use(self, runtime: Any) -> None:
        """Use `runtime` from the next frame on."""
        super().use(runtime)
        self._encoder = DetectionEncoder(runtime.manifest.classes)

    def infer(self, frames: list[CameraFrame]) -> list[Detections2D]:
        """Detect in the images of one or several cameras."""
        self.warn_of_dark(frames)
        return detect2d(self.runtime, frames, self.threshold("score"), self.threshold("nms"))

    def warn_of_dark(self, frames: Sequence[CameraFrame]) -> None:
        """Warn once per camera whose pixel values do not use their leading bits."""
        for frame in frames:
            if frame.unused_bits >= DARK_BITS and frame.frame_id not in self._dark:
                self._dark.add(frame.frame_id)
                bits = self.values["significant_bits"]
                used = (
                    f"its values use {bits - frame.unused_bits}: set significant_bits to those of the camera"
                )
                what = f"the picture of {frame.frame_id!r} is nearly black, {used}"
                self.host.warn(self.host.get_name(), CodecError("significant_bits", bits, what))

    def publish(self, stream: str, frame: CameraFrame, result: Detections2D) -> None:
        """Publish the detections with the header of the image."""
        self._detections[stream].publish(self._encoder.encode(result, frame.stamp_ns, frame.frame_id))

    def publish_extras(self, stream: str, frame: CameraFrame, result: Detections2D) -> None:
        """Publish the annotated image while there are subscribers."""
        publisher = self._annotated[stream]
        if publisher.get_subscription_count():
            picture = draw_detections(frame.pixels, result, self.runtime.manifest.classes, bgr=frame.bgr)
            encoding = "bgr8" if frame.bgr else "rgb8"
            publisher.publish(encode_image(picture, encoding, frame.stamp_ns, frame.frame_id))


def parse_size(text: str) -> tuple[int, int]:
    """`"1280x720"` to (height, width).

    Raises:
        ConfigError: the text is not of that form.
    """
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"warmup_sizes={text!r}: must be WIDTHxHEIGHT, like 1280x720")
    return int(height), int(width)
