"""camera_segmenter: labels the pixels of camera images at a fixed rate.

It also publishes objects if the network outputs instance masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from perception_rt.codec.encode import encode_image
from perception_rt.codec.segmentation import encode_label_info, encode_segmentation
from perception_rt.component.camera_detector import CameraDetector
from perception_rt.component.component import Host
from perception_rt.component.graph import output_prefixes
from perception_rt.component.parameters import Parameter
from perception_rt.model.task import SEGMENT
from perception_rt.stage.draw import draw_segmentation
from perception_rt.stage.segment import segment
from perception_rt.types import CameraFrame

LABEL_INFO = "vision_msgs/msg/LabelInfo"


class CameraSegmenter(CameraDetector):
    """Segments the images of one or several cameras with one bundle."""

    NAME = "camera_segmenter"
    TASK = SEGMENT
    PARAMETERS: ClassVar[Sequence[Parameter]] = (
        Parameter(
            "bundle", "lraspp_mobilenet_v3_large", "Bundle file, or name of a downloaded bundle.", live=True
        ),
        *(parameter for parameter in CameraDetector.PARAMETERS if parameter.name != "bundle"),
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self._named: set[str] = set()  # streams whose LabelInfo belongs to the running bundle

    def open_outputs(self, streams: list[str]) -> None:
        """Create `~/segmentation`, `~/label_info` and a detector's; `~/<camera>/...` for several cameras."""
        super().open_outputs(streams)
        self._labels, self._infos = {}, {}
        for stream, prefix in output_prefixes(streams).items():
            self._labels[stream] = self.host.create_publisher(
                self.TASK.message_type, f"~{prefix}/segmentation", 5, is_result=True
            )
            self._infos[stream] = self.host.create_publisher(
                LABEL_INFO, f"~{prefix}/label_info", 1, latched=True
            )

    def subscribers(self, stream: str) -> int:
        """Return the number of subscriptions of labels, objects and annotated image."""
        return super().subscribers(stream) + self._labels[stream].get_subscription_count()

    def use(self, runtime: Any) -> None:
        """Use `runtime` from the next frame on."""
        super().use(runtime)
        self._named = set()

    def stop(self) -> None:
        """Stop as a detector; publish LabelInfo again later, as it may not have been sent."""
        super().stop()
        self._named = set()

    def on_parameters(self) -> None:
        """Apply changed parameters; the threshold in the LabelInfo may have changed."""
        super().on_parameters()
        self._named = set()

    def infer(self, frames: list[CameraFrame]) -> list[Any]:
        """Segment images; those of one size share a batch."""
        self.warn_of_dark(frames)
        return segment(self.runtime, frames, self.threshold("score"), self.threshold("nms"))

    def publish(self, stream: str, frame: CameraFrame, result: Any) -> None:
        """Publish labels and objects with the header of the image, after the names of the labels."""
        header = frame.stamp_ns, frame.frame_id
        manifest = self.runtime.manifest
        if stream not in self._named:
            score = self.threshold("score")
            threshold = manifest.score_threshold if score is None else score
            self._infos[stream].publish(encode_label_info(manifest.classes, threshold, *header))
            self._named.add(stream)
        self._labels[stream].publish(encode_segmentation(result, *header))
        if result.detections is not None:
            super().publish(stream, frame, result.detections)

    def publish_extras(self, stream: str, frame: CameraFrame, result: Any) -> None:
        """Publish the annotated image while there are subscribers."""
        publisher = self._annotated[stream]
        if publisher.get_subscription_count():
            classes = self.runtime.manifest.classes
            picture = draw_segmentation(frame.pixels, result, classes, bgr=frame.bgr)
            encoding = "bgr8" if frame.bgr else "rgb8"
            publisher.publish(encode_image(picture, encoding, frame.stamp_ns, frame.frame_id))
