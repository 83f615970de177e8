"""Parse a vehicle's measurements from serialized messages, and serialize its state and path.

sensor_msgs/Imu, sensor_msgs/NavSatFix, geometry_msgs/TwistWithCovarianceStamped and nav_msgs/Odometry in;
nav_msgs/Odometry and nav_msgs/Path out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perception_rt.codec.cdr import CdrReader, CdrWriter, stamp_bytes
from perception_rt.types.state import EgoPath, EgoState

_NO_FIX = -1
_UNKNOWN_COVARIANCE = 0
_PLANE = (0, 1, 5)  # of x y z and the turns about x y z: what a vehicle on the ground has
_PLANE_BLOCK = np.ix_(_PLANE, _PLANE)


@dataclass(frozen=True, slots=True, eq=False)
class ImuReading:
    """A sensor_msgs/Imu without its orientation.

    Attributes:
        angular_velocity: (3,) rad/s. linear_acceleration: (3,) m/s^2, in the IMU's own frame `frame_id`. None
            where the message says that there is no such measurement (covariance -1 in its first element).
        angular_covariance, linear_covariance: (3, 3); None where it is not known (all zero).
    """

    stamp_ns: int
    frame_id: str
    angular_velocity: np.ndarray | None
    angular_covariance: np.ndarray | None
    linear_acceleration: np.ndarray | None
    linear_covariance: np.ndarray | None


@dataclass(frozen=True, slots=True, eq=False)
class FixReading:
    """A sensor_msgs/NavSatFix.

    Attributes:
        has_fix: False while the receiver has none: the numbers mean nothing.
        latitude, longitude: degrees. altitude: m above the ellipsoid, NaN where there is none.
        covariance: (3, 3) east north up, m^2; None where it is not known.
    """

    stamp_ns: int
    frame_id: str
    has_fix: bool
    latitude: float
    longitude: float
    altitude: float
    covariance: np.ndarray | None


@dataclass(frozen=True, slots=True, eq=False)
class MotionReading:
    """The plane part of a twist, and of the pose where there is one.

    Attributes:
        frame_id: of the header: where the pose is told, or the twist's own frame where there is no pose.
        child_frame_id: the frame of the twist.
        speed: along x, m/s. yaw_rate: about z, rad/s. None where the message says that it does not measure it
            (a variance of -1). twist_variance: of both; zeros where not known.
        pose: x y yaw, m and rad; None where the message has none: no rotation, or a variance of -1.
        pose_covariance: (3, 3) of x y yaw; zeros where not known.
        sideways: speed along y, m/s, and its variance; None as `speed`.
        twist: (6,) all of it, m/s and rad/s, and its (6, 6) covariance.
    """

    stamp_ns: int
    frame_id: str
    child_frame_id: str
    speed: float | None
    yaw_rate: float | None
    twist_variance: tuple[float, float]
    pose: tuple[float, float, float] | None = None
    pose_covariance: np.ndarray | None = None
    sideways: tuple[float, float] | None = None
    twist: tuple[np.ndarray, np.ndarray] | None = None

    def moved_to(self, base_from_child: np.ndarray) -> MotionReading:
        """The same motion as the twist of another frame of the vehicle.

        Args:
            base_from_child: (4, 4) the twist's frame in the other one, m: in a frame of z down (REP 103,
                ``_ned``) left turns are negative, and one off the centre moves sideways in turns.
        """
        assert self.twist is not None  # as parsed
        (values, covariance), axes = self.twist, base_from_child[:3, :3]
        turn = axes @ values[3:]
        moved = np.concatenate((axes @ values[:3] - np.cross(turn, base_from_child[:3, 3]), turn))
        spread = covariance.copy()
        for part in (slice(0, 3), slice(3, 6)):
            if (np.diag(covariance)[part] >= 0).all():
                spread[part, part] = axes @ covariance[part, part] @ axes.T
        return replace(self, **_plane(moved, spread))


def parse_imu(data: bytes) -> ImuReading:
    """A serialized sensor_msgs/Imu.

    Raises:
        CodecError: truncated bytes.
    """
    reader = CdrReader(data)
    stamp_ns, frame_id = reader.header()
    reader.scalars("orientation", "d", 4 + 9)
    turning, turning_covariance = _measured(reader, "angular_velocity")
    pushing, pushing_covariance = _measured(reader, "linear_acceleration")
    return ImuReading(stamp_ns, frame_id, turning, turning_covariance, pushing, pushing_covariance)


def _measured(reader: CdrReader, field: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    values, covariance = reader.scalars(field, "d", 3), reader.scalars(f"{field}_covariance", "d", 9)
    if covariance[0] == -1:
        return None, None
    return np.array(values), np.array(covariance).reshape(3, 3) if any(covariance) else None


def parse_fix(data: bytes) -> FixReading:
    """A serialized sensor_msgs/NavSatFix.

    Raises:
        CodecError: truncated bytes.
    """
    reader = CdrReader(data)
    stamp_ns, frame_id = reader.header()
    (status,) = reader.scalars("status", "b")
    reader.scalars("service", "H")
    latitude, longitude, altitude = reader.doubles("latitude, longitude, altitude", 3).tolist()
    covariance = reader.doubles("position_covariance", 9).reshape(3, 3)
    (kind,) = reader.scalars("position_covariance_type", "B")
    known = kind != _UNKNOWN_COVARIANCE
    known_covariance = covariance if known else None
    return FixReading(stamp_ns, frame_id, status != _NO_FIX, latitude, longitude, altitude, known_covariance)


def parse_twist(data: bytes) -> MotionReading:
    """A serialized geometry_msgs/TwistWithCovarianceStamped.

    Raises:
        CodecError: truncated bytes.
    """
    reader = CdrReader(data)
    stamp_ns, frame_id = reader.header()
    return MotionReading(stamp_ns, frame_id, frame_id, **_twist(reader))


def parse_odometry(data: bytes) -> MotionReading:
    """A serialized nav_msgs/Odometry.

    Raises:
        CodecError: truncated bytes.
    """
    reader = CdrReader(data)
    stamp_ns, frame_id = reader.header()
    child = reader.string("child_frame_id")
    x, y, _, qx, qy, qz, qw = reader.scalars("pose", "d", 7)
    covariance = reader.doubles("pose.covariance", 36).reshape(6, 6)[_PLANE_BLOCK]
    norm = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    yaw = math.atan2(2 * (qw * qz + qx * qy), qw * qw + qx * qx - qy * qy - qz * qz)
    known = 0.5 < norm < 2 and covariance[0, 0] >= 0  # drivers without a pose leave zeros, or say -1
    pose = (x, y, yaw) if known else None
    twist = _twist(reader)
    return MotionReading(stamp_ns, frame_id, child, pose=pose, pose_covariance=covariance, **twist)


def _twist(reader: CdrReader) -> dict[str, Any]:
    values = reader.doubles("twist", 6)
    covariance = reader.doubles("twist.covariance", 36).reshape(6, 6)
    return {**_plane(values, covariance), "twist": (values, covariance)}


def _plane(values: np.ndarray, covariance: np.ndarray) -> dict[str, Any]:
    """The fields of a `MotionReading` from a twist and its covariance."""
    first, last = float(covariance[0, 0]), float(covariance[5, 5])
    given = first != -1  # as of sensor_msgs/Imu: there is no such measurement
    speed = float(values[0]) if given and first >= 0 else None
    yaw_rate = float(values[5]) if given and last >= 0 else None
    aside = float(covariance[1, 1])
    sideways = (float(values[1]), aside) if given and aside >= 0 else None
    return {"speed": speed, "yaw_rate": yaw_rate, "twist_variance": (first, last), "sideways": sideways}


def encode_odometry(state: EgoState, frame_id: str, child_frame_id: str) -> bytes:
    """A serialized nav_msgs/Odometry: the pose in `frame_id`, the twist in `child_frame_id`."""
    writer = CdrWriter()
    writer.header(state.stamp_ns, frame_id)
    writer.string(child_frame_id)
    covariance = state.covariance.tolist()
    writer.scalars(
        "d",
        *_pose(state.x, state.y, state.yaw),
        *_in_space([row[:3] for row in covariance[:3]], _PLANE),
        *(state.speed, state.sideways, 0.0, 0.0, 0.0, state.yaw_rate),
        *_in_space([row[3:5] for row in covariance[3:5]], (0, 5)),
    )
    return writer.bytes()


def encode_path(path: EgoPath, frame_id: str) -> bytes:
    """A serialized nav_msgs/Path: every pose has the stamp of the moment that it is for."""
    writer = CdrWriter()
    writer.header(int(path.stamps_ns[0]), frame_id)
    writer.scalars("I", len(path))
    frame = CdrWriter()
    frame.string(frame_id)
    name = frame.bytes()[4:]
    # All poses but the first begin where float64s end, so that their padding is the same.
    later = struct.Struct(f"<8s{len(name)}s{-len(name) % 8}x7d")
    for row, (stamp_ns, pose) in enumerate(
        zip(path.stamps_ns.tolist(), path.states[:, :3].tolist(), strict=True)
    ):
        if row:
            writer.raw(later.pack(stamp_bytes(stamp_ns), name, *_pose(*pose)))
        else:
            writer.header(stamp_ns, frame_id)
            writer.scalars("d", *_pose(*pose))
    return writer.bytes()


def pose_covariance(plane: np.ndarray) -> np.ndarray:
    """(N, 36) of a geometry_msgs/PoseWithCovariance from (N, 3, 3) of x y yaw."""
    space = np.zeros((len(plane), 6, 6))
    space[:, _PLANE_BLOCK[0], _PLANE_BLOCK[1]] = plane
    return space.reshape(-1, 36)


def _pose(x: float, y: float, yaw: float) -> tuple[float, ...]:
    return x, y, 0.0, 0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)


def _in_space(covariance: Sequence[Sequence[float]], axes: tuple[int, ...]) -> list[float]:
    space = [0.0] * 36
    for i, row in zip(axes, covariance, strict=True):
        for k, value in zip(axes, row, strict=True):
            space[6 * i + k] = value
    return space
