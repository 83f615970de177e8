"""The detector nodes, and the simulated sensors that feed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from perception_rt.component.detector import DetectorComponent
from perception_rt.component.graph import class_of
from perception_rt.model.task import DETECT2D, DETECT3D, TASKS
from perception_rt.sim.drive import Drive
from perception_rt.sim.lidar import LIDAR_FRAME
from perception_rt.sim.recording import Recording
from perception_rt.types import CameraFrame, LidarFrame

Frame = CameraFrame | LidarFrame


class SimulatedStream(NamedTuple):
    """The stream of `drive_simulator` for a task.

    Attributes:
        rate: name of the rate parameter. default_hz: default of that parameter. truth: the topic of the
            ground truth.
        frame: function of the drive or its recording, the time in s and the stamp in ns to a sensor frame.
    """

    rate: str
    default_hz: float
    truth: str
    frame: Callable[[Drive | Recording, float, int], Frame]


SIMULATED = {  # by task
    DETECT2D.name: SimulatedStream(
        "camera_hz",
        30.0,
        "/drive_simulator/ground_truth",
        lambda drive, t_s, stamp: CameraFrame(drive.sample(t_s).image, False, stamp, "camera"),
    ),
    DETECT3D.name: SimulatedStream(
        "lidar_hz",
        10.0,
        "/drive_simulator/ground_truth_3d",
        lambda drive, t_s, stamp: LidarFrame(drive.lidar(t_s).points, 0, stamp, LIDAR_FRAME),
    ),
}
DETECTORS: dict[str, type[DetectorComponent]] = {
    TASKS[name].node: class_of("perception_rt.component", TASKS[name].node) for name in SIMULATED
}
