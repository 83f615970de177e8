"""lidar_detector: point cloud topics to Detection3DArray at a fixed rate, every frame accounted for."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.codec.markers import box_markers, encode_markers
from perception_rt.codec.points import parse_points
from perception_rt.component.component import Host
from perception_rt.component.detector import DETECTOR_PARAMETERS, DetectorComponent
from perception_rt.component.graph import output_prefixes
from perception_rt.component.parameters import Parameter
from perception_rt.model.task import DETECT3D
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import ConfigError, Detections3D, LidarFrame


class LidarDetector(DetectorComponent):
    """One bundle, one or several lidars."""

    NAME = "lidar_detector"
    TASK = DETECT3D
    TOPICS = "points_topics"
    PARAMETERS = (
        Parameter("bundle", "bev_cluster", "Bundle file, or the name of a shipped one.", live=True),
        Parameter(TOPICS, ["points"], "Lidars, each a PointCloud2."),
        Parameter(
            "nms_threshold",
            -1.0,
            "Footprint IoU limit of NMS; negative: the bundle's.",
            (-1.0, 1.0),
            live=True,
        ),
        Parameter("max_cloud_mb", 64.0, "Larger clouds are refused, MB.", (0.1, 1024.0)),
        *DETECTOR_PARAMETERS,
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self._dropped: Counter[str] = Counter()

    def inputs(self) -> dict[str, tuple[str, Any]]:
        """The lidar topics, each with its message type and parser."""
        topics = self.values[self.TOPICS]
        if not topics or not all(topics) or len(set(topics)) != len(topics):
            raise ConfigError(f"{self.TOPICS}={topics}: must name at least one topic, each once")
        parser = partial(parse_points, max_bytes=round(self.values["max_cloud_mb"] * 1e6))
        return dict.fromkeys(topics, ("sensor_msgs/msg/PointCloud2", parser))

    def open_outputs(self, streams: list[str]) -> None:
        """Publishers: `~/detections`, or `~/<lidar>/detections` where there are several lidars."""
        self._detections, self._markers = {}, {}
        self._dropped.clear()
        for stream, prefix in output_prefixes(streams).items():
            self._detections[stream] = self.host.create_publisher(
                self.TASK.message_type, f"~{prefix}/detections", 5
            )
            self._markers[stream] = self.host.create_publisher(
                "visualization_msgs/msg/MarkerArray", f"~{prefix}/markers", 1
            )

    def subscribers(self, stream: str) -> int:
        """Subscriptions of the detections and of the markers."""
        outputs = self._detections[stream], self._markers[stream]
        return sum(output.get_subscription_count() for output in outputs)

    def warm_up(self, runtime: Any) -> None:
        """Infer a cloud a few times."""
        runtime.warmup()

    def use(self, runtime: Any) -> None:
        """Take `runtime` from the next frame on."""
        super().use(runtime)
        self._encoder = Detection3DEncoder(runtime.manifest.classes)

    def infer(self, frames: list[LidarFrame]) -> list[Detections3D]:
        """One lidar after the other: their clouds differ in size."""
        thresholds = self.threshold("score"), self.threshold("nms")
        return [detect3d(self.runtime, frame, *thresholds) for frame in frames]

    def publish(self, stream: str, frame: LidarFrame, result: Detections3D) -> None:
        """The detections with the header of the cloud."""
        self._detections[stream].publish(self._encoder.encode(result, frame.stamp_ns, frame.frame_id))
        self._dropped[stream] += frame.dropped

    def publish_extras(self, stream: str, frame: LidarFrame, result: Detections3D) -> None:
        """Publish markers for RViz while there are subscribers."""
        publisher = self._markers[stream]
        if publisher.get_subscription_count():
            markers = box_markers(result, self.runtime.manifest.classes)
            publisher.publish(encode_markers(markers, frame.stamp_ns, frame.frame_id))

    def stream_values(self, stream: str) -> dict[str, object]:
        """Points without a place, over all published frames."""
        return {"points_dropped": self._dropped[stream]}
