"""Light, sky, and the road on the ground."""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import pairwise

import cv2
import numpy as np

from perception_rt.sim.camera import NEAR_M, Camera
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.traffic import LANE_M, PARKING_M, SIDEWALK_M, STREET_M
from perception_rt.sim.world import World

SHIFT = 4  # cv2's sub-pixel bits
_DASH_M = 9.0
_ROWS_M = np.concatenate([np.linspace(0, 12, 7), np.geomspace(15, 235, 22)])  # at which strips are cut


def to_fixed(uv: np.ndarray) -> np.ndarray:
    """Continuous pixel coordinates to OpenCV's fixed point (whose integers are pixel centres)."""
    return np.rint((uv - 0.5) * (1 << SHIFT)).astype(np.int32)


def to_base(ego: SimulatedEgo, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World x, y to base_link x, y."""
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    return c * (x - ego.x) + s * (y - ego.y), -s * (x - ego.x) + c * (y - ego.y)


class Look:
    """The random light and colours of a drive.

    Args:
        camera: the camera. seed: of the drive.

    Attributes:
        sun: (3,) unit vector towards the sun, world frame. ambient, diffuse: (3,) light, RGB factors.
        fog: (3,) colour of distant objects. fog_m: distance at which contrast falls to 1/e. zenith: (3,)
            colour of the upper sky.
        shadow: factor of shaded ground. noise: sensor noise, grey levels. ground: RGB colours by name.
    """

    def __init__(self, camera: Camera, seed: int) -> None:
        self.camera, self.seed = camera, seed
        rng = np.random.default_rng([seed, 2])
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 1.1)
        gain, warm, clear = rng.uniform(0.68, 1.08), rng.uniform(-0.07, 0.09), rng.uniform(0, 1)
        tint = gain * np.array([1 + warm, 1.0, 1 - warm])
        self.sun = np.array(
            [np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)]
        )
        asphalt = rng.uniform(78, 122) + rng.uniform(-5, 5, 3)
        green = np.array([rng.uniform(84, 140), rng.uniform(112, 140), rng.uniform(62, 84)])
        colors = {
            "asphalt": asphalt,
            "grass": green,
            "walk": rng.uniform(150, 186) + rng.uniform(-8, 8, 3),
            "kerb": np.full(3, 190.0),
            "paint": np.full(3, 226.0),
            "yellow": np.array([222.0, 180, 60]),
            "patch": asphalt * rng.uniform(0.82, 0.92),
            "verge": green * (0.92, 0.96, 0.9),
        }
        blue, grey = np.array([86.0, 138, 206]), np.array([150.0, 162, 176])
        self.ground = {name: np.clip(color * tint, 0, 255) for name, color in colors.items()}
        self.fog = np.clip(np.array([198.0, 208, 220]) * tint, 0, 250)
        self.zenith = np.clip((blue * clear + grey * (1 - clear)) * tint, 0, 250)
        self.ambient = tint * (0.62 + 0.16 * (1 - clear))
        self.diffuse = tint * (0.2 + 0.28 * clear)
        self.fog_m, self.noise = rng.uniform(160, 420), rng.uniform(1.5, 5.0)
        self.shadow = 0.9 - 0.42 * clear

    def fade(self, color: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
        """Return colours (..., 3) as seen from a distance."""
        keep = np.exp(-np.maximum(np.asarray(depth, float), 0) / self.fog_m)[..., None]
        return color * keep + self.fog * (1 - keep)

    @cached_property
    def panorama(self) -> np.ndarray:
        """(H // 2, 2 pi f + W, 3) uint8: sky, clouds, hills by azimuth; column 0 at yaw 0, turning right."""
        rng = np.random.default_rng([self.seed, 3])
        width, height = self.camera.size
        turn, rows = round(2 * np.pi * self.camera.focal), height // 2
        columns = turn // 4  # clouds are soft: drawn at low resolution, then upscaled
        up = np.linspace(1, 0, rows)[:, None, None] ** 0.8
        sky = np.broadcast_to(self.fog * (1 - up) + self.zenith * up, (rows, columns, 3))
        cloud = np.zeros((rows, columns))
        for cells, weight in ((5, 0.55), (11, 0.3), (25, 0.15)):
            grid = rng.random((cells, cells * 5)).astype(np.float32)
            grid[:, -1] = grid[:, 0]
            cloud += weight * cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_CUBIC)
        cover = np.clip((cloud - rng.uniform(0.42, 0.62)) * 4, 0, 0.85)[..., None] * np.minimum(up * 3, 1)
        sky = sky * (1 - cover) + np.minimum(self.fog * 1.12, 252) * cover
        bytes_of_sky = np.clip(sky, 0, 255).astype(np.uint8)
        painted = cv2.resize(bytes_of_sky, (turn, rows), interpolation=cv2.INTER_LINEAR)
        angle = np.arange(turn) * 2 * np.pi / turn
        for depth, low, rough in ((0.75, 0.09, 5), (0.5, 0.05, 17)):
            waves = [np.sin(angle * rough * k + rng.uniform(0, 6)) / k for k in (1, 2, 5, 9)]
            ridge = low + 0.35 * low * np.sum(waves, axis=0)
            hill = self.ground["verge"] * (1 - depth) * 0.8 + self.fog * depth
            mask = (np.arange(rows)[::-1, None] / rows) < ridge[None]
            cv2.copyTo(np.full_like(painted, hill.astype(np.uint8)), mask.astype(np.uint8), painted)
        return np.concatenate([painted, painted[:, :width]], 1)

    @cached_property
    def meadow(self) -> np.ndarray:
        """(H - H // 2, W, 3) uint8: the ground away from the road, fading with distance."""
        width, height = self.camera.size
        row = np.arange(height - height // 2) + 0.5
        depth = self.camera.focal * self.camera.position[2] / row
        color = np.clip(self.fade(self.ground["grass"], depth), 0, 255).astype(np.uint8)
        # Contiguous, as it is copied into every image.
        return np.ascontiguousarray(np.broadcast_to(color[:, None], (len(row), width, 3)))


def background(look: Look, ego: SimulatedEgo) -> np.ndarray:
    """Return a new image with sky and meadow."""
    width, height = look.camera.size
    image = np.empty((height, width, 3), np.uint8)
    turn = look.panorama.shape[1] - width
    column = int(np.floor(-ego.yaw * look.camera.focal)) % turn
    image[: height // 2] = look.panorama[:, column : column + width]
    image[height // 2 :] = look.meadow
    return image


def draw_road(image: np.ndarray, look: Look, world: World, ego: SimulatedEgo, ego_s: float) -> None:
    """Draw sidewalks, kerbs, road, markings, crossings and patches onto the ground."""
    near = ego_s + look.camera.position[0] + 1.2
    s = near + _ROWS_M
    right, left = world.right_edge - PARKING_M, world.left_edge + PARKING_M
    strips = [(right - SIDEWALK_M, right, "walk"), (left, left + SIDEWALK_M, "walk")]
    strips += [
        (right, left, "asphalt"),
        (right - 0.15, right + 0.02, "kerb"),
        (left - 0.02, left + 0.15, "kerb"),
    ]
    middle = LANE_M * (world.same_lanes - 0.5)
    strips += [(middle - 0.2, middle - 0.07, "yellow"), (middle + 0.07, middle + 0.2, "yellow")]
    strips += [(d - 0.06, d + 0.06, "paint") for d in (world.right_edge, world.left_edge)]
    edges = np.array([strip[:2] for strip in strips])
    uv, depth = _ground_pixels(look, world, ego, s[None, None], edges[:, :, None])
    fade = look.fade(np.stack([look.ground[strip[2]] for strip in strips])[:, None], depth[:, 0])
    # Two colours per strip: the far part has a little more fog than the near part.
    for cells in (slice(13, 29), slice(6, 14), slice(0, 7)):
        for i in range(len(strips)):
            outline = np.concatenate([uv[i, 0, cells], uv[i, 1, cells][::-1]])
            cv2.fillPoly(
                image, [outline], fade[i, (cells.start + cells.stop - 1) // 2].tolist(), cv2.LINE_AA, SHIFT
            )
    _draw_quads(image, look, world, ego, _side_streets(world, near) + _marks(world, near))


def _side_streets(world: World, near: float) -> list[tuple[float, float, float, float, str]]:
    """Return quads of the side streets, cut into pieces so that they stay in front of the camera."""
    quads = []
    for s in world.streets(near - 4, near + 140):
        for sign, edge in ((-1, world.right_edge), (1, world.left_edge)):
            steps = [edge + sign * v for v in (0, 12, 18, 26, 38, 60)]
            quads += [(s - STREET_M / 2, s + STREET_M / 2, a, b, "asphalt") for a, b in pairwise(steps)]
    return [(max(q[0], near), *q[1:]) for q in quads if q[1] > near]


def _marks(world: World, near: float) -> list[tuple[float, float, float, float, str]]:
    """Return quads on the road as (s0, s1, d0, d1, colour)."""
    marks = []
    lanes = [i for i in range(world.same_lanes + world.oncoming_lanes - 1) if i != world.same_lanes - 1]
    for n in range(int(near // 25), int((near + 70) // 25) + 1):
        marks.append(_patch(world, n))
    for n in range(int(near // _DASH_M), int((near + 110) // _DASH_M) + 1):
        marks += [
            (n * _DASH_M, n * _DASH_M + 3, (i + 0.5) * LANE_M - 0.07, (i + 0.5) * LANE_M + 0.07, "paint")
            for i in lanes
        ]
    for _, s in world.crossings(near - 2, near + 90):
        bars = np.arange(world.right_edge - PARKING_M + 0.4, world.left_edge + PARKING_M - 0.4, 1.0)
        marks += [(s - 1.6, s + 1.6, float(d), float(d) + 0.5, "paint") for d in bars]
    return [(max(m[0], near), *m[1:]) for m in marks if m[1] > near]


@lru_cache(maxsize=256)
def _patch(world: World, n: int) -> tuple[float, float, float, float, str]:
    """Return the n-th patch of the asphalt."""
    rng = np.random.default_rng([world.seed, 4, n + 1000])
    s0, d0 = n * 25 + rng.uniform(0, 18), rng.uniform(world.right_edge, world.left_edge - 2)
    return s0, s0 + rng.uniform(1, 7), d0, d0 + rng.uniform(0.6, 1.8), "patch"


def _draw_quads(image: np.ndarray, look: Look, world: World, ego: SimulatedEgo, marks: list) -> None:
    if not marks:
        return
    s0, s1, d0, d1 = np.array([m[:4] for m in marks]).T
    s, d = np.stack([s0, s1, s1, s0], -1), np.stack([d0, d0, d1, d1], -1)
    uv, depth = _ground_pixels(look, world, ego, s, d)
    colors = look.fade(np.stack([look.ground[m[4]] for m in marks]), depth.mean(-1)).tolist()
    for quad, color in zip(uv, colors, strict=True):
        cv2.fillConvexPoly(image, quad, color, cv2.LINE_AA, SHIFT)


def _ground_pixels(
    look: Look, world: World, ego: SimulatedEgo, s: np.ndarray, d: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return fixed-point pixels and depth of road coordinates."""
    wx, wy, _ = world.path.position(s, d)
    x, y = to_base(ego, wx, wy)
    x = np.maximum(x, look.camera.position[0] + NEAR_M)
    uv, depth = look.camera.project(np.stack([x, y, np.zeros_like(x)], -1))
    return to_fixed(uv), depth
