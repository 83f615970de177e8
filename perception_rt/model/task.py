"""The registry of tasks: what a bundle, a node and a command must know about each kind of model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perception_rt.model.specs import InputSpec, parse_cloud, parse_image
from perception_rt.types.errors import BundleError


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of model. A new one adds its files and its entry in `TASKS`; nothing else names it.

    Attributes:
        name: as the manifest writes it.
        box_columns: of a box: 4 of xyxy in px, 7 of xyzlwh_yaw in m and rad.
        golden_form: shape of the golden input, for messages.
        golden_sides: longest side and number of sides of its shape.
        golden_channels: its last side.
        noise_shape: shape of the golden input where no picture or cloud was given.
        tolerances: of a box coordinate and of a score in the golden answer.
        message_type: ROS type of the result.
        decode_message: ``module:function`` that reads such a message back.
        parse_input: checks the field ``input`` of a manifest.
        runtime: ``module:class`` that runs a bundle.
    """

    name: str
    box_columns: int
    golden_form: str
    golden_sides: tuple[int, int]
    golden_channels: int
    noise_shape: tuple[int, ...]
    tolerances: tuple[float, float]
    message_type: str
    decode_message: str
    parse_input: Callable[[dict[str, Any]], InputSpec]
    runtime: str

    @property
    def flat(self) -> bool:
        """Whether its boxes lie in an image."""
        return self.box_columns == 4

    def runtime_class(self) -> type[Any]:
        """The class that runs its bundles."""
        return load_object(self.runtime)


def load_object(reference: str) -> Any:
    """The object that ``module:name`` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


DETECT2D = Task(
    name="detect2d",
    box_columns=4,
    golden_form="(N, H, W, 3)",
    golden_sides=(4096, 4),
    golden_channels=3,
    noise_shape=(1, 240, 320, 3),
    tolerances=(0.5, 0.01),
    message_type="vision_msgs/msg/Detection2DArray",
    decode_message="perception_rt.codec.detection_array:decode_detections",
    parse_input=parse_image,
    runtime="perception_rt.model.runtime:ImageRuntime",
)
DETECT3D = Task(
    name="detect3d",
    box_columns=7,
    golden_form="(N, 4)",
    golden_sides=(1 << 20, 2),
    golden_channels=4,
    noise_shape=(16384, 4),
    tolerances=(0.05, 0.01),
    message_type="vision_msgs/msg/Detection3DArray",
    decode_message="perception_rt.codec.detection_array:decode_detections3d",
    parse_input=parse_cloud,
    runtime="perception_rt.model.runtime:CloudRuntime",
)
TASKS: dict[str, Task] = {task.name: task for task in (DETECT2D, DETECT3D)}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        BundleError: there is none.
    """
    if name not in TASKS:
        raise BundleError(f"task={name!r}: must be one of {', '.join(TASKS)}")
    return TASKS[name]
