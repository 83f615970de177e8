"""Draw films and pictures of a run: the detections of each sensor, and the fused objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from rich.console import Console

from perception_rt.cli.demo.film import Film
from perception_rt.cli.demo.frames import Rig, frames, rig
from perception_rt.cli.demo.plan import TRUE_ODOMETRY, DemoPlan, DemoStream
from perception_rt.cli.demo.plot import plot_motion
from perception_rt.cli.demo.sensors import DETECTORS, Frame
from perception_rt.cli.demo.session import progress_bar
from perception_rt.model.task import DETECT2D
from perception_rt.node.collector import Collector
from perception_rt.stage.draw import draw_bev, draw_boxes3d, draw_detections
from perception_rt.stage.fusion.fuse import SHORT
from perception_rt.stage.transforms import transform
from perception_rt.types import CameraFrame, Detections2D, Detections3D, LidarFrame

PICTURES = 6
HALF_PX, WIDEST_PX = 380, 1100  # of each image in a picture of both sensors
TOGETHER_NS = 50_000_000
SEEN, AHEAD_S = 12, 1.0  # positions to estimate image motion from, and how far ahead it is drawn
DetectionsT = TypeVar("DetectionsT", Detections2D, Detections3D)


def draw(plan: DemoPlan, collector: Collector, out: Path, console: Console) -> None:
    """Draw a film and some pictures of every detector, of fusion and of the tracks, from the played frames.

    Frames without a result are marked, not skipped.
    """
    detectors = {stream.topic: stream for name in DETECTORS for stream in plan.of(name)}
    fused, tracked = (next(iter(plan.of(name)), None) for name in ("fusion", "object_tracker"))
    seen = rig(plan)
    with ExitStack() as stack, progress_bar(console) as progress:
        films = {
            topic: stack.enter_context(_film(out, _name(plan, stream), stream))
            for topic, stream in detectors.items()
        }
        both = stack.enter_context(_film(out, "fusion", fused)) if fused else None
        ahead = stack.enter_context(_film(out, "tracks", tracked)) if tracked else None
        motion = ImageMotion()
        camera: CameraFrame | None = None  # the latest
        lidar: LidarFrame | None = None
        total = sum(stream.frames for stream in detectors.values())
        for topic, frame in progress.track(frames(plan, collector), total=total, description="films"):
            films[topic].add(
                picture(frame, detectors[topic], collector), objects(frame, detectors[topic], collector)
            )
            if isinstance(frame, CameraFrame):
                camera = frame
                if tracked and ahead and tracked.task == DETECT2D.name:
                    ahead.add(
                        tracked_image(frame, tracked, collector, motion), objects(frame, tracked, collector)
                    )
            else:
                lidar = frame
                if tracked and ahead:
                    ahead.add(
                        tracked_picture(lidar, tracked, plan, collector), objects(lidar, tracked, collector)
                    )
            if fused and both and seen and camera and lidar and together(camera, lidar):
                both.add(
                    fused_picture(camera, lidar, seen, fused, collector), objects(lidar, fused, collector)
                )
                lidar = None
    if plan.of("vehicle_state"):
        plot_motion(
            out / "vehicle_state.png",
            collector.motions[plan.of("vehicle_state")[0].output],
            collector.motions.get(TRUE_ODOMETRY, {}),
        )


def together(camera: CameraFrame, lidar: LidarFrame) -> bool:
    """Return whether two frames show the same moment."""
    return abs(camera.stamp_ns - lidar.stamp_ns) <= TOGETHER_NS


def _name(plan: DemoPlan, stream: DemoStream) -> str:
    if len(plan.of(stream.node)) > 1:
        return stream.topic.strip("/").replace("/", "_")
    return stream.node.removesuffix("_detector")


def _film(out: Path, name: str, stream: DemoStream) -> Film:
    return Film(out, name, stream.rate_hz, stream.frames, PICTURES)


def objects(frame: Frame, stream: DemoStream, collector: Collector) -> int:
    """Return the number of objects above the score limit that were published for a frame."""
    found = collector.detections[stream.output].get(frame.stamp_ns)
    return 0 if found is None else int((found.scores >= stream.least_score).sum())


def published(topic: str, stamp_ns: int, collector: Collector, kind: type[DetectionsT]) -> DetectionsT | None:
    """Return the message published for a frame on a topic of this kind; None if there is none."""
    found = collector.detections[topic].get(stamp_ns)
    assert found is None or isinstance(found, kind)
    return found


def answer(
    stream: DemoStream, stamp_ns: int, collector: Collector, kind: type[DetectionsT]
) -> DetectionsT | None:
    """Return the published detections of a frame above the score limit; None if there are none."""
    found = published(stream.output, stamp_ns, collector, kind)
    return None if found is None else found[found.scores >= stream.least_score]


def picture(frame: Frame, stream: DemoStream, collector: Collector) -> np.ndarray:
    """Return a frame as RGB with its detections, or with a note if it has no result."""
    if isinstance(frame, LidarFrame):
        found3d = answer(stream, frame.stamp_ns, collector, Detections3D)
        drawn = draw_bev(frame.points, found3d or Detections3D.empty(), stream.classes)
    else:
        found2d = answer(stream, frame.stamp_ns, collector, Detections2D)
        drawn = draw_detections(rgb(frame), found2d or Detections2D.empty(), stream.classes)
    answered = frame.stamp_ns in collector.detections[stream.output]
    return drawn if answered else note(drawn)


def fused_picture(
    camera: CameraFrame, lidar: LidarFrame, seen: Rig, stream: DemoStream, collector: Collector
) -> np.ndarray:
    """Return the camera's image with the fused boxes and their sensors, and a view from above."""
    found = published(stream.output, lidar.stamp_ns, collector, Detections3D)
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


def tracked_picture(
    lidar: LidarFrame, stream: DemoStream, plan: DemoPlan, collector: Collector
) -> np.ndarray:
    """Return a view from above: tracks with ids, and predicted paths of tracks and vehicle."""
    stamp = lidar.stamp_ns
    found = published(stream.output, stamp, collector, Detections3D)
    frame, ids = (
        collector.frames.get(stream.output, lidar.frame_id),
        collector.ids[stream.output].get(stamp, []),
    )
    if found is None:
        return note(draw_bev(lidar.points, Detections3D.empty(), stream.classes))
    here = np.eye(4) if frame == lidar.frame_id else collector.transforms.lookup(lidar.frame_id, frame, stamp)
    ahead = published(plan.ahead, stamp, collector, Detections3D) or Detections3D.empty()
    paths = moved(ahead.xyzlwh_yaw, here)[:, :2].reshape(len(found), -1, 2) if len(found) else None
    boxes = Detections3D(moved(found.xyzlwh_yaw, here), found.scores, found.labels)
    notes = [f"#{number}" for number in ids]
    own = own_path(collector, lidar, stamp) if plan.simulated else None
    return draw_bev(lidar.points, boxes, stream.classes, notes=notes, paths=paths, ego_path=own)


class ImageMotion:
    """Predicts tracks in the image along a straight line through their last positions."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, float, float]]] = {}

    def paths(self, ids: Sequence[str], xyxy: np.ndarray, time_s: float) -> list[np.ndarray]:
        """Add the (N, 4) boxes of a frame; return the predicted (T, 2) px of each lower edge.

        The path of a track with too few positions is empty.
        """
        found = []
        for id_, (x1, _, x2, y2) in zip(ids, xyxy.tolist(), strict=True):
            seen = self._seen.setdefault(id_, deque(maxlen=SEEN))
            seen.append((time_s, (x1 + x2) / 2, y2))
            times, *places = np.array(seen).T
            if len(seen) < SEEN // 2:
                found.append(np.empty((0, 2), np.float32))
                continue
            ahead = np.linspace(0.0, AHEAD_S, 6)
            lines = [np.polyfit(times - time_s, place, 1) for place in places]
            found.append(
                np.column_stack(
                    [place[-1] + line[0] * ahead for place, line in zip(places, lines, strict=True)]
                )
            )
        return found


def tracked_image(
    frame: CameraFrame, stream: DemoStream, collector: Collector, motion: ImageMotion
) -> np.ndarray:
    """Return the image with the tracks, their ids and their motion in the next second."""
    found = published(stream.output, frame.stamp_ns, collector, Detections2D)
    if found is None:
        return note(rgb(frame))
    ids = collector.ids[stream.output][frame.stamp_ns]
    paths = motion.paths(ids, found.xyxy, frame.stamp_ns / 1e9)
    return draw_detections(rgb(frame), found, stream.classes, notes=[f"#{one}" for one in ids], paths=paths)


def own_path(collector: Collector, lidar: LidarFrame, stamp_ns: int) -> np.ndarray | None:
    """Return (T, 2), the latest path predicted before a moment, in the lidar's frame; None if missing."""
    before = [stamp for stamp in collector.paths if stamp <= stamp_ns]
    if not before:
        return None
    frame, xy = collector.paths[max(before)]
    here = collector.transforms.lookup(lidar.frame_id, frame, stamp_ns)
    return transform(here, np.column_stack((xy, np.zeros(len(xy)))))[:, :2]


def moved(boxes: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Return (N, 7) float32 boxes transformed by a (4, 4) with rotation about z only."""
    out = boxes.copy()
    out[:, :3] = transform(here, boxes[:, :3].astype(np.float64))
    out[:, 6] += np.arctan2(here[1, 0], here[0, 0])
    return out


def rgb(frame: CameraFrame) -> np.ndarray:
    """Return the pixels of a frame in RGB."""
    return frame.pixels[:, :, ::-1] if frame.bgr else frame.pixels


def note(drawn: np.ndarray) -> np.ndarray:
    """Return the picture with a note that there is no result."""
    drawn = np.ascontiguousarray(drawn).copy()
    red, font = (255, 60, 60), cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(drawn, "not answered", (10, 30), font, 0.8, red, 2, cv2.LINE_AA)
