"""Shapes of objects: meshes of flat faces and figures of capsules, in the object's own frame.

Object frame: origin on the ground below the centre, x forward, y left, z up, metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

MAX_CORNERS = 10
DARK = (28, 28, 32)
_ANGLES = np.arange(MAX_CORNERS) * 2 * np.pi / MAX_CORNERS + 0.3
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Flat convex faces, in painting order (a later face lies on or before an earlier one).

    Attributes:
        points: (V, 3) float64 corners. faces: (F, MAX_CORNERS) int, padded by repeating the last corner.
        counts: (F,) corners. normals: (F, 3) outward. colors: (F, 3) float RGB 0..255.
        glow: (F,) bool, True for lamps, which are not shaded. glass: (F,) bool, True for windows.
        far_faces: number of first faces to draw from afar.
        reach: (V,) zeros (see Figure).
    """

    points: np.ndarray
    faces: np.ndarray
    counts: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    glow: np.ndarray
    glass: np.ndarray
    far_faces: int
    reach: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reach", np.zeros(len(self.points)))


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """Capsules between joints, and rings (wheels); a capsule whose ends coincide is a ball.

    Attributes:
        points: (J, 3) joints, m. ends: (K, 2) joint indices. radii: (K,) m. colors: (K, 3) RGB 0..255.
        rings: joint index arrays, each a closed line. ring_radius: half its thickness, m.
        foliage: True if the balls are leaves, which let light through.
        reach: (J,) painted radius around each joint, m.
    """

    points: np.ndarray
    ends: np.ndarray
    radii: np.ndarray
    colors: np.ndarray
    rings: tuple[np.ndarray, ...] = ()
    ring_radius: float = 0.0
    foliage: bool = False
    reach: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        reach = np.zeros(len(self.points))
        np.maximum.at(reach, self.ends.ravel(), np.repeat(self.radii, 2))
        for wheel in self.rings:
            reach[wheel] = self.ring_radius
        object.__setattr__(self, "reach", reach)


@dataclass
class _MeshMaker:
    """Collects faces; `close` returns the mesh."""

    faces: list = field(default_factory=list)
    far_faces: int | None = None

    def face(
        self, corners: ArrayLike, color: tuple, outward: np.ndarray, glow: bool = False, glass: bool = False
    ) -> None:
        """Add a convex face; `outward` is any vector on its outer side."""
        self.faces.append((np.asarray(corners, float), color, outward, glow, glass))

    def hull(self, low: np.ndarray, high: np.ndarray, color: tuple, top: tuple | None = None) -> None:
        """Add a frustum of (4, 3) rings `low` and `high`: four sides and a lid."""
        centre = (low.mean(0) + high.mean(0)) / 2
        for i in range(4):
            j = (i + 1) % 4
            quad = np.array([low[i], low[j], high[j], high[i]])
            self.face(quad, color, quad.mean(0) - centre)
        self.face(high, top or color, np.array([0, 0, 1.0]))

    def close(self) -> Mesh:
        """Return the finished mesh."""
        corners, colors, outward, glow, glass = zip(*self.faces, strict=True)
        counts = np.array([len(face) for face in corners])
        points, first = np.concatenate(corners), np.cumsum(counts) - counts
        normals = np.cross(points[first + 1] - points[first], points[first + 2] - points[first])
        normals /= np.sqrt((normals**2).sum(1))[:, None]
        normals[(normals * np.array(outward)).sum(1) < 0] *= -1
        return Mesh(
            points,
            first[:, None] + np.minimum(np.arange(MAX_CORNERS), counts[:, None] - 1),
            counts,
            normals,
            np.array(colors, float),
            np.array(glow),
            np.array(glass),
            self.far_faces or len(self.faces),
        )


def ring(x0: float, x1: float, y: float, z: float) -> np.ndarray:
    """Return a (4, 3) rectangle at height z, symmetric in y."""
    return np.array([[x0, -y, z], [x1, -y, z], [x1, y, z], [x0, y, z]])


def box(length: float, width: float, height: float, color: tuple, z0: float = 0.0) -> Mesh:
    """Return a plain block from z0 to height."""
    maker = _MeshMaker()
    maker.hull(
        ring(-length / 2, length / 2, width / 2, z0), ring(-length / 2, length / 2, width / 2, height), color
    )
    return maker.close()


@dataclass(frozen=True, slots=True)
class CarStyle:
    """Proportions of a car body, as shares of its length and height."""

    belt: float
    hood: float
    windscreen: float
    rear_slope: float
    trunk: float


CAR_STYLES = {
    "sedan": CarStyle(0.60, 0.27, 0.15, 0.12, 0.16),
    "hatch": CarStyle(0.60, 0.24, 0.15, 0.08, 0.03),
    "suv": CarStyle(0.58, 0.25, 0.11, 0.05, 0.015),
    "van": CarStyle(0.55, 0.13, 0.12, 0.015, 0.01),
}


def car(style: CarStyle, length: float, width: float, height: float, color: tuple) -> Mesh:
    """Return a car: convex lower body, cabin with windows, wheels, lamps, plates.

    Args:
        style: proportions. length, width, height: m. color: RGB 0..255.
    """
    maker = _MeshMaker()
    half, y, belt = length / 2, width / 2, style.belt * height
    wheel, axles = min(0.36, 0.23 * height), (half * 0.62, -half * 0.60)
    for x in axles:
        for side in (1, -1):  # the inner sides, visible below the body
            _disc(maker, x, side * (y - 0.2), wheel, -side, (20, 20, 22), wheel)
    maker.hull(
        ring(-half * 0.9, half * 0.9, y * 0.9, 0.14), ring(-half * 0.9, half * 0.9, y * 0.9, 0.3), DARK
    )
    _car_body(maker, style, half, y, belt, color)
    for x in axles:
        for side in (1, -1):
            _disc(maker, x, side * (y + 0.012), wheel * 1.16, side, tuple(0.45 * c for c in color), wheel)
            _disc(maker, x, side * (y + 0.016), wheel, side, (24, 24, 26), wheel)
            _disc(maker, x, side * (y + 0.02), wheel * 0.58, side, (150, 152, 158), wheel)
    _car_cabin(maker, style, half, y, belt, height, color)
    maker.far_faces = len(maker.faces)
    _car_details(maker, half, y, belt, color)
    return maker.close()


def _disc(maker: _MeshMaker, x: float, y: float, radius: float, side: int, color: tuple, z: float) -> None:
    points = np.empty((MAX_CORNERS, 3))
    points[:, 0], points[:, 1] = x + radius * _CIRCLE[0], y
    points[:, 2] = np.maximum(z + radius * _CIRCLE[1], 0.0)
    maker.face(points, color, np.array([0, side, 0.0]))


def _car_body(maker: _MeshMaker, style: CarStyle, half: float, y: float, belt: float, color: tuple) -> None:
    nose = 0.78 * belt
    cowl = half - style.hood * 2 * half
    profile = np.array(
        [
            [half * 0.95, 0.24],
            [half, 0.42],
            [half, nose * 0.86],
            [half * 0.94, nose],
            [cowl, belt],
            [-half * 0.95, belt * 0.99],
            [-half, belt * 0.86],
            [-half, 0.42],
            [-half * 0.96, 0.24],
        ]
    )
    for i in range(len(profile) - 1):
        (xa, za), (xb, zb) = profile[i], profile[i + 1]
        maker.face(
            [[xa, -y, za], [xa, y, za], [xb, y, zb], [xb, -y, zb]],
            color,
            np.array([xa + xb, 0, 0.7 * (i in (3, 4)) * 9]),
        )
    for side in (1, -1):
        flat = np.column_stack([profile[:, 0], np.full(len(profile), side * y), profile[:, 1]])
        maker.face(flat, color, np.array([0, side, 0.0]))
        sill = [[half * 0.93, side * y, 0.24], [half * 0.93, side * y, 0.36], [-half * 0.93, side * y, 0.36]]
        maker.face(
            [*sill, [-half * 0.93, side * y, 0.24]], tuple(0.55 * c for c in color), np.array([0, side, 0.0])
        )


def _car_cabin(
    maker: _MeshMaker, style: CarStyle, half: float, y: float, belt: float, height: float, color: tuple
) -> None:
    length = 2 * half
    x0, x1 = -half + style.trunk * length, half - style.hood * length
    t0, t1 = x0 + style.rear_slope * length, x1 - style.windscreen * length
    low, high = ring(x0, x1, y * 0.97, belt * 0.985), ring(t0, t1, y * 0.78, height)
    maker.hull(low, high, color, tuple(min(255.0, 1.06 * c) for c in color))
    glass, centre = (38, 48, 58), (low.mean(0) + high.mean(0)) / 2
    for i in range(4):
        j = (i + 1) % 4
        a, b, c, d = low[i], low[j], high[j], high[i]
        spans = ((0.07, 0.93),) if i in (1, 3) else ((0.10, 0.49), (0.53, 0.90))
        for left, right in spans:
            edge = [
                _mix(_mix(a, b, u), _mix(d, c, u), v)
                for u, v in ((left, 0.1), (right, 0.1), (right, 0.86), (left, 0.86))
            ]
            maker.face(edge, glass, (a + c) / 2 - centre, glass=True)


def _mix(a: np.ndarray, b: np.ndarray, u: float) -> np.ndarray:
    return a + (b - a) * u


def _car_details(maker: _MeshMaker, half: float, y: float, belt: float, color: tuple) -> None:
    def plate(x: float, y0: float, y1: float, z0: float, z1: float, paint: tuple, glow: bool = False) -> None:
        maker.face([[x, y0, z0], [x, y1, z0], [x, y1, z1], [x, y0, z1]], paint, np.array([x, 0, 0.0]), glow)

    top, rear = 0.78 * belt * 0.85, 0.85 * belt
    for side in (1, -1):
        plate(half, side * y * 0.58, side * y * 0.96, top * 0.72, top, (250, 246, 228), True)
        plate(-half, side * y * 0.62, side * y * 0.98, rear * 0.7, rear, (205, 24, 26), True)
        handle = np.array([[0, 0, 0], [-0.2, 0, 0], [-0.2, 0, 0.04], [0, 0, 0.04]])
        maker.face(
            np.add(handle, (-0.05 * half, side * y, belt * 0.84)),
            tuple(0.6 * c for c in color),
            np.array([0, side, 0.0]),
        )
    plate(half, -y * 0.5, y * 0.5, top * 0.62, top * 0.85, (32, 32, 36))
    plate(half, -y * 0.9, y * 0.9, 0.3, 0.4, (48, 48, 52))
    plate(half, -0.26, 0.26, 0.42, 0.53, (226, 226, 220))
    plate(-half, -0.26, 0.26, rear * 0.72, rear * 0.72 + 0.11, (226, 226, 220))
    plate(-half, -y * 0.9, y * 0.9, 0.3, 0.42, (48, 48, 52))


def building(length: float, width: float, height: float, color: tuple, floors: int, columns: int) -> Mesh:
    """Return a building: a block with window bands, pillars, and a darker ground floor.

    Args:
        length, width, height: m. color: RGB. floors: window bands. columns: pillars per side.
    """
    maker = _MeshMaker()
    low, high = ring(-length / 2, length / 2, width / 2, 0), ring(-length / 2, length / 2, width / 2, height)
    maker.hull(low, high, color, tuple(0.7 * c for c in color))
    glass, base = tuple(0.25 * c + 30 for c in color), tuple(0.72 * c for c in color)
    sides = [(low[i], low[(i + 1) % 4]) for i in range(4)]
    up = np.array([0, 0, 1.0])
    for a, b in sides:
        out = (a + b) / 2
        maker.face([a, b, b + up * 3, a + up * 3], base, out)
        for floor in range(floors):
            z = 3.0 + (height - 3.4) * (floor + 0.28) / floors
            z1 = z + (height - 3.4) * 0.5 / floors
            p, q = _mix(a, b, 0.05), _mix(a, b, 0.95)
            maker.face([p + up * z, q + up * z, q + up * z1, p + up * z1], glass, out, glass=True)
    maker.far_faces = len(maker.faces)
    for a, b in sides:
        for i in range(1, columns):
            p, q = _mix(a, b, (i - 0.18) / columns), _mix(a, b, (i + 0.18) / columns)
            maker.face([p + up * 3, q + up * 3, q + up * height, p + up * height], color, (a + b) / 2)
    return maker.close()


def trailer(length: float, width: float, height: float, color: tuple) -> Mesh:
    """Return a parked box trailer: not a car, but with wheels and lamps."""
    maker = _MeshMaker()
    half, y = length / 2, width / 2
    maker.hull(ring(-half, half, y, 0.5), ring(-half, half, y, height), color)
    for side in (1, -1):
        _disc(maker, -0.2, side * (y + 0.01), 0.33, side, (24, 24, 26), 0.33)
    band = [[-half, y * 0.9, 0.55], [-half, -y * 0.9, 0.55], [-half, -y * 0.9, 0.65], [-half, y * 0.9, 0.65]]
    maker.face(band, (190, 60, 40), np.array([-1.0, 0, 0]))
    return maker.close()
