"""A segment of comma2k19 (Schafer et al., arXiv:1812.05752), one .npz under the data set's own names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception_rt.stage.vehicle_state.geodesy import enu_from_ecef
from perception_rt.types import BagError
from perception_rt.types.state import Fix, Imu, Measurement, Twist

# Noise of the instruments by their type, not fitted to this recording.
SPEED_SIGMA = 0.1  # m/s: a CAN bus's wheel speed, tyres and road
GYRO_SIGMA = 0.01  # rad/s: a phone's gyro on a windscreen, vibration
ACCEL_SIGMA = 1.0  # m/s^2: the same of its accelerometer
FIX_SIGMA = 0.3  # m an axis: u-blox M8 with SBAS under open sky


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A minute of driving.

    Attributes:
        measurements: of CAN speed, gyro and accelerometer, and u-blox fixes, in the order they were logged.
        truth_ns: (N,) int64, stamps of the post-processed pose.
        truth_ecef: (N, 3) float64, the device's position, ECEF, m.
    """

    measurements: list[Measurement]
    truth_ns: np.ndarray
    truth_ecef: np.ndarray

    def truth(self, stamps_ns: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """(M, 2) east and north of the device at stamps within the segment.

        Args:
            stamps_ns: (M,) int64. origin: latitude and longitude in degrees, altitude in m.
        """
        enu = enu_from_ecef(self.truth_ecef, origin)
        start = self.truth_ns[0]
        at, known = (stamps_ns - start) * 1e-9, (self.truth_ns - start) * 1e-9
        return np.stack([np.interp(at, known, enu[:, axis]) for axis in (0, 1)], -1)


def read_segment(path: Path) -> Segment:
    """Read a segment.

    Raises:
        BagError: the file is missing or lacks a signal.
    """
    try:
        with np.load(path) as file:
            signals = {name: file[name] for name in _NEEDED}
    except (OSError, KeyError, ValueError) as error:
        raise BagError(f"{path}: not a segment of comma2k19: {error}") from error
    log = "processed_log/"
    measurements: list[Measurement] = [
        *_twists(signals[log + "CAN/speed/t"], signals[log + "CAN/speed/value"]),
        *_imus(
            signals[log + "IMU/gyro/t"],
            signals[log + "IMU/gyro/value"],
            signals[log + "IMU/accelerometer/t"],
            signals[log + "IMU/accelerometer/value"],
        ),
        *_fixes(signals[log + "GNSS/live_gnss_ublox/t"], signals[log + "GNSS/live_gnss_ublox/value"]),
    ]
    measurements.sort(key=lambda measurement: measurement.stamp_ns)
    return Segment(
        measurements, _ns(signals["global_pose/frame_times"]), signals["global_pose/frame_positions"]
    )


_NEEDED = (
    "processed_log/CAN/speed/t",
    "processed_log/CAN/speed/value",
    "processed_log/IMU/gyro/t",
    "processed_log/IMU/gyro/value",
    "processed_log/IMU/accelerometer/t",
    "processed_log/IMU/accelerometer/value",
    "processed_log/GNSS/live_gnss_ublox/t",
    "processed_log/GNSS/live_gnss_ublox/value",
    "global_pose/frame_times",
    "global_pose/frame_positions",
)


def _ns(seconds: np.ndarray) -> np.ndarray:
    return np.round(seconds * 1e9).astype(np.int64)


def _twists(t: np.ndarray, speed: np.ndarray) -> list[Measurement]:
    return [
        Twist(stamp, value, SPEED_SIGMA**2)
        for stamp, value in zip(_ns(t).tolist(), speed.ravel().tolist(), strict=True)
    ]


def _imus(t: np.ndarray, gyro: np.ndarray, accel_t: np.ndarray, accel: np.ndarray) -> list[Measurement]:
    """The device's axes are forward, right, down; base_link's are forward, left, up."""
    forward = np.interp(t, accel_t, accel[:, 0])
    return [
        Imu(stamp, -rate, GYRO_SIGMA**2, push, ACCEL_SIGMA**2)
        for stamp, rate, push in zip(_ns(t).tolist(), gyro[:, 2].tolist(), forward.tolist(), strict=True)
    ]


def _fixes(t: np.ndarray, rows: np.ndarray) -> list[Measurement]:
    """Rows are latitude, longitude, speed, utc, altitude, bearing."""
    variance = FIX_SIGMA**2
    return [
        Fix(stamp, row[0], row[1], row[4], (variance, 0.0, variance))
        for stamp, row in zip(_ns(t).tolist(), rows.tolist(), strict=True)
    ]
