"""The ego vehicle's state: an error-state Kalman filter that takes measurements in any order."""

from perception_rt.stage.vehicle_state.config import VehicleStateConfig
from perception_rt.stage.vehicle_state.estimate import UpdateStatus
from perception_rt.stage.vehicle_state.filter import VehicleStateFilter
from perception_rt.stage.vehicle_state.motion import MotionNoise

__all__ = ["MotionNoise", "UpdateStatus", "VehicleStateConfig", "VehicleStateFilter"]
