"""The layout of the road and its traffic: lanes, parking, sidewalks, and flows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

LANE_M = 3.4
PARKING_M = 2.4
SIDEWALK_M = 3.2
STREET_M = 7.0
AHEAD_M = 130.0
# Small objects are included as long as they are a dozen pixels high in a 960 px wide image.
_SIGHT_M = {"pedestrian": 95.0, "waiting": 95.0, "cyclist": 95.0, "sign": 95.0, "clutter": 75.0}


@dataclass(frozen=True, slots=True)
class Flow:
    """A stream of similar objects along the road.

    Attributes:
        number: number of the flow in ids and seeds. kind: argument of `make_entity`. d: lateral position, m.
        speed: m/s along s (negative: oncoming); None moves with the ego at a varying gap.
        spacing: m between slots. fill: share of occupied slots. spread: lateral scatter, m.
        swing: amplitude of the slow drift along s, m. turned: yaw relative to the direction of travel, rad;
        None for any. ahead: range ahead of the ego, m.
    """

    number: int
    kind: str
    d: float
    speed: float | None
    spacing: float
    fill: float
    spread: float = 0.0
    swing: float = 0.0
    turned: float | None = 0.0
    ahead: float = AHEAD_M


def lane_edges(same_lanes: int, oncoming_lanes: int) -> tuple[float, float]:
    """Return the lateral position of the right and left end of the lanes, m; the ego's lane is rightmost."""
    return -LANE_M / 2, LANE_M * (same_lanes + oncoming_lanes - 0.5)


def make_flows(
    rng: np.random.Generator, mean_v: float, same_lanes: int, oncoming_lanes: int
) -> tuple[Flow, ...]:
    """Return the random flows of a road; `mean_v` is the ego's mean speed, m/s."""
    busy = rng.uniform(0.55, 1.0)
    edge_r, edge_l = lane_edges(same_lanes, oncoming_lanes)
    right, left = edge_r - PARKING_M, edge_l + PARKING_M
    walk_r, walk_l = right - SIDEWALK_M, left + SIDEWALK_M
    rows: list[tuple] = [
        ("car", 0.0, None, rng.uniform(24, 40), busy * 0.8, 0.15, 3.0),
        ("cyclist", edge_r + 0.15, rng.uniform(3.8, 5.5), 34, busy * 0.75, 0.12, 2.0),
        ("cyclist", edge_l - 0.15, -rng.uniform(3.8, 5.5), 40, busy * 0.7, 0.12, 2.0),
        ("car", edge_r - PARKING_M / 2, 0.0, 8.5, rng.uniform(0.25, 0.65), 0.12, 0.0),
        ("car", edge_l + PARKING_M / 2, -0.0, 8.5, rng.uniform(0.2, 0.6), 0.12, 0.0),
    ]
    for lane in range(1, same_lanes):
        speed = mean_v + rng.choice([-1, 1]) * rng.uniform(1.5, 3.5)
        rows.append(("car", lane * LANE_M, speed, 30, busy * 0.7, 0.15, 2.0))
    for lane in range(oncoming_lanes):
        d = (same_lanes + lane) * LANE_M
        rows.append(("car", d, -rng.uniform(7, 12), rng.uniform(26, 40), busy * 0.75, 0.15, 2.0))
    for d in ((right + walk_r) / 2, (left + walk_l) / 2):
        for speed in (1.45, 1.05, -1.25):
            rows.append(("pedestrian", d, speed, 24, busy * 0.55, 1.1, 1.0))
    for d in (right - 0.6, left + 0.6):
        rows.append(("waiting", d, 0.0, 45, busy * 0.5, 0.3, 0.0, None))
    rows += _roadside(rng, -1, right) + _roadside(rng, 1, left)
    flows = (Flow(number, *row) for number, row in enumerate(rows, 1))
    return tuple(replace(flow, ahead=min(flow.ahead, _SIGHT_M.get(flow.kind, flow.ahead))) for flow in flows)


def _roadside(rng: np.random.Generator, sign: int, curb: float) -> list[tuple]:
    """Return the flows beyond the kerb at d = curb; sign is 1 on the left."""
    back = curb + sign * SIDEWALK_M
    face = 0.0 if sign < 0 else np.pi
    setback, built = rng.uniform(15, 19), rng.uniform(0.7, 0.95)
    return [
        ("tree", curb + sign * 0.5, 0.0, rng.uniform(9, 16), rng.uniform(0.3, 0.8), 0.1, 0.0, None),
        ("lamp", curb + sign * 0.35, 0.0, 33, 0.95, 0.05, 0.0, face),
        ("sign", curb + sign * 0.4, 0.0, 38, 0.6, 0.1, 0.0, 0.0),
        ("clutter", curb + sign * 0.7, 0.0, 17, 0.55, 0.2, 0.0, None),
        ("car", back + sign * 5.5, 0.0, 21, 0.35, 1.2, 0.0, None),
        ("trailer", back + sign * 5.0, 0.0, 60, 0.5, 0.8, 0.0, None),
        ("tree", back + sign * 4.0, 0.0, 13, 0.5, 1.8, 0.0, None),
        ("building", back + sign * setback, 0.0, 24, built, 1.5, 0.0, 0.0, 230.0),
        ("tree", back + sign * 34, 0.0, 20, 0.6, 8.0, 0.0, None, 230.0),
    ]
