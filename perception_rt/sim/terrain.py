"""The ground for the lidar: materials of the road, kerb stones, and unevenness of some centimetres.

Objects stand on the plane z = 0, which the camera draws; the unevenness is small.
"""

from __future__ import annotations

import numpy as np

from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.scene import to_base
from perception_rt.sim.traffic import LANE_M, PARKING_M, SIDEWALK_M, STREET_M
from perception_rt.sim.world import World

KERB_M = 0.12
REACH_M = 110.0
REFLECTIVITY = {"asphalt": 0.16, "walk": 0.32, "grass": 0.42, "paint": 0.75, "kerb": 0.4}
_STEP_M = 1.0
_KERB_STEP_M = 4.0
_ROUGH = (0.012, 0.035)  # standard deviation of the height, m: on paved ground, on grass


class Terrain:
    """The ground of one world; it depends on the place only.

    Args:
        world: the world of the road.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        rng = np.random.default_rng([world.seed, 10])
        length, turn = rng.uniform(4, 28, 5), rng.uniform(0, 2 * np.pi, 5)
        self._wave = 2 * np.pi / length * np.stack([np.cos(turn), np.sin(turn)])
        self._phase = rng.uniform(0, 2 * np.pi, 5)

    def unevenness(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the height at world x, y in standard deviations: a sum of waves of 4 to 28 m.

        Phases are computed in double precision, and the sines in single precision, which is faster in NumPy.
        The error is below 1e-6 standard deviations.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        height = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        for wave_x, wave_y, phase in zip(*self._wave / (2 * np.pi), self._phase / (2 * np.pi), strict=True):
            turns = x * wave_x + y * wave_y + phase
            turns -= np.rint(turns)
            height += np.sin(turns.astype(np.float32) * np.float32(2 * np.pi))
        return height * np.sqrt(2 / len(self._phase))

    def ground(
        self, ego: SimulatedEgo, ego_s: float, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return height and reflectivity of the ground.

        Args:
            ego: the vehicle, at arc length ego_s. x, y: (N,) in base_link, m, within REACH_M.

        Returns:
            (N,) height, m, and (N,) reflectivity.
        """
        s, d = self.road_coordinates(ego, ego_s, x, y)
        world = self.world
        right, left = world.right_edge - PARKING_M, world.left_edge + PARKING_M
        beyond = np.maximum(right - d, d - left)
        street = np.zeros(len(s), bool)
        for place in world.streets(ego_s - REACH_M, ego_s + REACH_M):
            street |= np.abs(s - place) < STREET_M / 2
        grass = (beyond > SIDEWALK_M) & ~street
        edge = np.minimum(np.abs(d - world.right_edge), np.abs(d - world.left_edge)) < 0.06
        middle = np.abs(np.abs(d - LANE_M * (world.same_lanes - 0.5)) - 0.135) < 0.065
        reflectivity = np.where(street | (beyond < 0), REFLECTIVITY["asphalt"], REFLECTIVITY["walk"])
        reflectivity[grass] = REFLECTIVITY["grass"]
        reflectivity[edge | middle] = REFLECTIVITY["paint"]
        c, sin = np.cos(ego.yaw), np.sin(ego.yaw)
        waves = self.unevenness(ego.x + c * x - sin * y, ego.y + sin * x + c * y)
        return waves * np.where(grass, _ROUGH[1], _ROUGH[0]), reflectivity

    def kerbs(self, ego: SimulatedEgo, ego_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the kerb stones around: (F, 4, 3) corners in base_link, m, and (F, 3) normals.

        They lie where the camera draws them, and are lowered at crossings and side streets.
        """
        s = np.arange(np.floor((ego_s - REACH_M) / _KERB_STEP_M), (ego_s + REACH_M) / _KERB_STEP_M)
        s = s * _KERB_STEP_M
        middle = s + _KERB_STEP_M / 2
        near = s[0], s[-1] + _KERB_STEP_M
        for places, half in (
            (self.world.streets(*near), STREET_M / 2),
            ([place for _, place in self.world.crossings(*near)], 2.0),
        ):
            for place in places:
                s, middle = (v[np.abs(middle - place) > half + _KERB_STEP_M / 2] for v in (s, middle))
        left, right = self.world.left_edge + PARKING_M, self.world.right_edge - PARKING_M
        lateral = np.array([right, right - 0.15, left, left + 0.15])
        ends = np.stack([s, s + _KERB_STEP_M])
        x, y, _ = self.world.path.position(ends, lateral[:, None, None])
        edges = np.stack(to_base(ego, x, y), -1)
        faces, normals = [], []
        for sign, (inner, outer) in ((-1, edges[:2]), (1, edges[2:])):
            along = inner[1] - inner[0]
            out = sign * np.stack([along[:, 1], -along[:, 0]], -1)  # towards the road
            out /= np.hypot(*out.T)[:, None]
            faces += [_quads(inner, inner, (-KERB_M, KERB_M)), _quads(inner, outer, (KERB_M, KERB_M))]
            normals += [np.column_stack([out, np.zeros(len(s))]), np.tile([0.0, 0.0, 1.0], (len(s), 1))]
        return np.concatenate(faces), np.concatenate(normals)

    def road_coordinates(
        self, ego: SimulatedEgo, ego_s: float, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return arc length and lateral offset of (N,) points in base_link, m; accurate near the road."""
        line_s = ego_s + np.arange(-REACH_M - 30, REACH_M + 30, _STEP_M)
        wx, wy, heading = self.world.path.position(line_s)
        line_x, line_y = to_base(ego, wx, wy)
        c, sin = np.cos(heading - ego.yaw), np.sin(heading - ego.yaw)
        # The road never turns back (sim/path.py), so x is a first guess.
        table = np.interp(np.arange(-REACH_M, REACH_M), line_x, np.arange(len(line_s)))
        i = table[np.clip(np.rint(x + REACH_M).astype(np.int64), 0, len(table) - 1)].astype(np.int64)
        for _ in range(3):
            dx, dy = x - line_x[i], y - line_y[i]
            ci, si = c[i], sin[i]
            along = dx * ci + dy * si
            nearer = np.clip(i + np.rint(along / _STEP_M).astype(np.int64), 0, len(line_s) - 1)
            if np.array_equal(nearer, i):
                break
            i = nearer
        else:
            dx, dy = x - line_x[i], y - line_y[i]
            ci, si = c[i], sin[i]
        return line_s[i] + dx * ci + dy * si, dy * ci - dx * si


def _quads(a: np.ndarray, b: np.ndarray, z: tuple[float, float]) -> np.ndarray:
    """Return (N, 4, 3) quads between two edges (2, N, 2), the first at height z[0], the second at z[1]."""
    (a0, a1), (b0, b1) = (
        [np.column_stack([end, np.full(len(end), h)]) for end in edge] for edge, h in ((a, z[0]), (b, z[1]))
    )
    return np.stack([a0, a1, b1, b0], 1)
