"""lidar_detector: detects objects in point clouds at a fixed rate and accounts for every frame."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.codec.markers import box_markers, encode_markers
from perception_rt.codec.points import parse_points
from perception_rt.component.component import Host
from perception_rt.component.detector import DETECTOR_PARAMETERS, DetectorComponent
from perception_rt.component.graph import output_prefixes
from perception_rt.component.parameters import Parameter
from perception_rt.model.task import DETECT3D
from perception_rt.stage.deskew import PlanarTwist, deskewed, moved_by, twist_between
from perception_rt.stage.detect3d import detect3d
from perception_rt.stage.levelling import (
    LEVEL_RAD,
    TILTED_RAD,
    advice,
    ground_tilt,
    levelled,
    moved_to_base,
    tilt,
)
from perception_rt.stage.sweeps import joined, still_wanted
from perception_rt.types import ConfigError, Detections3D, LidarFrame, TransformError
from perception_rt.types.status import Level, Status

LAGS_NS = (
    0,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
)  # how old the motion may be that undoes that of a sweep
SPAN_NS = 100_000_000  # what the motion is measured over
LOOK_NS = 5 * 10**9  # between two looks at the ground of a lidar whose mounting is not known


class Sweep(Enum):
    """Outcome of deskewing; the value is the name of its count in the diagnostics."""

    DESKEWED = "clouds_deskewed"
    SKEWED = "clouds_without_motion"
    """The points have times, and /tf does not tell the motion."""
    UNTIMED = "clouds_without_times"


class LidarMotion(NamedTuple):
    """Of the base at the stamp of a cloud; and (4, 4) from the lidar then to `fixed_frame`."""

    twist: PlanarTwist
    pose: np.ndarray


class Placed(NamedTuple):
    """Detections, their frame, the outcome of deskewing, and the number of joined sweeps."""

    detections: Detections3D
    frame_id: str
    sweep: Sweep
    joined: int


class LidarDetector(DetectorComponent):
    """One bundle, one or several lidars.

    Attributes:
        leaning: by frame of a lidar without a transform, what to do about its ground that is not level.
        alone: by frame of a lidar, why a bundle of several sweeps gets the newest alone.
    """

    NAME = "lidar_detector"
    TASK = DETECT3D
    TOPICS = "points_topics"
    PARAMETERS = (
        Parameter("bundle", "bev_cluster", "Bundle file, or name of a shipped bundle.", live=True),
        Parameter(TOPICS, ["points"], "PointCloud2 topics of the lidars."),
        Parameter(
            "nms_threshold",
            -1.0,
            "IoU threshold of NMS between footprints; negative: the bundle's.",
            (-1.0, 1.0),
            live=True,
        ),
        Parameter(
            "base_frame",
            "base_link",
            "Frame whose z axis is up: clouds of lidars tilted against it are levelled; empty: never.",
        ),
        Parameter(
            "output_frame",
            "auto",
            "auto: the lidar's own, and base_frame for a tilted one; base: base_frame.",
            choices=("auto", "base"),
        ),
        Parameter(
            "fixed_frame",
            "odom",
            "Frame without motion. Where /tf has base_frame in it and the points have times (field t, time, "
            "timestamp or time_offset), the motion within a sweep is undone; bundles of several sweeps need "
            "it too. Empty: never.",
        ),
        Parameter(
            "max_cloud_mb", 64.0, "Maximum size of a cloud, MB; larger ones are refused.", (0.1, 1024.0)
        ),
        *DETECTOR_PARAMETERS,
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self._dropped: Counter[str] = Counter()
        self.leaning: dict[str, str] = {}
        self._looked_ns: dict[str, int] = {}
        self._mountings: dict[str, np.ndarray] = {}  # the last that was known, by frame
        self._sweeps: Counter[tuple[str, Sweep]] = Counter()
        self._said: set[str] = set()  # frames whose motion is not known
        self.alone: dict[str, str] = {}
        self._earlier: dict[str, list[tuple[LidarFrame, np.ndarray]]] = {}  # by frame, with their poses
        self._joined: Counter[str] = Counter()  # sweeps of the last cloud, by stream

    def inputs(self) -> dict[str, tuple[str, Any]]:
        """Return the message type and parser of each lidar topic."""
        topics = self.values[self.TOPICS]
        if not topics or not all(topics) or len(set(topics)) != len(topics):
            raise ConfigError(f"{self.TOPICS}={topics}: must name at least one topic, each once")
        timed = bool(self.values["base_frame"] and self.values["fixed_frame"])
        parser = partial(parse_points, max_bytes=round(self.values["max_cloud_mb"] * 1e6), timed=timed)
        return dict.fromkeys(topics, ("sensor_msgs/msg/PointCloud2", parser))

    def open_outputs(self, streams: list[str]) -> None:
        """Create `~/detections`, or `~/<lidar>/detections` for several lidars."""
        self._detections, self._markers = {}, {}
        self._dropped.clear()
        self._sweeps.clear()
        self._said.clear()
        self._joined.clear()
        self.alone, self._earlier = {}, {}
        self.leaning, self._looked_ns, self._mountings = {}, {}, {}
        self._transforms = self.host.transforms() if self.values["base_frame"] else None
        for stream, prefix in output_prefixes(streams).items():
            self._detections[stream] = self.host.create_publisher(
                self.TASK.message_type, f"~{prefix}/detections", 5
            )
            self._markers[stream] = self.host.create_publisher(
                "visualization_msgs/msg/MarkerArray", f"~{prefix}/markers", 1
            )

    def subscribers(self, stream: str) -> int:
        """Return the number of subscriptions of detections and markers."""
        outputs = self._detections[stream], self._markers[stream]
        return sum(output.get_subscription_count() for output in outputs)

    def warm_up(self, runtime: Any) -> float:
        """Run the model on a cloud a few times."""
        return float(runtime.warmup())

    def use(self, runtime: Any) -> None:
        """Use `runtime` from the next frame on."""
        super().use(runtime)
        self._encoder = Detection3DEncoder(runtime.manifest.classes)

    def infer(self, frames: list[LidarFrame]) -> list[Placed]:
        """Detect in one cloud after the other, as they differ in size."""
        return [self._detect(frame) for frame in frames]

    def _detect(self, frame: LidarFrame) -> Placed:
        """Detect in a cloud, in the lidar's frame, or in `base_frame` if it is tilted or so configured."""
        thresholds = self.threshold("score"), self.threshold("nms")
        base = self.values["base_frame"]
        mounting = self._mounting(frame)
        wanted = self.runtime.manifest.input.sweeps
        motion = self._motion(frame, mounting) if frame.times_s is not None or wanted > 1 else None
        frame, sweep = self._without_motion(frame, motion, mounting)
        frame, count = self._with_earlier(frame, motion, wanted) if wanted > 1 else (frame, 1)
        tilted = mounting is not None and tilt(mounting) > LEVEL_RAD
        if mounting is None or not (tilted or self.values["output_frame"] == "base"):
            return Placed(detect3d(self.runtime, frame, *thresholds), frame.frame_id, sweep, count)
        found = detect3d(self.runtime, levelled(frame, mounting), *thresholds)
        return Placed(moved_to_base(found, mounting), base, sweep, count)

    def _motion(self, frame: LidarFrame, mounting: np.ndarray | None) -> LidarMotion | str:
        """How the lidar moves at the stamp of its cloud by /tf; else why that is not known."""
        fixed, base = self.values["fixed_frame"], self.values["base_frame"]
        if self._transforms is None or not fixed:
            return "base_frame or fixed_frame is empty"
        if mounting is None and frame.frame_id != base:
            return f"/tf has no {base!r} <- {frame.frame_id!r}"
        reason = ""
        for lag_ns in LAGS_NS:  # the newest transforms may still be on their way
            stamps = frame.stamp_ns - lag_ns - SPAN_NS, frame.stamp_ns - lag_ns
            try:
                before, after = (self._transforms.lookup(fixed, base, stamp) for stamp in stamps)
            except TransformError as error:
                reason = str(error)
                continue
            twist = twist_between(before, after, SPAN_NS / 1e9)
            (since,) = moved_by(twist, np.array([lag_ns / 1e9]))
            return LidarMotion(twist, after @ since @ (np.eye(4) if mounting is None else mounting))
        return reason

    def _without_motion(
        self, frame: LidarFrame, motion: LidarMotion | str | None, mounting: np.ndarray | None
    ) -> tuple[LidarFrame, Sweep]:
        """The cloud as of its stamp, where its points have times and /tf tells the motion."""
        if frame.times_s is None or self._transforms is None or motion is None:
            return frame, Sweep.UNTIMED
        if isinstance(motion, LidarMotion):
            return deskewed(frame, motion.twist, np.eye(4) if mounting is None else mounting), Sweep.DESKEWED
        if frame.frame_id not in self._said:
            self._said.add(frame.frame_id)
            self.host.info(
                f"{frame.frame_id!r}: the motion within a sweep is not undone where /tf does not tell it "
                f"({motion}); fixed_frame:='' if there is none"
            )
        return frame, Sweep.SKEWED

    def _with_earlier(
        self, frame: LidarFrame, motion: LidarMotion | str | None, wanted: int
    ) -> tuple[LidarFrame, int]:
        """The cloud with the sweeps before it, as the bundle takes `wanted`, and how many these are."""
        if not isinstance(motion, LidarMotion):
            self.alone[frame.frame_id] = (
                f"{frame.frame_id!r}: the bundle takes {wanted} sweeps, and gets the newest alone: {motion}"
            )
            self._earlier.pop(frame.frame_id, None)
            return frame, 1
        self.alone.pop(frame.frame_id, None)
        earlier = still_wanted(self._earlier.get(frame.frame_id, ()), frame.stamp_ns, wanted - 1)
        self._earlier[frame.frame_id] = [(frame, motion.pose), *earlier]
        return joined(frame, motion.pose, earlier), 1 + len(earlier)

    def _mounting(self, frame: LidarFrame) -> np.ndarray | None:
        """(4, 4) from the lidar's frame to base_frame; None where /tf has none: look at the ground then."""
        if self._transforms is None or frame.frame_id == self.values["base_frame"]:
            return None
        try:
            mounting = self._transforms.lookup(self.values["base_frame"], frame.frame_id, frame.stamp_ns)
        except TransformError:
            if frame.frame_id in self._mountings:
                return self._mountings[frame.frame_id]
            if not 0 <= frame.stamp_ns - self._looked_ns.get(frame.frame_id, -LOOK_NS) < LOOK_NS:
                self._looked_ns[frame.frame_id] = frame.stamp_ns
                leans = ground_tilt(frame.points)
                self.leaning.pop(frame.frame_id, None)
                if leans is not None and leans > TILTED_RAD:
                    self.leaning[frame.frame_id] = advice(leans, frame.frame_id, self.values["base_frame"])
            return None
        self.leaning.pop(frame.frame_id, None)
        self._mountings[frame.frame_id] = mounting
        return mounting

    def statuses(self) -> list[Status]:
        """Return the statuses, with a warning if a lidar seems tilted or its sweeps cannot be joined."""
        statuses = super().statuses()
        found = [*self.leaning.copy().values(), *self.alone.copy().values()]  # the worker writes to them
        if found and statuses and statuses[0].level is Level.OK:
            statuses[0] = replace(statuses[0], level=Level.WARN, message="; ".join(found))
        return statuses

    def publish(self, stream: str, frame: LidarFrame, result: Placed) -> None:
        """Publish the detections with the stamp of the cloud."""
        encoded = self._encoder.encode(result.detections, frame.stamp_ns, result.frame_id)
        self._detections[stream].publish(encoded)
        self._dropped[stream] += frame.dropped
        self._sweeps[stream, result.sweep] += 1
        self._joined[stream] = result.joined

    def publish_extras(self, stream: str, frame: LidarFrame, result: Placed) -> None:
        """Publish markers for RViz while there are subscribers."""
        publisher = self._markers[stream]
        if publisher.get_subscription_count():
            markers = box_markers(result.detections, self.runtime.manifest.classes)
            publisher.publish(encode_markers(markers, frame.stamp_ns, result.frame_id))

    def stream_values(self, stream: str) -> dict[str, object]:
        """Points without a place, and clouds by outcome of deskewing, of all published ones.

        `sweeps_joined`: of how many the last cloud consisted.
        """
        sweeps = {sweep.value: self._sweeps[stream, sweep] for sweep in Sweep}
        return {"points_dropped": self._dropped[stream], **sweeps, "sweeps_joined": self._joined[stream]}
