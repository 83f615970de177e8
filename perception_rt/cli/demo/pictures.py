"""Films and pictures of a run: what each sensor's detector found, and what both found together."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from perception_rt.cli.demo import progress_bar
from perception_rt.cli.demo.frames import Frame, Rig, frames, rig
from perception_rt.cli.demo.plan import Plan, Stream
from perception_rt.node.collector import Collector
from perception_rt.replay.film import Film
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_detections
from perception_rt.stage.fuse import SHORT
from perception_rt.types import CameraFrame, Detections2D, Detections3D, LidarFrame

PICTURES = 6
HALF_PX, WIDEST_PX = 380, 1100  # of one of the two images in a picture of both sensors
TOGETHER_NS = 50_000_000
Found = Detections2D | Detections3D


def draw(plan: Plan, collector: Collector, out: Path, console: Console) -> None:
    """A film and some pictures of every detector, and of fusion, from the very frames that were played.

    A frame that was not answered is marked, not left out.
    """
    detectors = {stream.topic: stream for stream in plan.streams if stream.node != "fusion"}
    fused, seen = (plan.of("fusion") or [None])[0], rig(plan)
    with ExitStack() as stack, progress_bar(console) as progress:
        films = {
            topic: stack.enter_context(_film(out, _name(plan, stream), stream))
            for topic, stream in detectors.items()
        }
        both = stack.enter_context(_film(out, "fusion", fused)) if fused else None
        latest: dict[type, Frame] = {}
        total = sum(stream.frames for stream in detectors.values())
        for topic, frame in progress.track(frames(plan, collector), total=total, description="films"):
            films[topic].add(picture(frame, detectors[topic], collector))
            latest[type(frame)] = frame
            pair = latest.get(CameraFrame), latest.get(LidarFrame)
            if both and all(pair) and abs(pair[0].stamp_ns - pair[1].stamp_ns) <= TOGETHER_NS:
                both.add(fused_picture(*pair, seen, fused, collector))
                del latest[LidarFrame]


def _name(plan: Plan, stream: Stream) -> str:
    if len(plan.of(stream.node)) > 1:
        return stream.topic.strip("/").replace("/", "_")
    return stream.node.removesuffix("_detector")


def _film(out: Path, name: str, stream: Stream) -> Film:
    pictures = {round((k + 0.5) * stream.frames / PICTURES) for k in range(PICTURES)}
    return Film(out, name, stream.rate_hz, pictures)


def answer(stream: Stream, stamp_ns: int, collector: Collector) -> Found | None:
    """What was published for a frame, without its weak answers; None where nothing was."""
    found = collector.detections[stream.output].get(stamp_ns)
    return None if found is None else found[found.scores >= stream.least_score]


def picture(frame: Frame, stream: Stream, collector: Collector) -> np.ndarray:
    """A frame as RGB with its answer, or with a note where it has none."""
    found = answer(stream, frame.stamp_ns, collector)
    if isinstance(frame, LidarFrame):
        drawn = draw_bev(frame.points, found or Detections3D.empty(), stream.classes)
    else:
        drawn = draw_detections(rgb(frame), found or Detections2D.empty(), stream.classes)
    return drawn if found is not None else note(drawn)


def fused_picture(
    camera: CameraFrame, lidar: LidarFrame, seen: Rig, stream: Stream, collector: Collector
) -> np.ndarray:
    """The camera's image, the fused boxes in it with who saw them, and the same from above."""
    found = collector.detections[stream.output].get(lidar.stamp_ns)
    if found is None:
        boxes, sources = Detections3D.empty(), []
    else:
        sure = found.scores >= stream.least_score
        ids = collector.ids[stream.output][lidar.stamp_ns]
        sources = [SHORT[id_] for id_, kept in zip(ids, sure, strict=True) if kept]
        boxes = found[sure]
    image = rgb(camera)
    boxed = draw_boxes3d(image, boxes, stream.classes, seen.camera, seen.camera_from_lidar, notes=sources)
    width = min(WIDEST_PX, round(HALF_PX * image.shape[1] / image.shape[0]))
    size = width, round(width * image.shape[0] / image.shape[1])
    left = np.vstack([cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (image, boxed)])
    above = draw_bev(lidar.points, boxes, stream.classes, notes=sources)
    side = round(above.shape[1] * len(left) / len(above))
    drawn = np.hstack([left, cv2.resize(above, (side, len(left)), interpolation=cv2.INTER_AREA)])
    return drawn if found is not None else note(drawn)


def rgb(frame: CameraFrame) -> np.ndarray:
    """The pixels of a frame in RGB."""
    return frame.pixels[:, :, ::-1] if frame.bgr else frame.pixels


def note(drawn: np.ndarray) -> np.ndarray:
    """The picture, marked as not answered."""
    drawn = np.ascontiguousarray(drawn).copy()
    red, font = (255, 60, 60), cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(drawn, "not answered", (10, 30), font, 0.8, red, 2, cv2.LINE_AA)
