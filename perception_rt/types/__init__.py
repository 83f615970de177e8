"""The values that flow between the steps: small, frozen, shapes checked at birth.

Each is loaded when it is first used: the errors, which every command needs, come without NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_SOURCES = {
    "Detections2D": "detections",
    "Detections3D": "detections",
    "CameraFrame": "frames",
    "LidarFrame": "frames",
    "Tracks": "tracks",
    "Tracks2D": "tracks",
}

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


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_SOURCES.get(name, 'errors')}")
    globals()[name] = value = getattr(module, name)
    return value
