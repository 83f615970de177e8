"""The ego filter and its prediction on a real drive of comma2k19.

What the instruments are worth (`bench.comma2k19`) and the motion's noise were chosen on the
first half of segment 40; the fixes' latency is that of the data set's description.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import chi2

from bench.comma2k19 import Segment, read_segment
from bench.ego_husky import reckon
from bench.rows import Row, row
from perception_rt.stage.prediction.ego import predict_path
from perception_rt.stage.vehicle_state import VehicleStateConfig, VehicleStateFilter
from perception_rt.types.state import EgoPath, EgoState, Fix

# The device is mounted behind the windscreen of a RAV4, whose wheelbase is 2.66 m.
CONFIG = VehicleStateConfig(latency_s={"fix": 0.1}, fix_lever_arm_m=(1.7, 0.0))
CUT_OUTS_S = ((15.0, 35.0), (25.0, 45.0), (37.0, 57.0))
STEPS_A_SECOND = 10
ELLIPSE = float(chi2.ppf(0.95, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Horizontal position errors of the device, one row per moment.

    Attributes:
        stamps_ns: (N,) int64, stamps of the positions.
        xy: (N, 2) m. inside: (N,) bool, whether the 95 % ellipse contains the truth.
    """

    stamps_ns: np.ndarray
    xy: np.ndarray
    inside: np.ndarray

    def rmse(self, rows: np.ndarray | slice = slice(None)) -> float:
        """Root of the mean squared distance, m."""
        return float(np.sqrt((self.xy[rows] ** 2).sum(-1).mean()))


def comma2k19_rows(path: Path) -> list[Row]:
    """Every row of a segment."""
    segment = read_segment(path)
    ego, states = drive(segment)
    origin = np.array(ego.estimate.place.origin)
    paths = [predict_path(state, CONFIG.motion) for state in states if state is not None]
    middle = (segment.truth_ns[0] + segment.truth_ns[-1]) // 2
    prefix = "ego/comma2k19"
    rows = []
    for name, seconds, target in (("", 0, 0.55), ("ahead_1s_", 1, 0.60), ("ahead_3s_", 3, 3.0)):
        errors = errors_ahead(segment, paths, seconds, origin)
        first = errors.stamps_ns < middle
        rows += [
            row(f"{prefix}/{name}rmse_m", errors.rmse(), "m", f"<= {target:.2f}"),
            row(f"{prefix}/{name}rmse_tuned_half_m", errors.rmse(first), "m"),
            row(f"{prefix}/{name}rmse_unseen_half_m", errors.rmse(~first), "m"),
            *coverage_rows(f"{prefix}/{name}", errors, first),
        ]
    rows += [cut_out_row(prefix, segment, cut) for cut in CUT_OUTS_S]
    sliding = replace(CONFIG, non_holonomic=False)
    rows.append(
        row(f"{prefix}/cut_out_37_57s_unconstrained_drift_percent",
            100 * drift_in(segment, CUT_OUTS_S[-1], sliding)[0], "% of the way")
    )  # fmt: skip
    for sensor, counts in sorted(ego.counters.items()):
        refused = sum(count for outcome, count in counts.items() if not outcome.used)
        rows.append(row(f"{prefix}/{sensor}_refused_percent", 100 * refused / sum(counts.values()), "%"))
    return rows


def coverage_rows(prefix: str, errors: Errors, first: np.ndarray) -> list[Row]:
    """Return how often the 95 % ellipse contains the truth; the total has both bounds as targets."""
    held = 100 * errors.inside
    return [
        row(f"{prefix}in_95_ellipse_percent", float(held.mean()), "%", ">= 90"),
        row(f"{prefix}outside_95_ellipse_percent", float(100 - held.mean()), "%", ">= 1"),
        row(f"{prefix}in_95_ellipse_tuned_half_percent", float(held[first].mean()), "%"),
        row(f"{prefix}in_95_ellipse_unseen_half_percent", float(held[~first].mean()), "%"),
    ]


def cut_out_row(prefix: str, segment: Segment, cut_s: tuple[float, float]) -> Row:
    """Return the error at the end of a time without fixes, as a share of the distance driven."""
    name = f"{prefix}/cut_out_{cut_s[0]:.0f}_{cut_s[1]:.0f}s_drift_percent"
    return row(name, 100 * drift_in(segment, cut_s)[0], "% of the way", "<= 1.0")


def drift_in(
    segment: Segment, cut_s: tuple[float, float], config: VehicleStateConfig = CONFIG
) -> tuple[float, float]:
    """Return the drift without fixes as a share of the distance: the filter's, and dead reckoning's."""
    ego, states = drive(segment, cut_s, config)
    seconds = (segment.truth_ns - segment.truth_ns[0]) * 1e-9
    during = np.flatnonzero((seconds >= cut_s[0]) & (seconds < cut_s[1]))
    truth = segment.truth(segment.truth_ns[during], np.array(ego.estimate.place.origin))
    way = np.hypot(*np.diff(truth, axis=0).T).sum()
    begin, end = states[during[0]], states[during[-1]]
    reckoned = reckon([m for m in segment.measurements if not isinstance(m, Fix)])
    first, last = (reckoned.at(segment.truth_ns[at]) for at in (during[0], during[-1]))
    moved = np.exp(1j * (begin.yaw - first.yaw)) * (last.place - first.place)
    dead = [begin.x + moved.real, begin.y + moved.imag, begin.yaw + last.yaw - first.yaw]
    places = device(np.array([[end.x, end.y, end.yaw], dead]))
    ours, base = (np.hypot(*(places - truth[-1]).T) / way).tolist()
    return ours, base


def drive(
    segment: Segment, cut_s: tuple[float, float] | None = None, config: VehicleStateConfig = CONFIG
) -> tuple[VehicleStateFilter, list[EgoState | None]]:
    """Feed a segment in log order; return the state at each moment of the truth, from the messages so far.

    Args:
        segment: the drive. cut_s: start and end of the time without fixes, s since the start.
        config: of the filter.
    """
    ego, states, at = VehicleStateFilter(config), [], 0
    cut_ns = [segment.truth_ns[0] + round(end * 1e9) for end in cut_s or (0.0, 0.0)]
    for stamp_ns in segment.truth_ns.tolist():
        while at < len(segment.measurements) and segment.measurements[at].stamp_ns <= stamp_ns:
            measurement = segment.measurements[at]
            if not (isinstance(measurement, Fix) and cut_ns[0] <= measurement.stamp_ns < cut_ns[1]):
                ego.add(measurement)
            at += 1
        states.append(ego.state_at(stamp_ns))
    return ego, states


def errors_ahead(segment: Segment, paths: list[EgoPath], seconds: int, origin: np.ndarray) -> Errors:
    """Return the errors of all predictions for a horizon, s, with known truth; 0 is the state itself."""
    index = seconds * STEPS_A_SECOND
    paths = [path for path in paths if path.stamps_ns[index] <= segment.truth_ns[-1]]
    stamps = np.array([path.stamps_ns[index] for path in paths])
    xy = device(np.array([path.states[index, :3] for path in paths])) - segment.truth(stamps, origin)
    covariance = np.array([path.covariance[index, :2, :2] for path in paths])
    distance = np.einsum("ni,nij,nj->n", xy, np.linalg.inv(covariance), xy)
    return Errors(stamps, xy, distance <= ELLIPSE)


def device(poses: np.ndarray) -> np.ndarray:
    """(N, 2) places of the device for (N, 3) poses x, y, yaw of base_link."""
    yaw, (x, y) = poses[:, 2], CONFIG.fix_lever_arm_m
    return poses[:, :2] + np.stack([np.cos(yaw) * x - np.sin(yaw) * y, np.sin(yaw) * x + np.cos(yaw) * y], -1)
