"""The simulated lidar: a spinning sensor of 64 rings, ray-cast against everything around the vehicle.

All rays of a cloud belong to one moment (as after motion compensation). The first surface on a ray returns
it, with range noise, unless too little light comes back: the chance of a return is ``1 - exp(-power)``, where
power falls with the square of the range and with the cosine of the angle of incidence (Lambert's law).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.raycast import Hits, RayGrid, cast_capsules, cast_faces, dot, nearest
from perception_rt.sim.scene import to_base
from perception_rt.sim.solids import Solids, solids_of
from perception_rt.sim.terrain import REFLECTIVITY, Terrain
from perception_rt.sim.world import World, WorldObjects
from perception_rt.types import ConfigError, Detections3D

LIDAR_POSITION = (1.0, 0.0, 1.9)  # in base_link, m; the axes are parallel
LIDAR_FRAME = "lidar"
# Rad, ascending; the upper half of the rings covers distant objects.
ELEVATIONS = np.deg2rad(np.concatenate([np.linspace(-25, -8, 32), np.linspace(-7.66, 3, 32)]))
AZIMUTH_STEPS = 1080
MIN_RANGE_M = 1.5
MAX_RANGE_M = 100.0
BEHIND_M = 60.0
MIN_POINTS = 5  # minimum on a labelled object
RANGE_SIGMA_M = 0.02
DROPOUT = 0.015  # random share of the returns
FULL_POWER_M = 600.0  # a white wall at this range, facing the sensor, returns 1 - 1/e of the rays
FALLOFF_M = 60.0  # intensity is halved here
GLASS_RETURN = 0.35  # of the rays that hit glass; the others are lost


@dataclass(frozen=True, slots=True, eq=False)
class LidarSample:
    """One revolution and its ground truth, in the frame LIDAR_FRAME (x forward, y left, z up).

    Attributes:
        stamp_ns: time since the drive's start, ns.
        points: (N, 4) float32, x y z in m and intensity in [0, 1], in the order of firing.
        truth: every labelled object within MAX_RANGE_M, including hidden ones; score 1, labels into
            SIM_CLASSES.
        truth_points: (T,) int64, number of points on each object.
        truth_ids: (T,) int64, constant over the drive; the same ids as the camera's.
        truth_velocity: (T, 2) float64, over ground, along the sensor's axes, m/s.
    """

    stamp_ns: int
    points: np.ndarray
    truth: Detections3D
    truth_points: np.ndarray
    truth_ids: np.ndarray
    truth_velocity: np.ndarray


class Lidar:
    """A lidar in a world.

    Args:
        world: the world to scan. azimuth_steps: columns of a revolution.

    Raises:
        ConfigError: a number of steps that is not an integer from 16 to 10000.
    """

    def __init__(self, world: World, azimuth_steps: int = AZIMUTH_STEPS) -> None:
        if not isinstance(azimuth_steps, (int, np.integer)) or not 16 <= azimuth_steps <= 10_000:
            raise ConfigError(f"azimuth_steps={azimuth_steps!r}: give an integer from 16 to 10000")
        self.azimuth_steps, self.world, self.terrain = int(azimuth_steps), world, Terrain(world)

    def scan(self, t_s: float, rng: np.random.Generator) -> LidarSample:
        """Return the revolution at t_s [s, >= 0]; `rng` draws its noise."""
        ego, ego_s = self.world.ego.state(t_s), self.world.ego.s(t_s)
        objects = self.world.objects(t_s, behind=BEHIND_M)
        start = rng.uniform(0, 2 * np.pi / self.azimuth_steps) - np.pi
        grid = RayGrid.of(self.azimuth_steps, ELEVATIONS, start)
        points, owner = scan(grid, self.terrain, ego, ego_s, objects, rng)
        truth, rows = truth_of(ego, objects, LIDAR_POSITION)
        velocity = to_base(SimulatedEgo(0, 0, ego.yaw, 0, 0, 0), *objects.velocity[rows].T)
        return LidarSample(
            round(t_s * 1e9),
            points,
            truth,
            np.bincount(owner[owner >= 0], minlength=len(objects))[rows],
            objects.ids[rows],
            np.stack(velocity, -1),
        )


def scan(
    grid: RayGrid,
    terrain: Terrain,
    ego: SimulatedEgo,
    ego_s: float,
    objects: WorldObjects,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of one revolution.

    Args:
        grid: the rays. terrain: the ground. ego: the vehicle, at arc length ego_s. objects: the objects
            around. rng: source of noise.

    Returns:
        (N, 4) float32 points as in LidarSample, and for each (N,) its row in `objects`, -1 for ground.
    """
    # 15 m: half of a building.
    solids = solids_of(ego, objects, LIDAR_POSITION, MAX_RANGE_M + 15)
    kerbs, normals = terrain.kerbs(ego, ego_s)
    solids = solids.with_faces(kerbs - LIDAR_POSITION, normals, reflectivity=REFLECTIVITY["kerb"])
    surface = meet_solids(grid, solids, rng)

    def ground(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return terrain.ground(ego, ego_s, x + LIDAR_POSITION[0], y + LIDAR_POSITION[1])

    meet_ground(grid, surface, LIDAR_POSITION[2], ground)
    return returns(grid, surface, Receiver(), rng)


@dataclass(frozen=True, slots=True)
class Receiver:
    """The receiver of a lidar.

    Attributes:
        sigma_m: standard deviation of the range, m. dropout: share of the returns that is lost at random.
        full_power_m: a white wall at this range, facing the sensor, returns 1 - 1/e of the rays.
        min_range_m: minimum range, m.
    """

    sigma_m: float = RANGE_SIGMA_M
    dropout: float = DROPOUT
    full_power_m: float = FULL_POWER_M
    min_range_m: float = MIN_RANGE_M


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """The first surface on each ray, as (rays,) arrays.

    Attributes:
        rho: horizontal range, m, infinite for nothing. owner: row in WorldObjects, -1 for the ground.
        reflectivity: in [0, 1]. cosine: of the angle of incidence. glass: bool. depth: as of Solids, m.
    """

    rho: np.ndarray
    owner: np.ndarray
    reflectivity: np.ndarray
    cosine: np.ndarray
    glass: np.ndarray
    depth: np.ndarray


def meet_solids(grid: RayGrid, solids: Solids, rng: np.random.Generator) -> Surface:
    """Return the first solid on each ray, in the sensor's frame; `rng` draws which pass porous ones."""
    f = len(solids.normals)
    faces = cast_faces(grid, solids.corners, solids.normals)
    if (solids.stop[:f] < 1).any():
        faces = _stopped(faces, solids.stop[:f], rng)
    capsules = _stopped(
        cast_capsules(grid, solids.ends[0], solids.ends[1], solids.radius), solids.stop[f:], rng
    )
    part, rho = nearest(len(grid.cos) * len(grid.tan), [faces, capsules], np.split(solids.bias, [f]))
    part[part < 0] = 0  # of rays without a hit; not read
    return Surface(
        rho,
        solids.owner[part],
        solids.reflectivity[part],
        _cosine(grid, solids, part, rho),
        solids.glass[part],
        solids.depth[part],
    )


def _stopped(hits: Hits, stop: np.ndarray, rng: np.random.Generator) -> Hits:
    part, ray, rho = hits
    kept = rng.random(len(part)) < stop[part]
    return part[kept], ray[kept], rho[kept]


def _cosine(grid: RayGrid, solids: Solids, part: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Return the (rays,) cosine of the angle of incidence on the parts hit; 0 without a hit."""
    f, c = len(solids.normals), len(solids.radius)
    met = np.flatnonzero(np.isfinite(rho))
    part = part[met]
    column, ring = np.divmod(met, len(grid.tan))
    ray = np.stack([grid.cos[column], grid.sin[column], grid.tan[ring]])
    # Component by component: (3, N) arrays, seen as (N, 3).
    normals = np.concatenate([solids.normals.T, np.zeros((3, c))], 1)[:, part]
    round_ = np.flatnonzero(part >= f)
    capsule = part[round_] - f
    a, b = solids.ends[0, capsule].T, solids.ends[1, capsule].T
    axis, away = b - a, ray[:, round_] * rho[met[round_]] - a
    along = np.clip(dot(away.T, axis.T) / np.maximum(dot(axis.T, axis.T), 1e-12), 0, 1)
    normals[:, round_] = (away - along * axis) / solids.radius[capsule]
    cosine = np.zeros(len(rho))
    cosine[met] = np.abs(dot(normals.T, ray.T)) / np.sqrt(1 + grid.tan**2)[ring]
    return cosine


def meet_ground(
    grid: RayGrid,
    surface: Surface,
    height: float,
    ground: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> None:
    """End the rays on the ground that reach it first.

    Args:
        grid: the rays. surface: first surfaces of the rays, updated in place. height: of the sensor, m.
        ground: height and reflectivity at (N,) x, y from the sensor, m.
    """
    rings = len(grid.tan)
    down = int(np.searchsorted(grid.tan, -height / MAX_RANGE_M))
    flat = -height / grid.tan[:down]
    # Unevenness moves a ray's end by a few percent of its range.
    column, ring = np.nonzero(surface.rho.reshape(-1, rings)[:, :down] > 0.9 * flat)
    rho = flat[ring]
    z, reflectivity = ground(rho * grid.cos[column], rho * grid.sin[column])
    rho = rho * (1 - z / height)
    ray = column * rings + ring
    first = rho < surface.rho[ray]
    ray, slope = ray[first], grid.tan[ring[first]]
    surface.rho[ray], surface.owner[ray] = rho[first], -1
    surface.reflectivity[ray] = reflectivity[first]
    surface.cosine[ray] = -slope / np.sqrt(1 + slope**2)
    surface.glass[ray], surface.depth[ray] = False, 0.0


def returns(
    grid: RayGrid, surface: Surface, receiver: Receiver, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 4) float32 points and the (N,) owner of each, as of `scan`."""
    met = np.flatnonzero(np.isfinite(surface.rho))
    stretch = np.sqrt(1 + grid.tan**2)[met % len(grid.tan)]
    distance = surface.rho[met] * stretch
    power = surface.reflectivity[met] * surface.cosine[met] * (receiver.full_power_m / distance) ** 2
    chance = (1 - receiver.dropout) * -np.expm1(-power)
    chance[surface.glass[met]] *= GLASS_RETURN
    chance[(distance < receiver.min_range_m) | (distance > MAX_RANGE_M)] = 0
    back = np.flatnonzero(rng.random(len(met)) < chance)
    distance, stretch, met = distance[back], stretch[back], met[back]
    noise = rng.normal(0, receiver.sigma_m, len(met))
    noise += surface.depth[met] * rng.standard_exponential(len(met))
    noise += distance
    rho = noise / stretch
    # Real surfaces are rougher than Lambert's model: at grazing angles they are not black.
    intensity = surface.reflectivity[met] * np.sqrt(surface.cosine[met]) / (1 + (distance / FALLOFF_M) ** 2)
    intensity *= rng.normal(1, 0.08, len(met))
    column, ring = np.divmod(met, len(grid.tan))
    points = np.empty((len(met), 4), np.float32)
    points[:, 0] = rho * grid.cos[column]
    points[:, 1] = rho * grid.sin[column]
    points[:, 2] = rho * grid.tan[ring]
    points[:, 3] = np.clip(intensity, 0, 1)
    return points, surface.owner[met]


def truth_of(
    ego: SimulatedEgo, objects: WorldObjects, position: tuple[float, float, float]
) -> tuple[Detections3D, np.ndarray]:
    """Return the labelled objects in range of a sensor at `position` in base_link, m, and their rows."""
    x, y = to_base(ego, objects.xyz[:, 0], objects.xyz[:, 1])
    centre = np.column_stack([x, y, objects.xyz[:, 2]]) - position
    rows = np.flatnonzero((objects.labels >= 0) & (np.hypot(*centre[:, :2].T) <= MAX_RANGE_M))
    yaw = (objects.yaw[rows] - ego.yaw + np.pi) % (2 * np.pi) - np.pi
    boxes = np.column_stack([centre[rows], objects.lwh[rows], yaw]).astype(np.float32)
    return Detections3D(boxes, np.ones(len(rows), np.float32), objects.labels[rows]), rows
