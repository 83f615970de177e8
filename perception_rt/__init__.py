"""Camera and lidar perception for ROS 2 with PyTorch: from message to detection, on time.

Every public name is loaded when it is first used, so that importing the package stays cheap::

    import perception_rt

    bundle = perception_rt.open_bundle("sim_camera")
    detections = perception_rt.detect2d(bundle, image)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.3.0"

if TYPE_CHECKING:
    from perception_rt.api import classify, detect2d, detect3d, open_bundle, replay_bag, segment
    from perception_rt.codec.camera_info import CameraModel
    from perception_rt.replay.bag import Bag
    from perception_rt.replay.session import ReplayResult
    from perception_rt.stage.fusion.fuse import CameraView, Fused, fuse, fuse_views
    from perception_rt.stage.prediction.ego import predict_path
    from perception_rt.stage.prediction.predictor import ObjectPredictor, PredictorConfig, motions_of
    from perception_rt.stage.tracking.camera_motion import CameraMotion
    from perception_rt.stage.tracking.config import TrackerConfig2D, TrackerConfig3D
    from perception_rt.stage.tracking.presets import config_2d as tracker_config_2d
    from perception_rt.stage.tracking.presets import config_3d as tracker_config_3d
    from perception_rt.stage.tracking.tracker import Tracker2D, Tracker3D
    from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
    from perception_rt.types import (
        BagError,
        BundleError,
        CameraFrame,
        CodecError,
        ConfigError,
        Detections2D,
        Detections3D,
        LidarFrame,
        ModelError,
        PerceptionError,
        TrackingError,
        Tracks,
        Tracks2D,
        TransformError,
    )
    from perception_rt.types.classification import Classification
    from perception_rt.types.predictions import Predictions
    from perception_rt.types.segmentation import Segmentation
    from perception_rt.types.state import EgoPath, EgoState, Fix, Imu, Pose, Steering, Twist

_TYPES, _STATE = "perception_rt.types", "perception_rt.types.state"
_SOURCES = {
    "open_bundle": "perception_rt.api",
    "detect2d": "perception_rt.api",
    "detect3d": "perception_rt.api",
    "classify": "perception_rt.api",
    "segment": "perception_rt.api",
    "replay_bag": "perception_rt.api",
    "Bag": "perception_rt.replay.bag",
    "ReplayResult": "perception_rt.replay.session",
    "Tracker2D": "perception_rt.stage.tracking.tracker",
    "Tracker3D": "perception_rt.stage.tracking.tracker",
    "CameraMotion": "perception_rt.stage.tracking.camera_motion",
    "TrackerConfig2D": "perception_rt.stage.tracking.config",
    "TrackerConfig3D": "perception_rt.stage.tracking.config",
    "tracker_config_2d": "perception_rt.stage.tracking.presets:config_2d",
    "tracker_config_3d": "perception_rt.stage.tracking.presets:config_3d",
    "ObjectPredictor": "perception_rt.stage.prediction.predictor",
    "PredictorConfig": "perception_rt.stage.prediction.predictor",
    "motions_of": "perception_rt.stage.prediction.predictor",
    "VehicleStateFilter": "perception_rt.stage.vehicle_state",
    "VehicleStateConfig": "perception_rt.stage.vehicle_state",
    "predict_path": "perception_rt.stage.prediction.ego",
    "fuse": "perception_rt.stage.fusion.fuse",
    "fuse_views": "perception_rt.stage.fusion.fuse",
    "CameraView": "perception_rt.stage.fusion.fuse",
    "Fused": "perception_rt.stage.fusion.fuse",
    "CameraModel": "perception_rt.codec.camera_info",
    "CameraFrame": _TYPES,
    "LidarFrame": _TYPES,
    "Detections2D": _TYPES,
    "Detections3D": _TYPES,
    "Tracks": _TYPES,
    "Tracks2D": _TYPES,
    "Segmentation": "perception_rt.types.segmentation",
    "Classification": "perception_rt.types.classification",
    "Predictions": "perception_rt.types.predictions",
    "EgoState": _STATE,
    "EgoPath": _STATE,
    "Twist": _STATE,
    "Imu": _STATE,
    "Fix": _STATE,
    "Pose": _STATE,
    "Steering": _STATE,
    "PerceptionError": _TYPES,
    "BagError": _TYPES,
    "BundleError": _TYPES,
    "CodecError": _TYPES,
    "ConfigError": _TYPES,
    "ModelError": _TYPES,
    "TrackingError": _TYPES,
    "TransformError": _TYPES,
}
"""Where each public name is defined: a module, or ``module:name`` where the name differs there."""

__all__ = [  # noqa: RUF022 - in the order of the documentation
    "open_bundle",
    "detect2d",
    "detect3d",
    "classify",
    "segment",
    "replay_bag",
    "Bag",
    "ReplayResult",
    "Tracker2D",
    "Tracker3D",
    "CameraMotion",
    "TrackerConfig2D",
    "TrackerConfig3D",
    "tracker_config_2d",
    "tracker_config_3d",
    "ObjectPredictor",
    "PredictorConfig",
    "motions_of",
    "VehicleStateFilter",
    "VehicleStateConfig",
    "predict_path",
    "fuse",
    "fuse_views",
    "CameraView",
    "Fused",
    "CameraModel",
    "CameraFrame",
    "LidarFrame",
    "Detections2D",
    "Detections3D",
    "Tracks",
    "Tracks2D",
    "Classification",
    "Segmentation",
    "Predictions",
    "EgoState",
    "EgoPath",
    "Twist",
    "Imu",
    "Fix",
    "Pose",
    "Steering",
    "PerceptionError",
    "BagError",
    "BundleError",
    "CodecError",
    "ConfigError",
    "ModelError",
    "TrackingError",
    "TransformError",
]


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _SOURCES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
