"""camera_segmenter: camera images to the class of every pixel, at a fixed rate.

Objects are published, too, where the network tells their masks.
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
    """One bundle, one or several cameras, one batch."""

    NAME = "camera_segmenter"
    TASK = SEGMENT
    PARAMETERS: ClassVar[Sequence[Parameter]] = (
        Parameter(
            "bundle", "lraspp_mobilenet_v3_large", "Bundle file, or the name of a downloaded one.", live=True
        ),
        *(parameter for parameter in CameraDetector.PARAMETERS if parameter.name != "bundle"),
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self._named: set[str] = set()  # streams whose LabelInfo is that of the running bundle

    def open_outputs(self, streams: list[str]) -> None:
        """Publishers: `~/segmentation`, `~/label_info` and a detector's; `~/<camera>/...` of several."""
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
        """Subscriptions of the labels, the objects and the annotated image."""
        return super().subscribers(stream) + self._labels[stream].get_subscription_count()

    def use(self, runtime: Any) -> None:
        """Take `runtime` from the next frame on."""
        super().use(runtime)
        self._named = set()

    def stop(self) -> None:
        """As a detector; what was latched may not have been sent."""
        super().stop()
        self._named = set()

    def on_parameters(self) -> None:
        """As a detector; the threshold in the LabelInfo may have changed."""
        super().on_parameters()
        self._named = set()

    def infer(self, frames: list[CameraFrame]) -> list[Any]:
        """All cameras of one size in one batch."""
        self.warn_of_dark(frames)
        return segment(self.runtime, frames, self.threshold("score"), self.threshold("nms"))

    def publish(self, stream: str, frame: CameraFrame, result: Any) -> None:
        """The labels, and the objects, with the header of the image; the names of the labels before them."""
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
