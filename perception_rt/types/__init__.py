"""The values that flow between the steps: small, frozen, shapes checked at birth."""

from perception_rt.types.detections import Detections2D
from perception_rt.types.errors import (
    BagError,
    BundleError,
    CodecError,
    ConfigError,
    ModelError,
    PerceptionError,
)
from perception_rt.types.frames import CameraFrame

__all__ = [
    "BagError",
    "BundleError",
    "CameraFrame",
    "CodecError",
    "ConfigError",
    "Detections2D",
    "ModelError",
    "PerceptionError",
]
