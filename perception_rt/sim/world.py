"""The seeded world: who is where at time t, as closed-form functions of (seed, t).

Everything is placed in road coordinates (s along the path, d to its left) and then bent with the road. Traffic runs
in *flows*: member i of a flow stands at ``i * spacing + jitter`` in a frame that moves with the flow, so the members
near the ego at any t are found without simulating what came before, and a drive never ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from perception_rt.sim.content import SCENERY, Entity, make_entity
from perception_rt.sim.path import EgoMotion, RoadPath

LANE_M = 3.4
PARKING_M = 2.4
SIDEWALK_M = 3.2
STREET_M = 7.0
AHEAD_M = 130.0
BEHIND_M = 12.0
_ID_STRIDE = 10_000_000
# Small things are looked for up to where they are a dozen pixels high in a 960 px wide image.
_SIGHT_M = {"pedestrian": 95.0, "waiting": 95.0, "cyclist": 95.0, "sign": 95.0, "clutter": 75.0}
# Who crosses: least and greatest speed, m/s, and how far from the kerb it starts and ends, m.
_CROSSING = {"pedestrian": (1.1, 1.6, 0.8), "cyclist": (2.5, 3.5, 1.5), "car": (5.0, 8.0, 45.0)}


@dataclass(frozen=True, slots=True)
class Flow:
    """A stream of like things along the road.

    Attributes:
        number: names the flow in ids and seeds. kind: what `make_entity` makes. d: lateral place, m.
        speed: m/s along s (negative: oncoming); None follows the ego at a swinging gap. spacing: m between slots.
        fill: share of slots that are taken. spread: lateral scatter, m. swing: amplitude of the slow drift along s, m.
        turned: yaw relative to the direction of travel, rad; None for any. ahead: how far it is looked for, m.
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


@dataclass(frozen=True, slots=True)
class Member:
    """One thing of a flow: its place in it and its slow drift about that."""

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
    """A member that waits at d = start, crosses at a speed from the time `begin` on, and stays at d = end."""

    member: Member
    begin: float
    start: float
    end: float
    speed: float


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Things near the ego at one time, in the world (odom) frame; a struct of arrays.

    Attributes:
        entities: what they are (class, size, looks), in row order.
        ids: (N,) int64, the same thing keeps its id. labels: (N,) int64, -1 for scenery.
        xyz: (N, 3) centre of the box. lwh: (N, 3) length width height, m. yaw: (N,) rad. velocity: (N, 2) m/s.
        travelled: (N,) m, distance gone: the phase of gait and pedals.
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

    The ground is the plane z = 0. A lidar (sim/lidar.py) needs only `objects` (oriented boxes) and that plane.

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
        self.right_edge = -LANE_M / 2
        self.left_edge = LANE_M * (self.same_lanes + self.oncoming_lanes - 0.5)
        self.flows = self._make_flows(rng)
        self.crossing_gap = rng.uniform(75, 120)
        self.crossing_phase = rng.uniform(30, 60)
        self._member = lru_cache(maxsize=4096)(self._make_member)
        self._crossers = lru_cache(maxsize=64)(self._make_crossers)

    def _make_flows(self, rng: np.random.Generator) -> tuple[Flow, ...]:
        busy = rng.uniform(0.55, 1.0)
        v = self.ego.mean_v
        right, left = self.right_edge - PARKING_M, self.left_edge + PARKING_M
        walk_r, walk_l = right - SIDEWALK_M, left + SIDEWALK_M
        rows: list[tuple] = [
            ("car", 0.0, None, rng.uniform(24, 40), busy * 0.8, 0.15, 3.0),
            ("cyclist", self.right_edge + 0.15, rng.uniform(3.8, 5.5), 34, busy * 0.75, 0.12, 2.0),
            ("cyclist", self.left_edge - 0.15, -rng.uniform(3.8, 5.5), 40, busy * 0.7, 0.12, 2.0),
            ("car", self.right_edge - PARKING_M / 2, 0.0, 8.5, rng.uniform(0.25, 0.65), 0.12, 0.0),
            ("car", self.left_edge + PARKING_M / 2, -0.0, 8.5, rng.uniform(0.2, 0.6), 0.12, 0.0),
        ]
        for lane in range(1, self.same_lanes):
            rows.append(
                (
                    "car",
                    lane * LANE_M,
                    v + rng.choice([-1, 1]) * rng.uniform(1.5, 3.5),
                    30,
                    busy * 0.7,
                    0.15,
                    2.0,
                )
            )
        for lane in range(self.oncoming_lanes):
            d = (self.same_lanes + lane) * LANE_M
            rows.append(("car", d, -rng.uniform(7, 12), rng.uniform(26, 40), busy * 0.75, 0.15, 2.0))
        for d in ((right + walk_r) / 2, (left + walk_l) / 2):
            for speed in (1.45, 1.05, -1.25):
                rows.append(("pedestrian", d, speed, 24, busy * 0.55, 1.1, 1.0))
        for d in (right - 0.6, left + 0.6):
            rows.append(("waiting", d, 0.0, 45, busy * 0.5, 0.3, 0.0, None))
        for sign, curb, back in ((-1, right, walk_r), (1, left, walk_l)):
            face = 0.0 if sign < 0 else np.pi
            rows += [
                ("tree", curb + sign * 0.5, 0.0, rng.uniform(9, 16), rng.uniform(0.3, 0.8), 0.1, 0.0, None),
                ("lamp", curb + sign * 0.35, 0.0, 33, 0.95, 0.05, 0.0, face),
                ("sign", curb + sign * 0.4, 0.0, 38, 0.6, 0.1, 0.0, 0.0),
                ("clutter", curb + sign * 0.7, 0.0, 17, 0.55, 0.2, 0.0, None),
                ("car", back + sign * 5.5, 0.0, 21, 0.35, 1.2, 0.0, None),
                ("trailer", back + sign * 5.0, 0.0, 60, 0.5, 0.8, 0.0, None),
                ("tree", back + sign * 4.0, 0.0, 13, 0.5, 1.8, 0.0, None),
                (
                    "building",
                    back + sign * rng.uniform(15, 19),
                    0.0,
                    24,
                    rng.uniform(0.7, 0.95),
                    1.5,
                    0.0,
                    0.0,
                    230.0,
                ),
                ("tree", back + sign * 34, 0.0, 20, 0.6, 8.0, 0.0, None, 230.0),
            ]
        return tuple(_flow(number, row) for number, row in enumerate(rows, 1))

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
        if flow.speed == 0 and self._in_street(s, max(entity.lwh[:2]) / 2 + STREET_M / 2 + 0.5):
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
        """Index and arc length of the zebra crossings between two arc lengths."""
        first = int(np.ceil((s_low - self.crossing_phase) / self.crossing_gap))
        last = int(np.floor((s_high - self.crossing_phase) / self.crossing_gap))
        return [(i, self.crossing_phase + i * self.crossing_gap) for i in range(first, last + 1)]

    def streets(self, s_low: float, s_high: float) -> list[float]:
        """Arc lengths of the side streets between two arc lengths; each lies behind a zebra crossing."""
        return [s + 8.0 for i, s in self.crossings(s_low - 8, s_high - 8) if (i * 7 + self.seed) % 5 < 3]

    def _in_street(self, s: float, margin: float) -> bool:
        return bool(self.streets(s - margin, s + margin))

    def _make_crossers(self, index: int, s: float) -> list[Crosser]:
        """Who crosses at a zebra crossing and on its side street; clear of the ego's lane before the ego comes."""
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
        """Least distance, m, along the road to the moving traffic of the lanes that a crosser passes."""
        gap = np.inf
        for flow in self.flows:
            if flow.kind == "car" and flow.speed != 0:
                t = begin + (flow.d - start) / rate
                places = [p for _, p, _ in self._near(flow, t, s - 15, s + 15)]
                gap = min([gap, *(abs(p - s) for p in places)])
        return gap

    def _near(self, flow: Flow, t: float, s_low: float, s_high: float) -> list[tuple[Member, float, float]]:
        """The members of a flow between two arc lengths at t, with their arc length and its rate."""
        base, speed = (
            (flow.speed * t, flow.speed) if flow.speed is not None else (self.ego.s(t), self.ego.v(t))
        )
        first = int(np.floor((s_low - base) / flow.spacing))
        last = int(np.ceil((s_high - base) / flow.spacing))
        if flow.speed is None:
            first = max(first, 1)  # slot 0 is the ego itself, and nothing follows it
        out = []
        for i in range(first, last + 1):
            m = self._member(flow, i)
            if m is not None:
                angle = m.rate * t + m.phase
                out.append(
                    (m, base + m.s + m.swing * math.sin(angle), speed + m.swing * m.rate * math.cos(angle))
                )
        return out

    def objects(self, t: float, scenery: bool = True) -> Objects:
        """Everything near the ego at t.

        Args:
            t: s. scenery: also trees, buildings and the like (label -1).
        """
        rows: list[tuple] = []
        ego_s = self.ego.s(t)
        for flow in self.flows:
            if scenery or flow.kind not in SCENERY:
                for m, s, ds in self._near(flow, t, ego_s - BEHIND_M, ego_s + flow.ahead):
                    rows.append((m, s, m.d, ds, 0.0, abs(s)))
        for index, place in self.crossings(ego_s - 2 * BEHIND_M, ego_s + AHEAD_M):
            for c in self._crossers(index, place):
                gone = min(max(c.speed * (t - c.begin), 0.0), abs(c.end - c.start))
                sign = 1.0 if c.end > c.start else -1.0
                rate = c.speed * sign if 0 < gone < abs(c.end - c.start) else 0.0
                rows.append((c.member, c.member.s, c.start + gone * sign, 0.0, rate, gone))
        return self._bend(rows)

    def _bend(self, rows: list[tuple]) -> Objects:
        members = [row[0] for row in rows]
        s, d, ds, dd, travelled = np.array([row[1:] for row in rows], float).reshape(-1, 5).T
        x, y, heading = self.path.position(s, d)
        along = ds * (1 - self.path.curvature(s) * d)
        cos, sin = np.cos(heading), np.sin(heading)
        lwh = np.array([m.entity.lwh for m in members], float).reshape(-1, 3)
        return Objects(
            entities=tuple(m.entity for m in members),
            ids=np.array([m.id for m in members], np.int64),
            labels=np.array([m.entity.label for m in members], np.int64),
            xyz=np.stack([x, y, lwh[:, 2] / 2], -1),
            lwh=lwh,
            yaw=(heading + np.array([m.turned for m in members]) + np.pi) % (2 * np.pi) - np.pi,
            velocity=np.stack([along * cos - dd * sin, along * sin + dd * cos], -1),
            travelled=travelled,
        )


def _flow(number: int, row: tuple) -> Flow:
    flow = Flow(number, *row)
    return replace(flow, ahead=min(flow.ahead, _SIGHT_M.get(flow.kind, flow.ahead)))
