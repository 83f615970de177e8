"""Random streets to train lidar detectors: one cloud per seed, each with its own place and sensor.

A drive (sim/drive.py) has one sensor and a tidy road. Here walls, hedges, fences, banks and house fronts
stand at any distance from roads of any width. Rays pass through leaves, fences and panes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from perception_rt.sim import shapes
from perception_rt.sim.content import CAR_PAINT, CAR_SIZES, Entity, make_entity
from perception_rt.sim.fronts import FRONTS, beside, bush, house, shed, tree
from perception_rt.sim.lidar import MAX_RANGE_M, LidarSample, meet_ground, meet_solids, returns, truth_of
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.sensors import LidarModel
from perception_rt.sim.solids import Solids, solids_of
from perception_rt.sim.surroundings import Place, Surroundings
from perception_rt.sim.terrain import REFLECTIVITY
from perception_rt.sim.world import WorldObjects

ALONG_M = (-55.0, 80.0)  # range of the buildings along roads, from the sensor
STILL = SimulatedEgo(0, 0, 0, 0, 0, 0)
PANE_STOP = 0.55  # of the rays that hit a car's window
POOL = 160  # variants of each kind of object
EMPTY = 0.08  # share of streets without road users
EGO_M = (0.3, 0.0, 5.5, 2.4)  # centre x y, length and width of the space of the own vehicle


def street_cloud(seed: int) -> LidarSample:
    """Return the cloud of the street of a seed, and its truth, in the sensor's frame (x forward, z up)."""
    rng = np.random.default_rng([seed, 20])
    sensor = LidarModel.seeded(rng)
    street = _Street(rng)
    objects = street.objects()
    solids = _see_through(solids_of(STILL, objects, (0, 0, sensor.height), MAX_RANGE_M + 15))
    surface = meet_solids(sensor.grid, street.around.joined(solids, sensor.height), rng)
    meet_ground(sensor.grid, surface, sensor.height, street.ground)
    points, owner = returns(sensor.grid, surface, sensor.receiver, rng)
    velocity = np.append(objects.velocity, np.zeros((1, 2)), 0)[owner].astype(np.float32)
    sensor.blur(points, velocity, street.speed)
    sensor.scatter(points, rng)
    kept = sensor.seen(points, rng)
    points, owner = points[kept], owner[kept]
    truth, rows = truth_of(STILL, objects, (0, 0, sensor.height))
    # A box lies at its points, not at the object's position in the middle of the revolution.
    sensor.blur(truth.xyzlwh_yaw, objects.velocity[rows].astype(np.float32), street.speed)
    hill = _hill(rng)
    points[:, 2] += hill(*points[:, :2].T)
    truth.xyzlwh_yaw[:, 2] += hill(*truth.xyzlwh_yaw[:, :2].T)
    own = _own_vehicle(rng)
    return LidarSample(
        0,
        np.concatenate([points, own]),
        truth,
        np.bincount(owner[owner >= 0], minlength=len(objects))[rows],
        objects.ids[rows],
        objects.velocity[rows],
    )


def _see_through(solids: Solids) -> Solids:
    return replace(solids, stop=np.where(solids.glass, PANE_STOP, solids.stop))


def _hill(rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the height of the ground at x, y, m: flat below the sensor, hills around it."""
    bend, tilt = rng.normal(0, 0.0006, 3).clip(-0.0014, 0.0014), rng.normal(0, 0.008, 2)

    def height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        away = np.hypot(x, y)
        curved = (bend[0] * x * x + bend[1] * y * y + bend[2] * x * y) / (1 + away / 60)
        return curved + tilt[0] * x + tilt[1] * y

    return height


def _own_vehicle(rng: np.random.Generator) -> np.ndarray:
    """Return (N, 4) float32, a few points on the own roof and bonnet."""
    count = int(rng.integers(0, 120)) if rng.random() < 0.5 else 0
    low, high = np.array([-2.4, -1.0, -1.4, 0]), np.array([1.8, 1.0, -0.25, 1])
    middle = rng.uniform(low, high, (6, 4))[rng.integers(0, 6, count)]
    return (middle + rng.normal(0, 0.12, (count, 4)) * (1, 1, 0.4, 0)).astype(np.float32)


@lru_cache(maxsize=16 * POOL)
def _entity(kind: str, number: int) -> Entity:
    """Return a variant of a kind of object: one of `make_entity`, or a realistic car or lorry."""
    rng = np.random.default_rng([number, 21])
    if kind == "lorry":
        length, width, high = rng.uniform((6, 2.3, 2.8), (13, 2.6, 3.9)).tolist()
        colour = tuple(rng.integers(60, 235, 3).tolist())
        return Entity(-1, (length, width, high), shapes.trailer(length, width, high, colour))
    if kind != "car":
        return make_entity(kind, rng)
    name = rng.choice(list(CAR_SIZES), p=[0.26, 0.36, 0.22, 0.16])
    lwh = np.array(CAR_SIZES[name]) * rng.uniform((0.86, 0.89, 0.95), (1.05, 1.03, 1.06))
    if name == "van" and rng.random() < 0.4:
        lwh *= rng.uniform(1, (1.2, 1.05, 1.25))
    length, width, high = lwh.tolist()
    paint = np.clip(np.array(CAR_PAINT[rng.integers(len(CAR_PAINT))]) + rng.uniform(-20, 14, 3), 4, 240)
    mesh = shapes.car(shapes.CAR_STYLES[name], length, width, high, tuple(paint))
    return Entity(0, (length, width, high), mesh)


@dataclass(frozen=True, slots=True)
class _Road:
    """An arc: a point on its centre line, the heading there, curvature, and half the carriageway's width."""

    x: float
    y: float
    heading: float
    curvature: float
    half: float

    def at(self, s: float, d: float) -> Place:
        """Return x, y and heading at arc length s and offset d to the left, m."""
        turn = self.heading + self.curvature * s
        chord = s * np.sinc(self.curvature * s / (2 * np.pi))
        middle = (self.heading + turn) / 2
        x, y = self.x + chord * math.cos(middle), self.y + chord * math.sin(middle)
        return x - d * math.sin(turn), y + d * math.cos(turn), turn

    def offset(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return (N,) offset to the left of the centre line, m."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        along, left = (x - self.x) * c + (y - self.y) * s, (y - self.y) * c - (x - self.x) * s
        radius = 1 / self.curvature
        return radius - math.copysign(1, radius) * np.hypot(along, left - radius)


class _Street:
    """One place: roads, road users, and the surroundings.

    Attributes:
        around: parts that are not objects. speed: of the vehicle, m/s.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.around = rng, Surroundings()
        self._things: list[tuple[Entity, float, float, float, float]] = []
        self._rooms: list[tuple[float, ...]] = [(*EGO_M[:2], 0.0, *EGO_M[2:])]  # x y yaw length width
        self.speed = max(0.0, rng.normal(7, 5))
        self._empty = rng.random() < EMPTY
        half = rng.uniform(2.2, 7.5)
        side = -1 if rng.random() < 0.85 else 1  # traffic keeps right, mostly
        own = side * half / 2 if half > 2.8 else 0.0
        bend = self._bend(150)
        self._roads = [_Road(0.0, -own - rng.normal(0, 0.3), rng.normal(0, 0.04), bend, half)]
        if rng.random() < 0.4:
            x, y, heading = self._roads[0].at(rng.choice([-1, 1]) * rng.uniform(8, 45), 0)
            heading += rng.uniform(1.0, 2.1)
            self._roads.append(_Road(x, y, heading, self._bend(100), rng.uniform(2.2, 5.5)))
        for road in self._roads:
            self._traffic(road, side)
        for road in self._roads:
            for sign in (-1, 1):
                self._roadside(road, sign)
        if rng.random() < 0.2:
            self._car_park()
        self._wave = rng.uniform(0.2, 1.4, (2, 4)) * rng.choice([-1, 1], (2, 4))
        self._rough = rng.uniform(0.004, 0.02), rng.uniform(0.01, 0.06)

    def _bend(self, radius: float) -> float:
        bend = float(np.clip(self.rng.normal(0, 1 / radius), -1 / 45, 1 / 45))
        return bend if abs(bend) > 1e-4 else 1e-4

    def ground(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) height, m, and (N,) reflectivity of the ground."""
        beyond = np.min([np.abs(road.offset(x, y)) - road.half for road in self._roads], 0)
        paved = beyond < 2.0
        waves = np.sin(np.multiply.outer(x, self._wave[0]) + np.multiply.outer(y, self._wave[1])).mean(-1)
        rough = np.where(paved, *self._rough)
        tufts = np.where(paved, 0, self.rng.exponential(rough))
        reflectivity = np.where(paved, REFLECTIVITY["asphalt"], REFLECTIVITY["grass"])
        reflectivity[np.abs(beyond) < 0.07] = REFLECTIVITY["paint"]
        return 2 * rough * waves + tufts, reflectivity

    def objects(self) -> WorldObjects:
        """Return the objects as rows; cars have seats, visible through the windows."""
        entities, *pose = zip(*self._things, strict=True) if self._things else ((), (), (), (), ())
        x, y, yaw, speed = (np.array(values, float) for values in pose)
        lwh = np.array([entity.lwh for entity in entities], float).reshape(-1, 3)
        for row, entity in enumerate(entities):
            if entity.label == 0:
                self._seats(row, (x[row], y[row], yaw[row]), lwh[row])
        return WorldObjects(
            tuple(entities),
            np.arange(len(x)),
            np.array([entity.label for entity in entities], np.int64),
            np.column_stack([x, y, lwh[:, 2] / 2]),
            lwh,
            yaw,
            np.stack([speed * np.cos(yaw), speed * np.sin(yaw)], -1),
            np.arange(len(x)) * 0.37,
        )

    def _seats(self, row: int, at: Place, lwh: np.ndarray) -> None:
        for place in (0.02, -0.2):
            seat = (*beside(at, place * lwh[0]), at[2])
            self.around.block(seat, (0.3, 0.7 * lwh[1]), (0.3, 0.8 * lwh[2]), 0.12, owner=row)

    def _clear(self, x: ArrayLike, y: ArrayLike, margin: float, roads: bool = True) -> bool:
        """Return whether one or all of (N,) points keep a margin, m, to objects and optionally roads."""
        x, y = np.atleast_1d(x), np.atleast_1d(y)
        if roads and any((np.abs(road.offset(x, y)) < road.half + margin).any() for road in self._roads):
            return False
        bx, by, yaw, length, width = np.array(self._rooms).T[:, :, None]
        c, s = np.cos(yaw), np.sin(yaw)
        along, across = (x - bx) * c + (y - by) * s, (y - by) * c - (x - bx) * s
        hit = (np.abs(along) < length / 2 + margin) & (np.abs(across) < width / 2 + margin)
        return not hit.any()

    def _put(self, kind: str, at: Place, speed: float = 0.0, roads: bool = False) -> Entity | None:
        """Place an object on free ground, optionally off the roads."""
        entity = _entity(kind, int(self.rng.integers(POOL)))
        if self._empty and entity.label >= 0:
            return None
        x, y, yaw = at
        length, width = entity.lwh[:2]
        spread = [beside(at, u * length, v * width) for u in (-0.5, 0, 0.5) for v in (-0.5, 0, 0.5)]
        corners = np.array(spread)
        if not self._clear(corners[:, 0], corners[:, 1], 0.15, roads):
            return None
        self._things.append((entity, x, y, yaw, speed))
        self._rooms.append((x, y, yaw, *entity.lwh[:2]))
        return entity

    def _traffic(self, road: _Road, side: int) -> None:
        rng = self.rng
        lanes = max(1, int(road.half / 3.0)) if road.half > 2.8 else 0
        places = [sign * (0.5 + i) * road.half / lanes for sign in (-1, 1) for i in range(lanes)] or [0.0]
        for d in places:
            gap, speed = (
                rng.choice([2.0, 12.0, 45.0], p=[0.25, 0.45, 0.3]),
                rng.choice([0.0, rng.uniform(1, 14)]),
            )
            ahead = 0.0 if d * side >= 0 else np.pi
            s = ALONG_M[0] + rng.exponential(gap)
            while s < ALONG_M[1]:
                kind = str(rng.choice(["car", "cyclist", "lorry"], p=[0.81, 0.14, 0.05]))
                x, y, heading = road.at(s, d + rng.normal(0, 0.25))
                entity = self._put(kind, (x, y, heading + ahead + rng.normal(0, 0.04)), speed)
                s += (entity.length if entity else 3.0) + 1.0 + rng.exponential(gap)

    def _roadside(self, road: _Road, sign: int) -> None:
        """Add parked cars, the sidewalk, and the fronts behind it."""
        rng = self.rng
        parked = rng.choice(4, p=[0.4, 0.4, 0.12, 0.08])
        wide = (0.0, 2.1, 5.0, 4.4)[parked]
        if parked:
            self._parked(road, sign, (0.0, 0.0, np.pi / 2, np.pi / 4)[parked], wide)
        curb = road.half + wide
        walk = rng.uniform(0.2, 4)
        if rng.random() < 0.7:
            self._kerb(road, sign * curb, sign * (curb + walk), rng.uniform(0.05, 0.16))
        self._furniture(road, sign, curb, walk)
        self._people(road, sign, curb, walk)
        back = curb + walk + rng.choice([0.0, rng.uniform(0, 2), rng.uniform(2, 9)])
        if rng.random() < 0.14:
            self._bank(road, sign, back)
        else:
            self._front(road, sign, back)

    def _parked(self, road: _Road, sign: int, turned: float, wide: float) -> None:
        rng = self.rng
        fill, gap = rng.uniform(0.1, 0.95), rng.uniform(0.3, 1.4)
        s = ALONG_M[0]
        while s < ALONG_M[1]:
            kind = "car" if rng.random() < 0.95 else str(rng.choice(["trailer", "lorry"]))
            x, y, heading = road.at(s, sign * (road.half + wide / 2 + rng.normal(0, 0.12)))
            yaw = heading + sign * turned + rng.choice([0, np.pi]) + rng.normal(0, 0.03)
            entity = self._put(kind, (x, y, yaw)) if rng.random() < fill else None
            length, width = entity.lwh[:2] if entity else (4.3, 1.8)
            s += length * abs(math.cos(turned)) + width * abs(math.sin(turned)) + gap + rng.exponential(0.4)

    def _kerb(self, road: _Road, near: float, far: float, high: float) -> None:
        for s in np.arange(*ALONG_M, 5.0):
            a, b, c, d = (
                np.array(road.at(s + step, place)[:2])
                for step, place in ((0, near), (5, near), (5, far), (0, far))
            )
            middle = (a + c)[:, None] / 2
            if any(
                (np.abs(other.offset(*middle)) < other.half + 2).any()
                for other in self._roads
                if other != road
            ):
                continue
            self.around.quads.append(np.array([[*a, 0], [*b, 0], [*b, high], [*a, high]]))
            self.around.quads.append(np.array([[*a, high], [*b, high], [*c, high], [*d, high]]))

    def _bank(self, road: _Road, sign: int, back: float) -> None:
        """Add a slope up from the road, with bushes on it."""
        rng = self.rng
        deep, high = rng.uniform(2, 9), rng.uniform(0.5, 3.5)
        for s in np.arange(*ALONG_M, 6.0):
            steps = ((0, back), (6, back), (6, back + deep), (0, back + deep))
            edge = np.array([road.at(s + step, sign * place)[:2] for step, place in steps])
            if self._clear(edge[:, 0], edge[:, 1], 0.5):
                self.around.quads.append(np.column_stack([edge, [0, 0, high, high]]))
                if rng.random() < 0.5:
                    part = rng.uniform(0, 1)
                    x, y, yaw = road.at(s + rng.uniform(0, 6), sign * (back + part * deep))
                    bush(self.around, rng, (x, y, yaw), part * high)

    def _furniture(self, road: _Road, sign: int, curb: float, walk: float) -> None:
        rng, poles = self.rng, self.around.poles
        if rng.random() < 0.5:  # trees
            step, trunk, clear = rng.uniform(5, 15), rng.uniform(0.06, 0.3), rng.uniform(1.4, 4)
            for s in np.arange(ALONG_M[0] + rng.uniform(0, step), ALONG_M[1], step):
                x, y, _ = road.at(s + rng.normal(0, 0.5), sign * (curb + rng.uniform(0.4, 1.0)))
                if rng.random() < 0.8 and self._clear(x, y, 0.3):
                    tree(self.around, rng, x, y, trunk * rng.uniform(0.7, 1.3), clear)
        for step, radius, high in (
            (rng.uniform(9, 40), (0.04, 0.18), (3, 9)),  # lamps, signals
            (rng.uniform(6, 40), (0.025, 0.06), (1, 3)),  # signs
            (rng.uniform(1.2, 2.5) if rng.random() < 0.15 else 60, (0.04, 0.14), (0.6, 1.1)),  # bollards
        ):
            for s in np.arange(ALONG_M[0] + rng.uniform(0, step), ALONG_M[1], step):
                x, y, yaw = road.at(s, sign * (curb + rng.uniform(0.15, 0.9)))
                if self._clear(x, y, 0.1):
                    top = rng.uniform(*high)
                    poles.append((x, y, 0.0, top, rng.uniform(*radius), rng.uniform(0.15, 0.6)))
                    if top < 3 and step > 5 and rng.random() < 0.6:
                        board = rng.uniform(0.3, 0.9)
                        self.around.block((x, y, yaw), (0.04, board), (top - board, top), 0.7)
        for _ in range(rng.poisson(5)):  # bins, boxes, cabinets
            x, y, yaw = road.at(rng.uniform(*ALONG_M), sign * (curb + rng.uniform(0.2, max(walk, 1.5))))
            large = rng.uniform(1, 1.6) if rng.random() < 0.2 else 1
            length, width, high = (rng.uniform((0.3, 0.3, 0.5), (1.6, 1.0, 1.7)) * large).tolist()
            if self._clear(x, y, 0.8):
                place = (x, y, yaw + rng.choice([0, rng.normal(0, 1)]))
                z = (rng.choice([0.0, 0.0, 0.3]), high)
                self.around.block(place, (length, width), z, rng.uniform(0.1, 0.6))

    def _people(self, road: _Road, sign: int, curb: float, walk: float) -> None:
        rng = self.rng
        for _ in range(rng.poisson(rng.choice([0.5, 3, 9]))):
            s, d = rng.uniform(-35, 60), curb + rng.uniform(-0.5, walk + 0.5)
            kind = str(rng.choice(["pedestrian", "cyclist"], p=[0.65, 0.35]))
            for _ in range(1 + rng.poisson(0.4)):  # some in company
                x, y, heading = road.at(s + rng.normal(0, 0.5), sign * d + rng.normal(0, 0.5))
                yaw = heading + rng.choice([0, np.pi, rng.uniform(-np.pi, np.pi)])
                self._put(kind, (x, y, yaw), rng.choice([0.0, 1.3 if kind == "pedestrian" else 4.0]))

    def _front(self, road: _Road, sign: int, back: float) -> None:
        """Add walls, hedges, fences and houses in a row, with gardens behind the low ones."""
        rng = self.rng
        # Each street has its own mixture.
        kinds = (*FRONTS, "drive")
        share = rng.dirichlet([0.5, 0.6, 0.7, 0.6, 0.5, 0.8, 0.15, 0.15, 0.5])
        s = ALONG_M[0]
        while s < ALONG_M[1]:
            kind, length = str(rng.choice(kinds, p=share)), rng.uniform(1.5, 6) * rng.choice([1, 2, 4])
            if kind == "house":
                length = rng.uniform(6, 24)
            first, last = road.at(s, sign * back), road.at(s + length, sign * back)
            along = np.linspace(0, 1, max(2, int(length) + 1))
            x, y = (first[i] + (last[i] - first[i]) * along for i in (0, 1))
            place = x.mean(), y.mean(), math.atan2(last[1] - first[1], last[0] - first[0])
            if self._clear(x, y, 0.5):
                if kind == "drive":
                    self._drive(place, sign)
                else:
                    FRONTS[kind](self.around, rng, place, length, sign)
                if kind != "house" and rng.random() < 0.7:
                    self._garden(road, s + length / 2, sign, back)
            s += length + rng.choice([0.0, 0.3, rng.uniform(1, 5)])

    def _drive(self, at: Place, sign: int) -> None:
        """Add a gap, perhaps with a car in it."""
        if self.rng.random() < 0.4:
            x, y = beside(at, 0, sign * self.rng.uniform(2.5, 7))
            turned = at[2] + self.rng.choice([0.5, -0.5]) * np.pi + self.rng.normal(0, 0.15)
            self._put("car", (x, y, turned), roads=True)

    def _garden(self, road: _Road, s: float, sign: int, back: float) -> None:
        rng = self.rng
        for _ in range(rng.poisson(1.5)):
            x, y, yaw = road.at(s + rng.normal(0, 4), sign * (back + rng.uniform(1.5, 10)))
            if not self._clear(x, y, 1.5):
                continue
            kind = rng.choice(4, p=[0.35, 0.3, 0.15, 0.2])
            if kind == 0:
                bush(self.around, rng, (x, y, yaw), 0.0)
            elif kind == 1:
                tree(self.around, rng, x, y, rng.uniform(0.06, 0.3), rng.uniform(0.5, 3))
            elif kind == 2:
                shed(self.around, rng, (x, y, yaw), 4, sign)
            else:
                self._put("car", (x, y, yaw + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.2)), roads=True)
        if rng.random() < 0.3:
            at = road.at(s, sign * (back + rng.uniform(9, 18)))
            front = np.array([road.at(s + step, sign * (back + 9)) for step in (-5, 0, 5)])
            if self._clear(front[:, 0], front[:, 1], 2):
                house(self.around, rng, at, rng.uniform(8, 16), sign)

    def _car_park(self) -> None:
        """Add rows of cars on a free area beside the road."""
        rng = self.rng
        x0, y0 = rng.uniform(-15, 45), rng.choice([-1, 1]) * rng.uniform(12, 30)
        yaw = rng.uniform(-np.pi, np.pi)
        for row in range(int(rng.integers(1, 4))):
            for place in range(int(rng.integers(3, 10))):
                along, out = 2.6 * place, 7.5 * row
                x, y = beside((x0, y0, yaw), along, out)
                if rng.random() < 0.75:
                    turned = yaw + np.pi / 2 + rng.choice([0, np.pi]) + rng.normal(0, 0.03)
                    self._put("car", (x, y, turned), roads=True)
