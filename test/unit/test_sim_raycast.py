"""The ray caster against plain geometry, one ray at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perception_rt.sim.raycast import RayGrid, cast_capsules, cast_faces, nearest

GRID = RayGrid.of(90, np.deg2rad(np.linspace(-40, 40, 21)), -np.pi + 0.003)
RINGS = len(GRID.tan)
RAYS = np.stack([
    np.repeat(GRID.cos, RINGS),
    np.repeat(GRID.sin, RINGS),
    np.tile(GRID.tan, len(GRID.cos)),
], -1)  # fmt: skip


def convex_face(rng: np.random.Generator, corners: int) -> tuple[np.ndarray, np.ndarray]:
    """A random convex polygon in space, padded, with a normal that looks at the origin."""
    normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    centre = rng.uniform(4, 12) * np.array([*np.roll([1, 0], rng.integers(2)), rng.uniform(-0.5, 0.5)])
    centre[:2] *= rng.choice([-1, 1], 2)
    if normal @ centre > 0:
        normal = -normal
    u = np.cross(normal, (0.3, 0.2, 1.0))
    u /= np.linalg.norm(u)
    v = np.cross(normal, u)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    points = centre + rng.uniform(0.5, 3) * (np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v)
    return np.concatenate([points, np.repeat(points[-1:], 10 - corners, 0)]), normal


def meet_face(corners: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rays,) rho of the face's plane, and by how much a ray is inside of all edges, m."""
    rho = (normal @ corners[0]) / (RAYS @ normal)
    points = RAYS * rho[:, None]
    depth = np.full(len(RAYS), np.inf)
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        edge = np.linalg.norm(b - a)
        if edge > 0:
            inward = np.cross(normal, b - a) / edge
            inward *= np.sign(inward @ (corners.mean(0) - a))
            depth = np.minimum(depth, (points - a) @ inward)
    return rho, np.where(rho > 0, depth, -np.inf)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), corners=st.integers(3, 10))
def test_faces_are_hit_where_the_plane_is_met_inside_the_edges(seed, corners):
    points, normal = convex_face(np.random.default_rng(seed), corners)
    _, ray, rho = cast_faces(GRID, points[None], normal[None])
    expected, depth = meet_face(points, normal)
    got = np.zeros(len(RAYS), bool)
    got[ray] = True
    assert len(np.unique(ray)) == len(ray)
    clear = np.abs(depth) > 1e-6
    np.testing.assert_array_equal(got[clear], depth[clear] > 0)
    np.testing.assert_allclose(rho, expected[ray], rtol=1e-9)
    _, behind, _ = cast_faces(GRID, points[None], -normal[None])
    assert len(behind) == 0


def distance_to_segment(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    axis = b - a
    u = np.clip(((points - a) @ axis) / max(axis @ axis, 1e-12), 0, 1)
    return np.linalg.norm(points - a - u[..., None] * axis, axis=-1)


@settings(max_examples=60, deadline=None)
@example(seed=6, ball=False, overhead=False)  # passes over the sensor between its ends
@given(seed=st.integers(0, 10**6), ball=st.booleans(), overhead=st.booleans())
def test_capsules_are_hit_where_their_distance_field_is_met(seed, ball, overhead):
    rng = np.random.default_rng(seed)
    a = rng.uniform(-6, 6, 3)
    if overhead:  # reaches over the sensor, where azimuth means little
        a = np.array([*rng.uniform(-0.5, 0.5, 2), 3.0])
    b = a if ball else a + rng.uniform(-3, 3, 3) * (1, 1, 0.2 if overhead else 1)
    radius = rng.uniform(0.05, 0.9)
    if distance_to_segment(np.zeros(3), a, b) < radius + 0.3:
        return
    _, ray, rho = cast_capsules(GRID, a[None], b[None], np.array([radius]))
    # What is hit lies on the surface, and nothing of the capsule lies before it.
    hit = RAYS[ray]
    np.testing.assert_allclose(distance_to_segment(hit * rho[:, None], a, b), radius, atol=1e-6)
    before = hit[:, None] * (rho[:, None] * np.linspace(0, 0.999, 40))[..., None]
    assert (distance_to_segment(before, a, b) > radius - 1e-9).all()
    # And every ray that comes clearly closer than the radius is among them.
    reach = np.linspace(0, 14, 300)
    closest = np.min([distance_to_segment(RAYS * r, a, b) for r in reach], axis=0)
    missed = np.ones(len(RAYS), bool)
    missed[ray] = False
    assert (closest[missed] > radius - 1e-6).all()


def test_the_nearest_part_wins_and_touching_parts_go_by_their_bias():
    first = (np.array([0, 1, 0]), np.array([5, 5, 7]), np.array([3.0, 2.0, 4.0]))
    second = (np.array([0, 0]), np.array([7, 8]), np.array([4.0, 9.0]))
    owner, rho = nearest(10, [first, second], [np.zeros(2), np.full(1, 1e-3)])
    assert owner.tolist() == [-1, -1, -1, -1, -1, 1, -1, 2, 2, -1]
    assert rho[[5, 7, 8]].tolist() == [2.0, 4.0, 9.0]
    assert np.isinf(rho[owner < 0]).all()


def test_nothing_to_cast_at_is_no_hit():
    assert len(cast_faces(GRID, np.zeros((0, 10, 3)), np.zeros((0, 3)))[0]) == 0
    assert len(cast_capsules(GRID, np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))[0]) == 0
