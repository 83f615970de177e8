"""The random world: the objects at time t as closed-form functions of (seed, t).

Objects are placed in road coordinates (s along the path, d to its left), which follow the road. Traffic moves
in *flows*: member i of a flow stands at ``i * spacing + jitter`` in a frame that moves with the flow. So the
members near the ego at any t are found without simulating earlier times, and a drive never ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perception_rt.sim.content import SCENERY, Entity, make_entity
from perception_rt.sim.path import EgoMotion, RoadPath
from perception_rt.sim.traffic import AHEAD_M, PARKING_M, STREET_M, Flow, lane_edges, make_flows

BEHIND_M = 12.0
_ID_STRIDE = 10_000_000
# Crossing traffic: minimum and maximum speed, m/s, and distance from the kerb at start and end, m.
_CROSSING = {"pedestrian": (1.1, 1.6, 0.8), "cyclist": (2.5, 3.5, 1.5), "car": (5.0, 8.0, 45.0)}


@dataclass(frozen=True, slots=True)
class Member:
    """One object of a flow: its slot and its slow drift."""

    id: int
    entity: Entity
    s: float
    d: float
    turned: float
    swing: float
    rate: float
    phase: float


@dataclass(frozen=True, slots=True)
class Crosser:
    """A member that waits at d = start, crosses at constant speed from `begin` on, and stays at d = end."""

    member: Member
    begin: float
    start: float
    end: float
    speed: float


@dataclass(frozen=True, slots=True, eq=False)
class WorldObjects:
    """Objects near the ego at one time, in the world (odom) frame; a struct of arrays.

    Attributes:
        entities: class, size and shape, in row order.
        ids: (N,) int64, constant for an object. labels: (N,) int64, -1 for scenery.
        xyz: (N, 3) centre of the box, m. lwh: (N, 3) length width height, m. yaw: (N,) rad.
        velocity: (N, 2) m/s. travelled: (N,) m, distance travelled: the phase of gait and pedals.
    """

    entities: tuple[Entity, ...]
    ids: np.ndarray
    labels: np.ndarray
    xyz: np.ndarray
    lwh: np.ndarray
    yaw: np.ndarray
    velocity: np.ndarray
    travelled: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class World:
    """Road, traffic and scenery of one seed.

    The ground is the plane z = 0; sim/terrain.py lays kerbs and a little unevenness on it for the lidar.

    Args:
        seed: any non-negative int.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, 1])
        self.path = RoadPath(rng)
        self.ego = EgoMotion(rng, self.path)
        self.same_lanes = int(rng.integers(1, 3))
        self.oncoming_lanes = int(rng.integers(1, 3))
        self.right_edge, self.left_edge = lane_edges(self.same_lanes, self.oncoming_lanes)
        self.flows = make_flows(rng, self.ego.mean_v, self.same_lanes, self.oncoming_lanes)
        self.crossing_gap = rng.uniform(75, 120)
        self.crossing_phase = rng.uniform(30, 60)
        self._member = lru_cache(maxsize=4096)(self._make_member)
        self._crossers = lru_cache(maxsize=64)(self._make_crossers)

    def _make_member(self, flow: Flow, i: int) -> Member | None:
        rng = np.random.default_rng([self.seed, flow.number, i + _ID_STRIDE // 2])
        if rng.random() >= flow.fill:
            return None
        entity = make_entity(flow.kind, rng)
        s = i * flow.spacing
        room = max(0.0, (flow.spacing - entity.length - 0.8) / 2 - flow.swing)
        turned = rng.uniform(-np.pi, np.pi) if flow.turned is None else flow.turned
        if flow.speed is not None and np.signbit(flow.speed):
            turned += np.pi
        s += rng.uniform(-room, room)
        if flow.speed == 0 and self._blocked(flow, s, max(entity.lwh[:2]) / 2):
            return None
        return Member(
            id=flow.number * _ID_STRIDE + i + _ID_STRIDE // 2,
            entity=entity,
            s=s,
            d=flow.d + rng.uniform(-flow.spread, flow.spread),
            turned=turned,
            swing=flow.swing * rng.uniform(0.4, 1),
            rate=rng.uniform(0.1, 0.25),
            phase=rng.uniform(0, 2 * np.pi),
        )

    def crossings(self, s_low: float, s_high: float) -> list[tuple[int, float]]:
        """Return index and arc length of the zebra crossings between two arc lengths."""
        first = int(np.ceil((s_low - self.crossing_phase) / self.crossing_gap))
        last = int(np.floor((s_high - self.crossing_phase) / self.crossing_gap))
        return [(i, self.crossing_phase + i * self.crossing_gap) for i in range(first, last + 1)]

    def streets(self, s_low: float, s_high: float) -> list[float]:
        """Return the side streets between two arc lengths; each lies behind a zebra crossing."""
        return [s + 8.0 for i, s in self.crossings(s_low - 8, s_high - 8) if (i * 7 + self.seed) % 5 < 3]

    def _blocked(self, flow: Flow, s: float, half: float) -> bool:
        """Return whether a standing object is in a side street, or a parked car on a zebra crossing."""
        margin = half + STREET_M / 2 + 0.5
        on_road = self.right_edge - PARKING_M < flow.d < self.left_edge + PARKING_M
        return bool(self.streets(s - margin, s + margin)) or (
            on_road and bool(self.crossings(s - half - 2.0, s + half + 2.0))
        )

    def _make_crossers(self, index: int, s: float) -> list[Crosser]:
        """Return the members that cross at a zebra crossing and its side street before the ego comes."""
        rng = np.random.default_rng([self.seed, 90, index + _ID_STRIDE // 2])
        kinds = ["cyclist" if rng.random() < 0.3 else "pedestrian" for _ in range(rng.integers(1, 5))]
        if self.streets(s + 7, s + 9):
            kinds += ["car"] * int(rng.integers(1, 4))
        out = []
        for k, kind in enumerate(kinds):
            low, high, reach = _CROSSING[kind]
            speed, side = rng.uniform(low, high), 1 if rng.random() < 0.5 else -1
            start = (self.left_edge if side > 0 else self.right_edge) + side * (PARKING_M + reach)
            end = (self.right_edge if side > 0 else self.left_edge) - side * (PARKING_M + reach)
            # A car keeps to the right of the side street.
            place = s + (8.0 + side * 1.7 if kind == "car" else rng.uniform(-1.2, 1.2))
            entity = make_entity(kind, rng)
            clear = abs(start) + 1.6 + entity.length / 2
            begins = self.ego.arrival(place) - clear / speed - 1.4 - rng.uniform(0, 7, 8)
            begin = max(begins, key=lambda b: min(self._clearance(place, start, -side * speed, b), 9.0))
            member = Member(
                id=90 * _ID_STRIDE + index * 10 + k + _ID_STRIDE // 2,
                entity=entity,
                s=place,
                d=start,
                turned=-side * np.pi / 2,
                swing=0.0,
                rate=0.0,
                phase=0.0,
            )
            out.append(Crosser(member, float(begin), start, end, speed))
        return out

    def _clearance(self, s: float, start: float, rate: float, begin: float) -> float:
        """Return the minimum distance, m, along the road to moving traffic in a crosser's way."""
        gap = np.inf
        for flow in self.flows:
            if flow.kind == "car" and flow.speed != 0:
                t = begin + (flow.d - start) / rate
                places = [p for _, p, _ in self._near(flow, t, s - 15, s + 15)]
                gap = min([gap, *(abs(p - s) for p in places)])
        return gap

    def _near(self, flow: Flow, t: float, s_low: float, s_high: float) -> list[tuple[Member, float, float]]:
        """Return the members of a flow between two arc lengths at t, with their arc length and its rate."""
        base, speed = (
            (flow.speed * t, flow.speed) if flow.speed is not None else (self.ego.s(t), self.ego.v(t))
        )
        first = int(np.floor((s_low - base) / flow.spacing))
        last = int(np.ceil((s_high - base) / flow.spacing))
        if flow.speed is None:
            first = max(first, 1)  # slot 0 is the ego, and nothing follows it
        out = []
        for i in range(first, last + 1):
            m = self._member(flow, i)
            if m is not None:
                angle = m.rate * t + m.phase
                out.append(
                    (m, base + m.s + m.swing * math.sin(angle), speed + m.swing * m.rate * math.cos(angle))
                )
        return out

    def objects(self, t: float, scenery: bool = True, behind: float = BEHIND_M) -> WorldObjects:
        """Return the objects near the ego at t.

        Args:
            t: s. scenery: include trees, buildings and the like (label -1).
            behind: range behind the ego along the road, m.
        """
        rows: list[tuple] = []
        ego_s = self.ego.s(t)
        for flow in self.flows:
            if scenery or flow.kind not in SCENERY:
                for m, s, ds in self._near(flow, t, ego_s - behind, ego_s + flow.ahead):
                    rows.append((m, s, m.d, ds, 0.0, abs(s)))
        for index, place in self.crossings(ego_s - behind - BEHIND_M, ego_s + AHEAD_M):
            for c in self._crossers(index, place):
                gone = min(max(c.speed * (t - c.begin), 0.0), abs(c.end - c.start))
                sign = 1.0 if c.end > c.start else -1.0
                rate = c.speed * sign if 0 < gone < abs(c.end - c.start) else 0.0
                rows.append((c.member, c.member.s, c.start + gone * sign, 0.0, rate, gone))
        return self._bend(rows)

    def _bend(self, rows: list[tuple]) -> WorldObjects:
        members = [row[0] for row in rows]
        s, d, ds, dd, travelled = np.array([row[1:] for row in rows], float).reshape(-1, 5).T
        x, y, heading = self.path.position(s, d)
        along = ds * (1 - self.path.curvature(s) * d)
        cos, sin = np.cos(heading), np.sin(heading)
        lwh = np.array([m.entity.lwh for m in members], float).reshape(-1, 3)
        return WorldObjects(
            entities=tuple(m.entity for m in members),
            ids=np.array([m.id for m in members], np.int64),
            labels=np.array([m.entity.label for m in members], np.int64),
            xyz=np.stack([x, y, lwh[:, 2] / 2], -1),
            lwh=lwh,
            yaw=(heading + np.array([m.turned for m in members]) + np.pi) % (2 * np.pi) - np.pi,
            velocity=np.stack([along * cos - dd * sin, along * sin + dd * cos], -1),
            travelled=travelled,
        )
