"""The functions behind ``import perception_rt``: the core as a notebook wants to call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_rt.types import CameraFrame, ConfigError, Detections2D, Detections3D, LidarFrame
from perception_rt.types.classification import Classification
from perception_rt.types.segmentation import Segmentation

if TYPE_CHECKING:
    from perception_rt.model.runtime import ClassifierRuntime, CloudRuntime, ImageRuntime, Runtime
    from perception_rt.model.segmenter import SegmenterRuntime
    from perception_rt.model.task import Task
    from perception_rt.replay.session import ReplayResult


def open_bundle(path_or_name: str | Path, device: str = "auto", half: bool = False) -> Runtime:
    """Load a bundle and verify its hash and its golden output.

    A bundle is a program: open only those whose source you trust.

    Args:
        path_or_name: a file, or the name of a shipped bundle: ``sim_camera``, ``pillars``, ``bev_cluster``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        half: run the network in fp16 (CUDA only).

    Returns:
        The loaded bundle; ``manifest.task`` says whether `detect2d`, `detect3d`, `classify` or `segment`
        takes it, and ``manifest.classes`` are its class names by label.

    Raises:
        BundleError: the bundle or the device cannot be used; the text says why.
        ConfigError: `half` on a CPU.
    """
    from perception_rt.model.runtime import Runtime

    runtime: Runtime = Runtime.open(path_or_name, device, half)
    return runtime


def detect2d(
    bundle: Runtime,
    image: np.ndarray | CameraFrame,
    bgr: bool = False,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Detections2D:
    """Detect objects in one image.

    Args:
        bundle: a bundle of task ``detect2d``, as `open_bundle` returns it.
        image: (H, W, 3) uint8, at its native size; or a `CameraFrame`.
        bgr: the channel order of an array: OpenCV reads BGR, Pillow and imageio RGB. A frame brings its own.
        score_threshold: lowest score; None for the bundle's own.
        nms_threshold: IoU above which the lower score of a class is dropped; None for the bundle's own.

    Returns:
        Boxes in px of the image, best score first.

    Raises:
        ConfigError: the bundle is of another task, or the array is no image.
        ModelError: the network failed, or the device is out of memory.
    """
    from perception_rt.model.task import DETECT2D
    from perception_rt.stage.detect2d import detect2d as detect

    runtime: ImageRuntime = _of_task(bundle, DETECT2D)
    frame = image if isinstance(image, CameraFrame) else _frame(image, bgr)
    return detect(runtime, [frame], score_threshold, nms_threshold)[0]


def classify(
    bundle: Runtime,
    image: np.ndarray | CameraFrame,
    bgr: bool = False,
    score_threshold: float | None = None,
    top_k: int = 5,
) -> Classification:
    """Classify one image.

    Args:
        bundle: a bundle of task ``classify``, as `open_bundle` returns it.
        image: (H, W, 3) uint8, at its native size; or a `CameraFrame`.
        bgr: the channel order of an array, as of `detect2d`.
        score_threshold: lowest score; None for the bundle's own.
        top_k: most classes.

    Returns:
        Scores and labels, best score first.

    Raises:
        ConfigError: the bundle is of another task, or the array is no image.
        ModelError: the network failed, or the device is out of memory.
    """
    from perception_rt.model.task import CLASSIFY
    from perception_rt.stage.classify import classify as run

    runtime: ClassifierRuntime = _of_task(bundle, CLASSIFY)
    frame = image if isinstance(image, CameraFrame) else _frame(image, bgr)
    return run(runtime, [frame], score_threshold, top_k)[0]


def segment(
    bundle: Runtime,
    image: np.ndarray | CameraFrame,
    bgr: bool = False,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Segmentation:
    """Find the class of every pixel of one image.

    Args:
        bundle: a bundle of task ``segment``, as `open_bundle` returns it.
        image: (H, W, 3) uint8, at its native size; or a `CameraFrame`.
        bgr: the channel order of an array, as of `detect2d`.
        score_threshold: lowest score of an object, or of a pixel where the network tells classes only; None
            for the bundle's own.
        nms_threshold: IoU above which the lower score of a class is dropped; None for the bundle's own.

    Returns:
        Labels at the size of the image, and the objects where the network tells their masks.

    Raises:
        ConfigError: the bundle is of another task, or the array is no image.
        ModelError: the network failed, or the device is out of memory.
    """
    from perception_rt.model.task import SEGMENT
    from perception_rt.stage.segment import segment as run

    runtime: SegmenterRuntime = _of_task(bundle, SEGMENT)
    frame = image if isinstance(image, CameraFrame) else _frame(image, bgr)
    return run(runtime, [frame], score_threshold, nms_threshold)[0]


def detect3d(
    bundle: Runtime,
    points: np.ndarray | LidarFrame,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> Detections3D:
    """Detect objects in one point cloud.

    Args:
        bundle: a bundle of task ``detect3d``, as `open_bundle` returns it.
        points: (N, 3) x y z in m, or (N, 4) with the intensity, of any number type, in the sensor's frame
            (REP 103); points that are not finite are left out. Or a `LidarFrame`.
        score_threshold: lowest score; None for the bundle's own.
        nms_threshold: footprint IoU above which the lower score is dropped; None for the bundle's own.

    Returns:
        Boxes in the sensor's frame, best score first.

    Raises:
        ConfigError: the bundle is of another task, or the array is no cloud.
        ModelError: the network failed, or the device is out of memory.
    """
    from perception_rt.model.task import DETECT3D
    from perception_rt.stage.detect3d import detect3d as detect

    runtime: CloudRuntime = _of_task(bundle, DETECT3D)
    frame = points if isinstance(points, LidarFrame) else _cloud(points)
    return detect(runtime, frame, score_threshold, nms_threshold)


def replay_bag(
    bag: str | Path,
    config: str | Path,
    out: str | Path,
    *,
    inference: str = "measured",
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    remaps: Mapping[str, str] | None = None,
    truth: Sequence[str] = (),
    report: bool = False,
) -> ReplayResult:
    """Replay a recording through the nodes of a parameter file, in virtual time and without ROS.

    Args:
        bag: a rosbag2 folder, or one file of it.
        config: ROS parameter file; its keys are the nodes to run.
        out: folder to write; an earlier replay in it is replaced.
        inference: ``measured`` on this machine, ``fixed:MS``, or ``trace:FILE`` (a ledger.csv).
        parameters: overrides by node name, then parameter; the node name ``""`` means every node.
        remaps: topics to use, by the absolute names that they replace.
        truth: ground truth to score against: topics of the recording, KITTI labels or MOT files.
        report: whether to write report.html and report.png.

    Returns:
        The result; ``metrics`` holds what metrics.json does, ``code`` the exit code of the command.

    Raises:
        BagError: the recording cannot be read.
        ConfigError: the parameter file, an override or the folder cannot be used.
    """
    from perception_rt.replay.session import Session, run_session

    session = Session(
        bag=Path(bag),
        config=Path(config),
        out=Path(out),
        inference=inference,
        overrides=parameters or {},
        remaps=remaps or {},
        truths=truth,
        report=report,
    )
    return run_session(session)


def _of_task(bundle: Runtime, task: Task) -> Any:
    found = bundle.manifest.task
    if found != task.name:
        raise ConfigError(f"bundle {bundle.manifest.name!r} is of task {found}, not {task.name}")
    return bundle


def _frame(image: np.ndarray, bgr: bool) -> CameraFrame:
    try:
        return CameraFrame(np.asarray(image), bgr, 0, "")
    except ValueError as error:
        raise ConfigError(f"image: {error}") from error


def _cloud(points: np.ndarray) -> LidarFrame:
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] not in (3, 4) or array.dtype.kind not in "fiu":
        raise ConfigError(f"points: must be (N, 3) or (N, 4) numbers, got {array.shape} {array.dtype}")
    cloud = np.zeros((len(array), 4), np.float32)
    cloud[:, : array.shape[1]] = array
    whole = np.isfinite(cloud).all(1)
    return LidarFrame(cloud[whole], int((~whole).sum()), 0, "")
