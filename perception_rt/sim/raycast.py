"""Ray casting from one point: intersects the rays of a spinning sensor with convex faces and capsules.

A ray is ``rho * (cos(azimuth), sin(azimuth), tan(elevation))``, so ``rho`` is the horizontal range. Rays are
numbered ``column * rings + ring``, as a spinning sensor fires them.

Faces are rasterised: in the vertical plane of one azimuth a convex face is an interval of tan(elevation),
bounded by the planes through the sensor and the face's edges, and the rings inside it are hits. Capsules are
only a few rays wide, so every ray of their window is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FACING_M = 1e-6  # distance behind a face's plane that still counts as its front
Hits = tuple[np.ndarray, np.ndarray, np.ndarray]  # index of the face or capsule, of the ray, and rho in m


@dataclass(frozen=True, slots=True, eq=False)
class RayGrid:
    """The directions of one revolution.

    Attributes:
        cos, sin: (C,) of the columns' azimuths, which grow evenly from `start`, rad.
        tan: (R,) of the rings' elevations, ascending.
    """

    cos: np.ndarray
    sin: np.ndarray
    tan: np.ndarray
    start: float

    @classmethod
    def of(cls, columns: int, elevations: np.ndarray, start: float) -> RayGrid:
        """Return a grid of `columns` azimuths from `start` [rad] on and (R,) ascending `elevations` [rad]."""
        azimuth = start + np.arange(columns) * (2 * np.pi / columns)
        return cls(np.cos(azimuth), np.sin(azimuth), np.tan(elevations), start)

    def columns_between(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first column from azimuth `low` on and their number up to `high` [rad]; may wrap."""
        step = 2 * np.pi / len(self.cos)
        first = np.ceil((low - self.start) / step).astype(np.int64)
        last = np.floor((high - self.start) / step).astype(np.int64)
        return first, np.clip(last - first + 1, 0, len(self.cos))

    def rings_between(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first ring from tan(elevation) `low` on, and the number up to `high`."""
        first = np.searchsorted(self.tan, low, "left")
        return first, np.maximum(np.searchsorted(self.tan, high, "right") - first, 0)


def spread(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expand ranges: the index of each range, repeated, and ``first, first + 1, ...``."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) + np.repeat(first - (np.cumsum(counts) - counts), counts)


def cast_faces(grid: RayGrid, corners: np.ndarray, normals: np.ndarray) -> Hits:
    """Return all hits on the front of convex faces, with the sensor at the origin.

    Args:
        grid: the rays. corners: (F, K, 3) m, padded by repeating the last corner.
        normals: (F, 3) unit, outward; a face turned away is not hit.
    """
    offset = dot(normals, corners[:, 0])
    front = np.flatnonzero(offset < -FACING_M)
    corners, normals, offset = corners[front], normals[front], offset[front]
    centre = corners.mean(1)
    middle = np.arctan2(centre[:, 1], centre[:, 0])
    away = np.arctan2(corners[..., 1], corners[..., 0]) - middle[:, None]
    away = (away + np.pi) % (2 * np.pi) - np.pi
    first, counts = grid.columns_between(middle + away.min(1), middle + away.max(1))
    face, column = spread(first, counts)
    column %= len(grid.cos)
    low, high = _face_spans(grid, corners, centre, face, column)
    nx, ny, nz = normals.T
    level = nx[face] * grid.cos[column] + ny[face] * grid.sin[column]
    pair, ring = spread(*grid.rings_between(low, high))
    face = face[pair]
    rho = offset[face] / (level[pair] + nz[face] * grid.tan[ring])
    return front[face], (column * len(grid.tan))[pair] + ring, rho


def _face_spans(
    grid: RayGrid, corners: np.ndarray, centre: np.ndarray, face: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum tan(elevation) of a face in a column, for pairs of them."""
    edges = _cross(corners, np.roll(corners, -1, 1))  # normals of the planes through sensor and edge
    edges *= np.sign(dot(edges, centre[:, None]))[..., None]  # turned inward
    # A vertical edge bounds the azimuth only; a repeated corner bounds nothing.
    upright = np.abs(edges[..., 2]) <= 1e-9 * dot(corners, corners)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(upright[..., None], np.nan, -edges[..., :2] / edges[..., 2:])
    cos, sin = grid.cos[column], grid.sin[column]
    low, high = np.full(len(face), -np.inf), np.full(len(face), np.inf)
    below, above = ~upright & (edges[..., 2] > 0), ~upright & (edges[..., 2] <= 0)
    for k in range(corners.shape[1]):  # edge by edge, as most faces use four of the ten padded corners
        for side, span, tighter in ((below, low, np.maximum), (above, high, np.minimum)):
            pairs = np.flatnonzero(side[:, k][face])
            f = face[pairs]
            bound = slope[..., 0][f, k] * cos[pairs] + slope[..., 1][f, k] * sin[pairs]
            span[pairs] = tighter(span[pairs], bound)
    return low, high


def cast_capsules(grid: RayGrid, a: np.ndarray, b: np.ndarray, radius: np.ndarray) -> Hits:
    """Return all hits on capsules (balls if the ends coincide), with the sensor at the origin, outside them.

    Args:
        grid: the rays. a, b: (K, 3) ends, m. radius: (K,) m.
    """
    capsule, column, ring = _capsule_windows(grid, a, b, radius)
    # Component by component: (3, N) arrays, seen as (N, 3).
    d = np.stack([grid.cos[column], grid.sin[column], grid.tan[ring]]).T
    a, axis, squared = a.T[:, capsule].T, (b - a).T[:, capsule].T, (radius**2)[capsule]
    axis_axis, axis_d, axis_a = dot(axis, axis), dot(axis, d), dot(axis, a)
    d_d, d_a = 1 + d[:, 2] ** 2, dot(d, a)
    # The side: |rho d - a|^2 less its part along the axis is radius^2.
    qa = axis_axis * d_d - axis_d**2
    qb = axis_axis * d_a - axis_a * axis_d
    qc = axis_axis * (dot(a, a) - squared) - axis_a**2
    inside = qb**2 - qa * qc
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = (qb - np.sqrt(inside)) / qa
        along = rho * axis_d - axis_a
    side = (qa > 1e-9) & (inside >= 0) & (along > 0) & (along < axis_axis)
    ends = np.minimum(_meet_ball(d, d_d, a, squared), _meet_ball(d, d_d, a + axis, squared))
    rho = np.where(side, rho, ends)
    hit = np.isfinite(rho) & (rho > 0)
    return capsule[hit], (column * len(grid.tan) + ring)[hit], rho[hit]


def _meet_ball(d: np.ndarray, d_d: np.ndarray, centre: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Return (N,) rho at which rays d enter balls; infinite for a miss."""
    d_c = dot(d, centre)
    inside = d_c**2 - d_d * (dot(centre, centre) - squared)
    return np.where(inside >= 0, (d_c - np.sqrt(np.maximum(inside, 0))) / d_d, np.inf)


def _capsule_windows(
    grid: RayGrid, a: np.ndarray, b: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return capsule, column and ring of every ray that may hit."""
    reach = [np.hypot(end[:, 0], end[:, 1]) for end in (a, b)]
    azimuth = [np.arctan2(end[:, 1], end[:, 0]) for end in (a, b)]
    turn = (azimuth[1] - azimuth[0] + np.pi) % (2 * np.pi) - np.pi
    half = [np.arcsin(radius / np.maximum(r, radius)) for r in reach]
    distance = _nearest(a, b)
    over = distance <= radius  # a capsule above the sensor may be at any azimuth
    low = np.where(over, -np.pi, azimuth[0] + np.minimum(-half[0], turn - half[1]))
    high = np.where(over, np.pi, azimuth[0] + np.maximum(half[0], turn + half[1]))
    near = np.maximum(distance - radius, 1e-3)
    far = np.maximum(*reach) + radius
    bottom, top = np.minimum(a[:, 2], b[:, 2]) - radius, np.maximum(a[:, 2], b[:, 2]) + radius
    first, counts = grid.rings_between(
        bottom / np.where(bottom < 0, near, far), top / np.where(top < 0, far, near)
    )
    first_column, columns = grid.columns_between(low, high)
    capsule, column = spread(first_column, np.where(counts > 0, columns, 0))
    pair, ring = spread(first[capsule], counts[capsule])
    return capsule[pair], column[pair] % len(grid.cos), ring


def _nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (K,) minimum horizontal distance of segments from the origin."""
    axis = (b - a)[:, :2]
    u = np.clip(-(a[:, :2] * axis).sum(-1) / np.maximum((axis**2).sum(-1), 1e-12), 0, 1)
    return np.hypot(*(a[:, :2] + u[:, None] * axis).T)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (...,) scalar products of (..., 3) vectors."""
    # Column by column: a reduction over an axis of three runs one element at a time.
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (ax, ay, az), (bx, by, bz) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def nearest(rays: int, hits: list[Hits], bias: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first hit on each ray.

    Args:
        rays: number of rays. hits: results of casts; parts are numbered from cast to cast.
        bias: distance, m, by which a part counts as nearer, per cast; decides between touching faces.

    Returns:
        (rays,) number of the part, -1 for none, and (rays,) rho, infinite for none.
    """
    starts = np.cumsum([0, *(len(b) for b in bias)])
    part = np.concatenate([index + start for (index, _, _), start in zip(hits, starts, strict=False)])
    ray, rho = (np.concatenate([hit[i] for hit in hits]) for i in (1, 2))
    key = rho - np.concatenate(bias)[part]
    least = np.full(rays, np.inf)
    np.minimum.at(least, ray, key)
    won = np.flatnonzero(key == least[ray])
    ray = ray[won]
    owner, distance = np.full(rays, -1), np.full(rays, np.inf)
    owner[ray], distance[ray] = part[won], rho[won]
    return owner, distance
