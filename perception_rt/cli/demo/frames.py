"""Read the played frames and the sensor mountings again, to draw the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception_rt.cli.demo.plan import DemoPlan
from perception_rt.cli.demo.sensors import DETECTORS, SIMULATED, Frame
from perception_rt.codec.camera_info import CameraModel, parse_camera_info
from perception_rt.codec.video import read_video
from perception_rt.model.task import DETECT2D, TASKS
from perception_rt.node.collector import Collector
from perception_rt.replay.bag import Bag, frames_of
from perception_rt.sim.drive import Drive
from perception_rt.sim.lidar import LIDAR_POSITION
from perception_rt.stage.transforms import TransformBuffer, camera_way, inverse
from perception_rt.types import CameraFrame


class Rig(NamedTuple):
    """A camera with the (4, 4) transform from the lidar to it."""

    camera: CameraModel
    camera_from_lidar: np.ndarray


def frames(plan: DemoPlan, collector: Collector) -> Iterator[tuple[str, Frame]]:
    """Yield topic and frame in order of time; a simulated drive is rendered again from its seed."""
    if plan.bag:
        yield from _bag_frames(plan, plan.bag)
        return
    if plan.video:
        (stream,) = plan.of(DETECT2D.node)
        kept = sorted(int(file.stem) for file in Path(plan.video).glob("*.jpg")) if plan.live else None
        for number, video in enumerate(read_video(plan.video)) if kept != [] else ():
            stamp_ns = kept[number] if kept else plan.epoch_ns + video.time_ns
            yield stream.topic, CameraFrame(video.pixels, True, stamp_ns, "camera")
        return
    drive = plan.recording or _drive(plan)
    times = []
    for task, sensor in SIMULATED.items():
        for stream in plan.of(TASKS[task].node):
            times += [(stamp, task, stream.topic) for stamp in collector.detections[sensor.truth]]
    if not times:
        return
    start = min(times)[0]
    for stamp, task, topic in sorted(times):
        yield topic, SIMULATED[task].frame(drive, (stamp - start) / 1e9, stamp)


def _drive(plan: DemoPlan) -> Drive:
    course = plan.course
    return Drive(course.seed, (course.width, course.height))


def _bag_frames(plan: DemoPlan, path: Path) -> Iterator[tuple[str, Frame]]:
    topics = [stream.topic for name in DETECTORS for stream in plan.of(name)]
    with Bag(path) as bag:
        for message, frame in frames_of(bag.messages(topics)):  # of the others the node counted decode_errors
            yield message.topic, frame


def rig(plan: DemoPlan) -> Rig | None:
    """Return the rig for the fusion of a plan; None without fusion."""
    if not plan.of("fusion"):
        return None
    if plan.bag is None:
        return _simulated_rig(_drive(plan))
    with Bag(plan.bag) as bag:
        buffer = TransformBuffer()
        for message in bag.messages(["/tf_static"]):
            buffer.add_message(message.data, static=True)
        camera = parse_camera_info(next(bag.messages([plan.camera_info])).data)
        (lidar,) = plan.of("lidar_detector")
        cloud = next((frame for _, frame in frames_of(bag.messages([lidar.topic]))), None)
    if cloud is None:  # nothing was fused
        return None
    return Rig(camera, camera_way(buffer.lookup, camera, cloud.frame_id, cloud.stamp_ns))


def _simulated_rig(drive: Drive) -> Rig:
    width, height = drive.camera.size
    base_from_lidar = np.eye(4)
    base_from_lidar[:3, 3] = LIDAR_POSITION
    camera = CameraModel(0, "camera", height, width, "plumb_bob", np.zeros(5), drive.camera.k)
    return Rig(camera, inverse(drive.camera.base_from_optical) @ base_from_lidar)
