"""The values that flow between the steps: small, frozen, shapes checked at birth."""

from perception_rt.types.detections import Detections2D, Detections3D
from perception_rt.types.errors import (
    BagError,
    BundleError,
    CodecError,
    ConfigError,
    ModelError,
    PerceptionError,
    TrackingError,
    TransformError,
)
from perception_rt.types.frames import CameraFrame, LidarFrame
from perception_rt.types.tracks import Tracks, Tracks2D

__all__ = [
    "BagError",
    "BundleError",
    "CameraFrame",
    "CodecError",
    "ConfigError",
    "Detections2D",
    "Detections3D",
    "LidarFrame",
    "ModelError",
    "PerceptionError",
    "TrackingError",
    "Tracks",
    "Tracks2D",
    "TransformError",
]
