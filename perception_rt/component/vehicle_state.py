"""vehicle_state: estimates and predicts the vehicle's pose from its own sensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perception_rt.codec.detections3d import Detection3DEncoder
from perception_rt.codec.markers import encode_markers, path_markers
from perception_rt.codec.vehicle import (
    MotionReading,
    encode_odometry,
    encode_path,
    parse_fix,
    parse_imu,
    parse_odometry,
    parse_twist,
    pose_covariance,
)
from perception_rt.component.component import Component, Host
from perception_rt.component.parameters import Parameter
from perception_rt.realtime.ledger import Entry, Outcome
from perception_rt.realtime.pipeline import StreamStats
from perception_rt.stage.prediction.ego import check_horizon, predict_path
from perception_rt.stage.vehicle_state.config import VehicleStateConfig, without_gravity
from perception_rt.stage.vehicle_state.diagnosis import suspects
from perception_rt.stage.vehicle_state.estimate import UpdateStatus
from perception_rt.stage.vehicle_state.filter import VehicleStateFilter
from perception_rt.stage.vehicle_state.readings import (
    AngularAcceleration,
    DefaultVariances,
    Gravity,
    measured_fix,
    measured_imu,
    measured_pose,
    measured_twist,
    without,
)
from perception_rt.types import ConfigError, Detections3D, TransformError, state
from perception_rt.types.status import Level, Status

_UNTURNED = np.eye(4)
PATH_COLOUR = (255, 255, 255)
SENSORS = ("odometry", "imu", "fix", "twist")
MEASURED = (
    *("odometry.speed", "odometry.yaw_rate", "odometry.sideways"),
    *("twist.speed", "twist.yaw_rate", "twist.sideways"),
    *("imu.yaw_rate", "imu.acceleration"),
)
GRAVITY = ("auto", "included", "removed")
GRAVITY_FOUND = {None: "unknown", True: "included", False: "removed"}
OUTCOMES = {
    UpdateStatus.GATED: Outcome.REJECTED,
    UpdateStatus.FROZEN: Outcome.REJECTED,
    UpdateStatus.UNUSED: Outcome.REJECTED,
    UpdateStatus.STAMP_JUMP: Outcome.REJECTED,
    UpdateStatus.INVALID: Outcome.DECODE_ERROR,
    UpdateStatus.DUPLICATE: Outcome.SUPERSEDED,
    UpdateStatus.TOO_LATE: Outcome.LATE,
    UpdateStatus.FAILED: Outcome.REJECTED,
}


class VehicleState(Component):
    """Fuses all available sensors in one filter, on the executor's thread."""

    NAME = "vehicle_state"
    PARAMETERS = (
        Parameter("odometry_topic", "odom_in", "nav_msgs/Odometry, used for its twist; empty for none."),
        Parameter("imu_topic", "imu", "sensor_msgs/Imu; empty for none."),
        Parameter("fix_topic", "", "sensor_msgs/NavSatFix; empty for none."),
        Parameter("twist_topic", "", "geometry_msgs/TwistWithCovarianceStamped; empty for none."),
        Parameter("use_odometry_pose", False, "Use the pose of the odometry too."),
        Parameter(
            "turns_in_place", False, "The vehicle can turn on the spot: skid or differential steering."
        ),
        Parameter(
            "non_holonomic",
            True,
            "The vehicle cannot move sideways: cars, differential drives; false: omnidirectional wheels.",
        ),
        Parameter(
            "ignored_quantities",
            [""],
            "Quantities to ignore, like odometry.yaw_rate or imu.acceleration; one empty name for none.",
        ),
        Parameter("frame_id", "odom", "Frame of the outputs: odom; map with fixes or poses."),
        Parameter("base_frame", "base_link", "The vehicle's frame."),
        Parameter("rate_hz", 50.0, "Rate of ~/odometry.", (1.0, 500.0)),
        Parameter("path_rate_hz", 10.0, "Rate of ~/predicted_path and ~/predictions.", (0.1, 100.0)),
        Parameter("horizon_s", 3.0, "Prediction horizon, s.", (0.1, 30.0)),
        Parameter("step_s", 0.1, "Time between two predicted poses, s.", (0.02, 5.0)),
        Parameter("odometry_latency_s", 0.0, "Delay of the odometry's stamps, s.", (-1.0, 1.0)),
        Parameter("imu_latency_s", 0.0, "Delay of the IMU's stamps, s.", (-1.0, 1.0)),
        Parameter("fix_latency_s", 0.0, "Delay of the stamps of the fixes, s.", (-1.0, 1.0)),
        Parameter("twist_latency_s", 0.0, "Delay of the stamps of the twist, s.", (-1.0, 1.0)),
        Parameter(
            "fix_lever_arm_m",
            [0.0, 0.0],
            "x and y of the antenna in base_link, m; zeros: from /tf by the frame_id of the fixes, if known.",
        ),
        Parameter(
            "imu_gravity",
            "auto",
            "Gravity in the IMU's acceleration: included (REP 145), removed, or auto to detect it.",
        ),
        Parameter("speed_sigma", 0.1, "Speed noise of a message without covariance, m/s.", (1e-3, 10.0)),
        Parameter(
            "yaw_rate_sigma", 0.02, "Yaw rate noise of a message without covariance, rad/s.", (1e-4, 1.0)
        ),
        Parameter(
            "acceleration_sigma",
            0.3,
            "Acceleration noise of a message without covariance, m/s^2.",
            (1e-3, 10.0),
        ),
        Parameter("fix_sigma", 3.0, "Position noise of a fix without covariance, m.", (1e-2, 100.0)),
    )

    def __init__(self, host: Host, values: dict[str, Any]) -> None:
        super().__init__(host, values)
        self._filter: VehicleStateFilter = None  # type: ignore[assignment]  # between `setup` and `teardown`
        self._restarts = 0  # of filters before the present one

    def setup(self) -> None:
        """Create the filter, publishers and subscriptions."""
        values = self.values
        topics = {name: values[f"{name}_topic"] for name in SENSORS if values[f"{name}_topic"]}
        if not topics:
            raise ConfigError("odometry_topic, imu_topic, fix_topic, twist_topic: all are empty")
        if len(values["fix_lever_arm_m"]) != 2:
            raise ConfigError(f"fix_lever_arm_m={list(values['fix_lever_arm_m'])}: must be x and y")
        self._ignored = {*values["ignored_quantities"]} - {""}
        unknown = sorted(self._ignored - {*MEASURED})
        if unknown:
            raise ConfigError(f"ignored_quantities={unknown}: must be of {', '.join(MEASURED)}")
        if values["imu_gravity"] not in GRAVITY:
            raise ConfigError(f"imu_gravity={values['imu_gravity']!r}: must be of {', '.join(GRAVITY)}")
        check_horizon(values["horizon_s"], values["step_s"])
        placed = "fix" in topics or values["use_odometry_pose"]
        self._config = VehicleStateConfig(
            start_at_origin=not placed,
            latency_s={name: values[f"{name}_latency_s"] for name in SENSORS},
            fix_lever_arm_m=tuple(values["fix_lever_arm_m"]),
            turns_in_place=values["turns_in_place"],
            non_holonomic=values["non_holonomic"],
        )
        if values["imu_gravity"] == "removed":
            self._config = without_gravity(self._config)
        self._filter, self._restarts = VehicleStateFilter(self._config), 0
        self._gravity, self._spin, self._antenna = Gravity(), AngularAcceleration(), ""
        sigmas = ("speed_sigma", "yaw_rate_sigma", "acceleration_sigma", "fix_sigma")
        self._default_variances = DefaultVariances(*(values[name] ** 2 for name in sigmas))
        self._missing, self._path_due_ns = "", 0
        self._twist_frames: dict[str, str] = {}  # by sensor, whose twist is taken for the base frame's
        self._noted: set[tuple[str, str]] = set()
        self._transforms = self.host.transforms()
        self._odometry = self.host.create_publisher("nav_msgs/msg/Odometry", "~/odometry", 10)
        self._path = self.host.create_publisher("nav_msgs/msg/Path", "~/predicted_path", 5)
        self._predictions = self.host.create_publisher("vision_msgs/msg/Detection3DArray", "~/predictions", 5)
        self._markers = self.host.create_publisher("visualization_msgs/msg/MarkerArray", "~/markers", 1)
        self._encoder = Detection3DEncoder(("ego",))
        kinds = {
            "odometry": ("nav_msgs/msg/Odometry", self._on_odometry),
            "imu": ("sensor_msgs/msg/Imu", self._on_imu),
            "fix": ("sensor_msgs/msg/NavSatFix", self._on_fix),
            "twist": ("geometry_msgs/msg/TwistWithCovarianceStamped", self._on_twist),
        }
        self._sensors = {name: StreamStats() for name in topics}
        for name, topic in topics.items():
            kind, receive = kinds[name]
            self.listen(kind, topic, self._sensors[name], receive, "best_effort")
        # The timer is steady; a tick publishes only where the clock of the stamps has moved.
        self._published_ns = 0
        self.host.create_timer(1 / values["rate_hz"], self._on_tick)

    def teardown(self) -> None:
        """Release the filter."""
        self._filter = None  # type: ignore[assignment]

    def on_clock_reset(self) -> None:
        """Drop all measurements."""
        if self._filter is not None:
            self._restarts += self._filter.restarts + 1
            self._filter = VehicleStateFilter(self._filter.config)

    # Measurements.

    def _on_odometry(self, data: bytes, entry: Entry) -> None:
        reading = parse_odometry(data)
        # A driver that gives one frame twice has not filled the second.
        child = "" if reading.child_frame_id == reading.frame_id else reading.child_frame_id
        reading = self._in_base(reading, child, "odometry")
        measurements: list[state.Measurement] = [self._twist(reading, "odometry")]
        self._note_missing("odometry", {"speed": reading.speed, "yaw rate": reading.yaw_rate})
        if self.values["use_odometry_pose"]:
            pose = measured_pose(reading, "odometry")
            self._note_missing("odometry", {"pose": pose})
            if pose is not None:
                measurements.append(pose)
        self._measure("odometry", entry, reading.stamp_ns, measurements)

    def _on_twist(self, data: bytes, entry: Entry) -> None:
        reading = parse_twist(data)
        reading = self._in_base(reading, reading.frame_id, "twist")
        self._note_missing("twist", {"speed": reading.speed, "yaw rate": reading.yaw_rate})
        self._measure("twist", entry, reading.stamp_ns, [self._twist(reading, "twist")])

    def _in_base(self, reading: MotionReading, frame: str, sensor: str) -> MotionReading:
        """The reading with the twist of the base frame, where /tf has a fixed way to it."""
        base = self.values["base_frame"].removeprefix("/")
        if frame.removeprefix("/") in ("", base):
            return reading
        try:
            return reading.moved_to(self._transforms.lookup(base, frame, 0))
        except TransformError as error:
            if sensor not in self._twist_frames:
                self.host.info(f"{sensor}: its twist is taken for that of {base!r}: {error}")
            self._twist_frames[sensor] = f"{frame}, taken for {base}: {error}"
            return reading

    def _twist(self, reading: MotionReading, sensor: str) -> state.Twist:
        omnidirectional = not self.values["non_holonomic"]
        return measured_twist(reading, self._default_variances, sensor, omnidirectional)

    def _on_imu(self, data: bytes, entry: Entry) -> None:
        reading = parse_imu(data)
        mounting = _UNTURNED
        if reading.frame_id != self.values["base_frame"]:
            try:
                mounting = self._imu_mounting(reading.frame_id, reading.stamp_ns)
            except TransformError as error:
                self._missing = str(error)
                entry.stamp_ns = reading.stamp_ns
                self._sensors["imu"].ledger.finish(entry, Outcome.UNSYNCED, str(error))
                return
        self._missing = ""
        if reading.linear_acceleration is not None:
            self._note_gravity(reading.linear_acceleration, mounting)
        quantities = {"yaw rate": reading.angular_velocity, "acceleration": reading.linear_acceleration}
        self._note_missing("imu", quantities)
        turn = reading.angular_velocity
        spin = None if turn is None else self._spin.add(reading.stamp_ns, turn)
        imu = measured_imu(reading, mounting, self._default_variances, spin)
        self._measure("imu", entry, reading.stamp_ns, [imu])

    def _imu_mounting(self, frame_id: str, stamp_ns: int) -> np.ndarray:
        """The IMU's place in the base frame, the latest where none is known at its time.

        A mount may come on /tf, which is slower than the IMU, so that nearly every reading is ahead of it.
        """
        base = self.values["base_frame"]
        try:
            return self._transforms.lookup(base, frame_id, stamp_ns)
        except TransformError:
            return self._transforms.lookup(base, frame_id, 0)

    def _on_fix(self, data: bytes, entry: Entry) -> None:
        reading = parse_fix(data)
        if not reading.has_fix:
            entry.stamp_ns = reading.stamp_ns
            self._sensors["fix"].ledger.finish(entry, Outcome.REJECTED, "the receiver has no fix")
            return
        fix = measured_fix(reading, self._default_variances, self._antenna_of(reading.frame_id))
        self._measure("fix", entry, reading.stamp_ns, [fix])

    def _antenna_of(self, frame_id: str) -> tuple[float, float] | None:
        """x and y of the antenna by /tf, m; None where the parameters say it, or nothing does."""
        if any(self.values["fix_lever_arm_m"]) or frame_id in ("", self.values["base_frame"]):
            return None
        try:
            mounting = self._transforms.lookup(self.values["base_frame"], frame_id, 0)
        except TransformError as error:
            self._antenna = f"taken to be at the base frame: {error}"
            return None
        x, y = mounting[:2, 3].tolist()
        self._antenna = f"{x:.3f}, {y:.3f} m by /tf"
        return x, y

    def _note_gravity(self, push: np.ndarray, mounting: np.ndarray) -> None:
        """Learn whether gravity is in the acceleration; without it, the vehicle's tilt is not either."""
        known = self._gravity.included
        self._gravity.add(push, mounting)
        found = self._gravity.included
        if found is known or self.values["imu_gravity"] != "auto":
            return
        self.host.info(f"imu: gravity is {'in' if found else 'not in'} its acceleration")
        self._filter.reconfigure(self._config if found else without_gravity(self._config))

    def _measure(
        self, sensor: str, entry: Entry, stamp_ns: int, measurements: list[state.Measurement]
    ) -> None:
        """Pass each measurement of a message to the filter; the message counts as used if one of them was."""
        stats, now = self._sensors[sensor], self.host.now_ns()
        stats.note_stamp(entry, stamp_ns)
        if self._ignored:
            measurements = [without(measurement, self._ignored) for measurement in measurements]
        measurements = [measurement for measurement in measurements if measurement.values]
        if not measurements:
            reason = "nothing to use: variances of -1, or ignored_quantities"
            stats.ledger.finish(entry, Outcome.REJECTED, reason)
            return
        outcomes = [self._filter.add(measurement) for measurement in measurements]
        if any(outcome.used for outcome in outcomes):
            stats.answered(entry, now)
            stats.ledger.finish(entry, Outcome.PUBLISHED)
            return
        reason = self._filter.reasons.get(sensor, outcomes[0].value)
        stats.ledger.finish(entry, OUTCOMES[outcomes[0]], reason)

    def _note_missing(self, sensor: str, quantities: Mapping[str, object]) -> None:
        """Log once which quantities a sensor does not provide."""
        for name, value in quantities.items():
            if value is None and (sensor, name) not in self._noted:
                self._noted.add((sensor, name))
                self.host.info(f"{sensor}: no {name} in its messages (variance -1, or no rotation): not used")

    # Outputs.

    def _on_tick(self) -> None:
        with self.gate:
            now = self.host.now_ns()
            if not self.active or now == self._published_ns:  # the clock stands still
                return
            present = self._filter.state_at(now) or self._state_of_other_clock(now)
            if present is None:
                return
            self._published_ns = now
            frame = self.values["frame_id"]
            if self._odometry.get_subscription_count():
                self._odometry.publish(encode_odometry(present, frame, self.values["base_frame"]))
            if not 0 <= self._path_due_ns - now <= 1e9 / self.values["path_rate_hz"]:
                self._path_due_ns = now + round(1e9 / self.values["path_rate_hz"])
                self._publish_predictions(present, frame)

    def _state_of_other_clock(self, now_ns: int) -> state.EgoState | None:
        """Return the present state where all stamps are of another clock, stamped by that; else None."""
        offsets = [
            behind for stats in self._sensors.values() if (behind := stats.offset.behind_ns()) is not None
        ]
        return self._filter.state_at(now_ns - min(offsets, key=abs)) if offsets else None

    def _publish_predictions(self, now: state.EgoState, frame: str) -> None:
        outputs = self._path, self._predictions, self._markers
        to_path, to_predictions, to_markers = [output.get_subscription_count() for output in outputs]
        if not (to_path or to_predictions or to_markers):
            return
        horizon_s, step_s = self.values["horizon_s"], self.values["step_s"]
        path = predict_path(now, self._config.motion, horizon_s, step_s, with_covariance=bool(to_predictions))
        if to_path:
            self._path.publish(encode_path(path, frame))
        if to_predictions:
            self._predictions.publish(
                self._encoder.encode(
                    _boxes(path),
                    now.stamp_ns,
                    frame,
                    ["ego"] * len(path),
                    covariances=pose_covariance(path.covariance[:, :3, :3]),
                    stamps_ns=path.stamps_ns.tolist(),
                )
            )
        if to_markers:
            self.visualize(self._publish_markers, path, frame)

    def _publish_markers(self, path: state.EgoPath, frame: str) -> None:
        line = path_markers(path.states[None, :, :2], [PATH_COLOUR])
        self._markers.publish(encode_markers(line, int(path.stamps_ns[0]), frame))

    # Diagnostics.

    def statuses(self) -> list[Status]:
        """Return one status for the node and one for each sensor."""
        state_filter = self._filter
        if state_filter is None:
            return []
        placed = state_filter.estimate.place.placed
        restarts = self._restarts + state_filter.restarts
        values = {"placed": placed, "restarts": restarts, "missing": self._missing}
        values["numerical_failures"] = state_filter.failures
        values["imu_gravity"] = GRAVITY_FOUND[self._gravity.included]
        if self._antenna:
            values["antenna"] = self._antenna
        values |= {f"{sensor}_frame": told for sensor, told in self._twist_frames.items()}
        counters = {**state_filter.counters, **state_filter.quantity_counters}
        for name, counts in sorted(counters.items()):
            values |= {f"{name}_{outcome.value}": count for outcome, count in sorted(counts.items()) if count}
        for quantity, excess in sorted(state_filter.estimate.excess.items()):
            values[f"{quantity}_noise_ratio"] = round(excess, 3)
        found = suspects(state_filter.estimate, state_filter.config)
        level, message = Level.OK, "running" if self.active else "inactive"
        if self.active and self._missing:
            level, message = Level.WARN, f"imu not used: {self._missing}"
        elif self.active and self._gravity.fault:
            level, message = Level.WARN, f"imu: {self._gravity.fault}"
        elif self.active and not placed:
            level, message = Level.WARN, "position and yaw are not known yet"
        elif self.active and found:
            level = Level.WARN
            message = "; ".join(f"{quantity}: {said}" for quantity, said in sorted(found.items()))
        return [Status(self.host.get_name(), level, message, "cpu", values), *self.stream_statuses()]


def _boxes(path: state.EgoPath) -> Detections3D:
    """Return base_link at every moment, as boxes without size."""
    boxes = np.zeros((len(path), 7), np.float32)
    boxes[:, :2], boxes[:, 6] = path.states[:, :2], path.states[:, 2]
    return Detections3D(boxes, np.ones(len(path), np.float32), np.zeros(len(path), np.int64))
