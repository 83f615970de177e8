"""The registry of tasks: what bundles, nodes and commands need for each kind of model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perception_rt.model.specs import InputSpec, parse_cloud, parse_image
from perception_rt.types import CameraFrame, Detections2D, Detections3D, LidarFrame
from perception_rt.types.classification import Classification
from perception_rt.types.errors import BundleError
from perception_rt.types.segmentation import Segmentation


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of model. A new task adds its files and an entry in `TASKS`.

    Attributes:
        name: as the manifest writes it.
        node: the node that runs such bundles, empty for none; its component defines the default bundle and
            the topics.
        sensor_types: ROS types of the messages that it takes.
        sensor_data: converts a frame of these to the input of the runtime, a batch of one.
        box_columns: number of columns of a box: 4 of xyxy in px, 7 of xyzlwh_yaw in m and rad. For a
            classifier: the visible part of the image.
        result: the class of the answers.
        golden_origin: description of a golden input that was not made from a seed.
        golden_form: shape of the golden input, for messages.
        golden_sides: longest side and number of sides of its shape.
        golden_channels: its last side.
        noise_shape: shape of the golden input if no picture or cloud was given.
        tolerances: of a box coordinate and of a score in the golden answer.
        message_type: ROS type of the result.
        decode_message: ``module:function`` from such a message, serialized, and the class names to stamp in
            ns, frame_id, answers and their ids.
        parse_input: checks the field ``input`` of a manifest.
        runtime: ``module:class`` that runs a bundle.
        recipe: of `perception-rt train`, that scores such bundles on the simulator; empty for none.
    """

    name: str
    node: str
    sensor_types: tuple[str, ...]
    sensor_data: Callable[[Any], np.ndarray]
    box_columns: int
    result: type[Any]
    golden_origin: str
    golden_form: str
    golden_sides: tuple[int, int]
    golden_channels: int
    noise_shape: tuple[int, ...]
    tolerances: tuple[float, float]
    message_type: str
    decode_message: str
    parse_input: Callable[[dict[str, Any]], InputSpec]
    runtime: str
    recipe: str = ""

    def runtime_class(self) -> type[Any]:
        """The class that runs bundles of the task."""
        return load_object(self.runtime)

    def decoder(self) -> Callable[..., tuple[Any, ...]]:
        """The function that `decode_message` names."""
        return load_object(self.decode_message)


def load_object(reference: str) -> Any:
    """Return the object that ``module:name`` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _image_batch(frame: CameraFrame) -> np.ndarray:
    """Return (1, H, W, 3) uint8 RGB."""
    return np.ascontiguousarray(frame.pixels[:, :, ::-1] if frame.bgr else frame.pixels)[None]


def _cloud(frame: LidarFrame) -> np.ndarray:
    """Return (N, 4) float32."""
    return np.ascontiguousarray(frame.points)


DETECT2D = Task(
    name="detect2d",
    node="camera_detector",
    sensor_types=("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    sensor_data=_image_batch,
    box_columns=4,
    result=Detections2D,
    golden_origin="picture",
    golden_form="(N, H, W, 3)",
    golden_sides=(4096, 4),
    golden_channels=3,
    noise_shape=(1, 240, 320, 3),
    tolerances=(0.5, 0.01),
    message_type="vision_msgs/msg/Detection2DArray",
    decode_message="perception_rt.codec.detections:decode_detections",
    parse_input=parse_image,
    runtime="perception_rt.model.runtime:ImageRuntime",
    recipe="camera",
)
DETECT3D = Task(
    name="detect3d",
    node="lidar_detector",
    sensor_types=("sensor_msgs/msg/PointCloud2",),
    sensor_data=_cloud,
    box_columns=7,
    result=Detections3D,
    golden_origin="cloud",
    golden_form="(N, 4)",
    golden_sides=(1 << 20, 2),
    golden_channels=4,
    noise_shape=(16384, 4),
    tolerances=(0.05, 0.01),
    message_type="vision_msgs/msg/Detection3DArray",
    decode_message="perception_rt.codec.detections3d:decode_detections3d",
    parse_input=parse_cloud,
    runtime="perception_rt.model.runtime:CloudRuntime",
    recipe="pillars",
)
CLASSIFY = replace(
    DETECT2D,
    name="classify",
    node="camera_classifier",
    result=Classification,
    tolerances=(0.5, 0.002),  # many classes share a score of 1
    message_type="vision_msgs/msg/Classification",
    decode_message="perception_rt.codec.classification:decode_classification",
    runtime="perception_rt.model.runtime:ClassifierRuntime",
    recipe="",
)
SEGMENT = replace(
    DETECT2D,
    name="segment",
    node="camera_segmenter",
    result=Segmentation,
    message_type="sensor_msgs/msg/Image",
    decode_message="perception_rt.codec.segmentation:decode_segmentation",
    runtime="perception_rt.model.segmenter:SegmenterRuntime",
    recipe="",
)
TASKS: dict[str, Task] = {task.name: task for task in (DETECT2D, DETECT3D, CLASSIFY, SEGMENT)}


def find_task(name: str) -> Task:
    """Return the task with a name.

    Raises:
        BundleError: there is no such task.
    """
    if name not in TASKS:
        raise BundleError(f"task={name!r}: must be one of {', '.join(TASKS)}")
    return TASKS[name]
