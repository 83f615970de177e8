"""Which sensors are not what they declare, in words."""

from __future__ import annotations

from perception_rt.stage.vehicle_state.config import VehicleStateConfig
from perception_rt.stage.vehicle_state.estimate import Estimate
from perception_rt.stage.vehicle_state.estimator import RECOVER_LEAST, is_frozen, is_stale
from perception_rt.stage.vehicle_state.observation import GYRO_BIAS, SPEED_SCALE

NOISE_RATIO = 100.0  # ten declared sigmas
REJECTED_S = 1.0
ERROR_SIGMAS = 5.0  # of a speed sensor's scale and a gyro's bias


def suspects(estimate: Estimate, config: VehicleStateConfig) -> dict[str, str]:
    """What is wrong with quantities, by name as ``imu.yaw_rate``.

    Args:
        estimate: the filter's newest.
        config: of the filter.
    """
    found: dict[str, str] = {}
    for key, excess in estimate.excess.items():
        if excess > NOISE_RATIO:
            found[key] = "its noise is far above the declared, or another sensor of the same is wrong"
    for key, (since_ns, count, *_) in estimate.rejections.items():
        seconds = ((estimate.stamp_ns or since_ns) - since_ns) * 1e-9
        if count >= RECOVER_LEAST and seconds >= REJECTED_S:
            found[key] = f"contradicts the other sensors since {seconds:.0f} s"
    scale, bias = float(estimate.x[SPEED_SCALE]), float(estimate.x[GYRO_BIAS])
    for key in estimate.excess:
        if key.endswith(".speed") and abs(scale) > ERROR_SIGMAS * config.speed_scale_sigma:
            found[key] = f"reads {100 * scale:+.0f} % of the speed too much"
        elif key == "imu.yaw_rate" and abs(bias) > ERROR_SIGMAS * config.gyro_bias_sigma:
            found[key] = f"reads {bias:+.3f} rad/s too much"
    for key in estimate.repeats:
        frozen = is_stale if key.endswith(".position") else is_frozen
        if (key.endswith(".position") or key == "imu.yaw_rate") and frozen(estimate, key):
            found[key] = "repeats itself"
    return found
