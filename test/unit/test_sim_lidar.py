"""The simulated lidar: rays end where they should, and the truth says what the cloud shows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.sim.drive import Drive
from perception_rt.sim.lidar import (
    DROPOUT,
    ELEVATIONS,
    FALLOFF_M,
    LIDAR_POSITION,
    MAX_RANGE_M,
    MIN_RANGE_M,
    RANGE_SIGMA_M,
    LidarSample,
    scan,
)
from perception_rt.sim.path import SimulatedEgo
from perception_rt.sim.raycast import RayGrid
from perception_rt.sim.scene import to_base
from perception_rt.sim.solids import solids_of
from perception_rt.sim.terrain import Terrain
from perception_rt.sim.world import World, WorldObjects
from perception_rt.types import ConfigError
from test.simulated_clouds import inside

from .test_sim_render import placed

CAR, PEDESTRIAN, CYCLIST = range(3)
GRID = RayGrid.of(1080, ELEVATIONS, -np.pi)


@lru_cache(maxsize=4)
def drive(seed: int) -> Drive:
    return Drive(seed, (64, 64))


@lru_cache(maxsize=16)
def cloud(seed: int, t: float) -> LidarSample:
    return drive(seed).lidar(t)


@lru_cache(maxsize=1)
def plain() -> tuple[Terrain, SimulatedEgo]:
    world = World(1)
    return Terrain(world), world.ego.state(0.0)


def seen(
    *things: tuple[str, float, float, float], seed: int = 1
) -> tuple[np.ndarray, np.ndarray, WorldObjects]:
    """Points, owners and things given as (kind, x, y, yaw) in base_link, on an otherwise empty road."""
    terrain, ego = plain()
    objects = placed(*things, seed=seed)
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    x, y = objects.xyz[:, 0].copy(), objects.xyz[:, 1].copy()
    objects.xyz[:, 0], objects.xyz[:, 1] = ego.x + c * x - s * y, ego.y + s * x + c * y
    objects.yaw[:] += ego.yaw
    points, owner = scan(GRID, terrain, ego, 0.0, objects, np.random.default_rng(0))
    return points, owner, objects


def test_any_time_in_any_order_gives_the_same_cloud():
    times = [0.0, 0.1, 7.3]
    first, second = Drive(3, (64, 64)), Drive(3, (320, 200))
    second.sample(1.0)
    forward = [first.lidar(t) for t in times]
    backward = [second.lidar(t) for t in reversed(times)][::-1]
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a.points, b.points)
        np.testing.assert_array_equal(a.truth.xyzlwh_yaw, b.truth.xyzlwh_yaw)
        np.testing.assert_array_equal(a.truth_points, b.truth_points)
    assert len(forward[0].points) != len(forward[1].points)
    assert forward[1].stamp_ns == 100_000_000


def test_the_camera_sees_the_same_with_and_without_a_lidar():
    alone, both = Drive(2, (160, 96)), Drive(2, (160, 96))
    both.lidar(4.0)
    np.testing.assert_array_equal(alone.sample(4.0).image, both.sample(4.0).image)


def test_looking_farther_back_adds_things_and_changes_none():
    world = drive(1).world
    camera, lidar = world.objects(20.0), world.objects(20.0, behind=60.0)
    row = {key: i for i, key in enumerate(lidar.ids.tolist())}
    rows = [row[key] for key in camera.ids.tolist()]
    np.testing.assert_array_equal(lidar.xyz[rows], camera.xyz)
    np.testing.assert_array_equal(lidar.velocity[rows], camera.velocity)
    assert len(lidar) > len(camera)


@pytest.mark.parametrize("seed", range(4))
def test_a_cloud_has_the_form_of_a_64_ring_sensor(seed):
    points = cloud(seed, 2.0).points
    assert points.dtype == np.float32
    assert 45_000 < len(points) < 70_000
    assert np.isfinite(points).all()
    assert (points[:, 3] >= 0).all()
    assert (points[:, 3] <= 1).all()
    x, y, z = points[:, :3].astype(float).T
    distance = np.sqrt(x * x + y * y + z * z)
    assert distance.min() >= MIN_RANGE_M - 0.1
    assert distance.max() <= MAX_RANGE_M + 2
    elevation = np.arctan2(z, np.hypot(x, y))
    ring = np.abs(elevation[:, None] - ELEVATIONS).argmin(1)
    assert np.abs(elevation - ELEVATIONS[ring]).max() < 1e-5
    assert len(np.unique(ring)) == 64
    azimuth = np.arctan2(y, x) / (2 * np.pi / 1080)
    column = np.rint((azimuth - azimuth[0]) % 1080).astype(int) % 1080
    assert len(np.unique(column * 64 + ring)) == len(points)
    assert (np.diff(np.unwrap(np.arctan2(y, x))) > -1e-6).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_cloud_and_its_truth_reach_all_around(seed):
    sample = cloud(seed, 12.0)
    x, y = sample.points[:, 0], sample.points[:, 1]
    counts = np.histogram(np.arctan2(y, x), 8, (-np.pi, np.pi))[0]
    assert counts.min() > 0.08 * len(x)
    boxes = sample.truth.xyzlwh_yaw
    assert (boxes[:, 0] < -15).sum() > 2
    assert (boxes[:, 0] > 15).sum() > 2
    assert (np.hypot(boxes[:, 0], boxes[:, 1]) <= MAX_RANGE_M).all()
    assert sample.truth_points[boxes[:, 0] < -15].sum() > 20
    assert sample.truth_points[boxes[:, 0] > 15].sum() > 20


def test_things_far_behind_are_seen_too():
    behind = [cloud(seed, 12.0).truth.xyzlwh_yaw[:, 0] < -45 for seed in range(4)]
    assert sum(rows.sum() for rows in behind) >= 4
    hits = [cloud(seed, 12.0).truth_points[rows].sum() for seed, rows in enumerate(behind)]
    assert sum(hits) > 10


def test_truth_is_that_of_the_vehicle_moved_to_the_sensor():
    sample, base = cloud(1, 6.0), drive(1).objects3d(6.0)
    row = {key: i for i, key in enumerate(sample.truth_ids.tolist())}
    shared = [(row[key], i) for i, key in enumerate(base.ids.tolist()) if key in row]
    assert len(shared) > 10
    a, b = np.array(shared).T
    moved = base.xyzlwh_yaw[b] - np.array([*LIDAR_POSITION, 0, 0, 0, 0])
    np.testing.assert_allclose(sample.truth.xyzlwh_yaw[a], moved, atol=1e-4)
    np.testing.assert_array_equal(sample.truth.labels[a], base.labels[b])
    np.testing.assert_allclose(sample.truth_velocity[a], base.velocity[b])
    assert (sample.truth.scores == 1).all()


# A walker's limbs swing out of the box, which is that of the trunk; tyres and hubs stand out a little.
@pytest.mark.parametrize(("label", "margin"), [(CAR, 0.1), (PEDESTRIAN, 0.4), (CYCLIST, 0.15)])
def test_points_counted_for_a_box_lie_in_it(label, margin):
    checked = 0
    for seed in range(4):
        sample = cloud(seed, 5.0)
        for box, n in zip(
            sample.truth.xyzlwh_yaw[sample.truth.labels == label],
            sample.truth_points[sample.truth.labels == label],
            strict=True,
        ):
            if n >= 5:
                assert inside(sample.points, box, margin).sum() >= 0.97 * n
                checked += 1
    assert checked >= 5


@pytest.mark.parametrize("kind", ["car", "pedestrian", "cyclist"])
@pytest.mark.parametrize("yaw", [0.0, 0.8, 2.4, 4.0])
def test_points_of_a_lone_thing_are_those_above_the_ground(kind, yaw):
    points, owner, objects = seen((kind, 11.0, 3.0, yaw))
    box = np.array([10.0, 3.0, objects.xyz[0, 2] - LIDAR_POSITION[2], *objects.lwh[0], yaw])
    above = (np.hypot(points[:, 0] - 10, points[:, 1] - 3) < 4) & (points[:, 2] > -1.7)
    assert (owner[above] == 0).all()
    assert (owner == 0).sum() > {"car": 300, "pedestrian": 40, "cyclist": 60}[kind]
    assert inside(points[owner == 0], box, {"car": 0.1, "pedestrian": 0.15, "cyclist": 0.15}[kind]).all()
    # The cloud fills the box up to its top and from end to end of what can be seen.
    assert points[above, 2].max() > box[2] + box[5] / 2 - 0.2
    c, s = np.cos(yaw), np.sin(yaw)
    local = points[owner == 0, :2] - box[:2]
    across = np.ptp(local @ (-s, c))
    assert across > 0.7 * box[4]


def test_a_car_has_a_bonnet_and_a_cabin():
    points, owner, objects = seen(("car", 14.0, 3.0, np.pi))
    x, z = points[owner == 0, 0] + 1, points[owner == 0, 2] + LIDAR_POSITION[2]
    length, _, height = objects.lwh[0]
    bonnet, cabin = x < 14 - 0.42 * length, np.abs(x - 14) < 0.2 * length
    assert bonnet.sum() > 50
    assert z[bonnet].max() < 0.68 * height
    assert z[cabin].max() > 0.95 * height


@pytest.mark.parametrize("wall", ["trailer", "building"])
def test_what_stands_behind_a_wall_gets_no_points(wall):
    hidden = ("pedestrian", 34.0, 0.0, 0.0)
    _, owner, _ = seen(hidden, seed=3)
    assert (owner == 0).sum() > 5
    points, owner, objects = seen(hidden, (wall, 17.0, 0.0, np.pi / 2), seed=3)
    assert objects.lwh[1, 2] > LIDAR_POSITION[2] + 0.1  # no looking over it
    assert (owner == 0).sum() == 0
    assert (owner == 1).sum() > 100
    shadow = (np.abs(points[:, 1]) < 0.3) & (points[:, 0] > 24) & (points[:, 0] < 33)
    assert not shadow.any()


def test_foliage_lets_some_rays_through_and_is_deep():
    points, owner, objects = seen(("building", 35.0, 0.0, 0.0), ("tree", 16.0, 0.0, 0.0), seed=4)
    crown = (owner == 1) & (points[:, 2] > 0.2)
    assert crown.sum() > 20
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    middle = np.ones(len(points), bool)
    for angle in (azimuth, elevation):
        low, high = np.percentile(angle[crown], [15, 85])
        middle &= (angle > low) & (angle < high)
    assert (owner[middle] == 0).sum() > 3
    assert (owner[middle] == 1).sum() > (owner[middle] == 0).sum()
    shape = objects.entities[1].shape
    balls = shape.ends[:, 0] == shape.ends[:, 1]
    centres = shape.points[shape.ends[balls, 0]] + (16.0, 0.0, 0.0) - LIDAR_POSITION
    outside = np.linalg.norm(points[crown, None, :3] - centres, axis=-1) - shape.radii[balls]
    off_all_surfaces = np.abs(outside).min(1) > 4 * RANGE_SIGMA_M
    assert off_all_surfaces.mean() > 0.25


def test_intensity_falls_with_range_and_incidence():
    def mean(x: float, turned: float) -> float:
        points, owner, _ = seen(("trailer", x + LIDAR_POSITION[0], 0.0, np.pi / 2 + turned), seed=3)
        return points[(owner == 0) & (np.abs(points[:, 1]) < 0.2) & (points[:, 2] > -1.0), 3].mean()

    def fall(x: float) -> float:
        return 1 + (x / FALLOFF_M) ** 2

    assert mean(20, 0) / mean(60, 0) == pytest.approx(fall(60) / fall(20), rel=0.1)
    assert mean(20, np.pi / 4) / mean(20, 0) == pytest.approx(0.5**0.25, rel=0.07)


def test_what_is_painted_onto_a_face_lies_before_it():
    # Turned, so that windows on two sides face the sensor.
    objects = placed(("car", 10.0, 0.0, 0.5), ("pedestrian", 14.0, 0.0, 0.0), ("building", 30.0, 0.0, 0.5))
    solids = solids_of(SimulatedEgo(0, 0, 0, 0, 0, 0), objects, LIDAR_POSITION, 100.0)
    for row in (0, 2):
        assert (np.diff(solids.bias[solids.owner == row]) > 0).all()
        assert solids.glass[solids.owner == row].sum() >= 2
        assert solids.bias[solids.owner == row].max() < RANGE_SIGMA_M
    assert not solids.glass[solids.owner == 1].any()


@pytest.mark.parametrize("seed", range(3))
def test_the_ground_is_flat_to_some_centimetres(seed):
    terrain, ego = Terrain(World(seed)), World(seed).ego.state(3.0)
    points, owner = scan(GRID, terrain, ego, World(seed).ego.s(3.0), empty(), np.random.default_rng(0))
    assert (owner == -1).all()
    z = points[:, 2] + LIDAR_POSITION[2]
    near = np.hypot(points[:, 0], points[:, 1]) < 40
    x, y = points[near, 0] + LIDAR_POSITION[0], points[near, 1] + LIDAR_POSITION[1]
    height, _ = terrain.ground(ego, World(seed).ego.s(3.0), x.astype(float), y.astype(float))
    assert np.corrcoef(z[near], height)[0, 1] > 0.6
    assert abs(z[near].mean()) < 0.02
    assert 0.005 < z[near].std() < 0.06
    assert np.abs(z).max() < 0.25


def empty() -> WorldObjects:
    flat = np.zeros(0)
    return WorldObjects((), flat, flat, np.zeros((0, 3)), np.zeros((0, 3)), flat, np.zeros((0, 2)), flat)


def test_range_noise_and_dropouts_are_as_declared():
    points, owner, objects = seen(("trailer", 15.0, 0.0, np.pi / 2))
    face = 14.0 - objects.lwh[0, 1] / 2
    side = (owner == 0) & (points[:, 2] > -1.2) & (np.abs(points[:, 1]) < objects.lwh[0, 0] / 2 - 0.1)
    side &= np.abs(points[:, 0] - face) < 0.3
    p = points[side, :3].astype(float)
    stretch = np.sqrt((p**2).sum(1)) / p[:, 0]
    noise = (p[:, 0] - face) * stretch
    assert len(noise) > 500
    assert noise.std() == pytest.approx(RANGE_SIGMA_M, rel=0.12)
    assert abs(noise.mean()) < 4 * RANGE_SIGMA_M / np.sqrt(len(noise))
    # Count the rays that were fired at the same window of the wall.
    azimuth, elevation = np.arctan2(p[:, 1], p[:, 0]), np.arctan2(p[:, 2], np.hypot(p[:, 0], p[:, 1]))
    columns = round(np.ptp(azimuth) / (2 * np.pi / 1080)) + 1
    rings = len(np.unique(np.abs(elevation[:, None] - ELEVATIONS).argmin(1)))
    assert len(p) / (columns * rings) == pytest.approx(1 - DROPOUT, abs=0.03)


def test_far_and_grazing_ground_returns_less_and_glass_mostly_nothing():
    terrain, ego = plain()
    points, _ = scan(GRID, terrain, ego, 0.0, empty(), np.random.default_rng(0))
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    returned = np.bincount(np.abs(elevation[:, None] - ELEVATIONS).argmin(1), minlength=64) / 1080
    fired = LIDAR_POSITION[2] / np.maximum(-np.sin(ELEVATIONS), 1e-9)
    rates = [returned[(fired > low) & (fired < high)].mean() for low, high in ((4, 15), (30, 50), (60, 95))]
    assert rates[0] == pytest.approx(1 - DROPOUT, abs=0.01)
    assert rates[0] > rates[1] > 1.25 * rates[2]
    assert returned[fired > 110].sum() == 0
    points, owner, objects = seen(("car", 9.0, 0.0, np.pi / 2))
    height_over = points[owner == 0, 2] + LIDAR_POSITION[2]
    body, window = (
        ((height_over > a * objects.lwh[0, 2]) & (height_over < b * objects.lwh[0, 2])).sum()
        for a, b in ((0.33, 0.53), (0.65, 0.85))
    )
    assert window < 0.7 * body


def test_markings_are_brighter_than_the_asphalt():
    terrain, ego = plain()
    points, _ = scan(GRID, terrain, ego, 0.0, empty(), np.random.default_rng(0))
    x, y = points[:, 0] + LIDAR_POSITION[0], points[:, 1] + LIDAR_POSITION[1]
    near = np.hypot(x, y) < 25
    _, d = terrain.road_coordinates(ego, 0.0, x.astype(float), y.astype(float))
    line = near & (np.abs(d - terrain.world.right_edge) < 0.04)
    lane = near & (np.abs(d) < 1.0)
    assert line.sum() > 20
    assert points[line, 3].mean() > 2 * points[lane, 3].mean()


def test_kerbs_stand_beside_the_road_and_not_across_side_streets():
    world = drive(0).world
    terrain = Terrain(world)
    s = next(place for place in world.streets(40, 400))
    t = world.ego.arrival(s)
    ego = world.ego.state(t)
    corners, _ = terrain.kerbs(ego, s)
    middle = corners.mean(1)
    along, d = terrain.road_coordinates(ego, s, middle[:, 0], middle[:, 1])
    edges = np.array([world.right_edge - 2.4, world.left_edge + 2.4])
    assert np.abs(d[:, None] - edges).min(1).max() < 0.12
    assert np.abs(along - s).min() > 3.5
    assert corners[..., 2].max() == pytest.approx(0.12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 5), t=st.floats(0, 200), s=st.floats(-70, 70), d=st.floats(-15, 15))
def test_road_coordinates_are_found_again(seed, t, s, d):
    world = drive(seed).world
    ego, ego_s = world.ego.state(t), world.ego.s(t)
    x, y, _ = world.path.position(np.array([ego_s + s]), d)
    found_s, found_d = Terrain(world).road_coordinates(ego, ego_s, *to_base(ego, x, y))
    assert found_s[0] == pytest.approx(ego_s + s, abs=0.1)
    assert found_d[0] == pytest.approx(d, abs=0.03)


@pytest.mark.parametrize("steps", [0, -1, 15, 20_000, 7.5, "64"])
def test_bad_steps_are_named(steps):
    with pytest.raises(ConfigError, match="azimuth_steps="):
        Drive(0, (64, 64), azimuth_steps=steps)


@pytest.mark.parametrize("t", [-0.1, float("nan"), float("inf")])
def test_bad_times_are_named(t):
    with pytest.raises(ConfigError, match="t_s="):
        drive(0).lidar(t)


def test_more_steps_give_a_denser_cloud():
    few, many = (Drive(1, (64, 64), azimuth_steps=n).lidar(1.0) for n in (360, 2160))
    assert len(many.points) == pytest.approx(6 * len(few.points), rel=0.05)
    near = few.truth_points > 30
    assert near.any()
    np.testing.assert_allclose(many.truth_points[near] / few.truth_points[near], 6, rtol=0.35)


def test_unevenness_is_the_sum_of_its_waves_far_from_the_origin_too():
    terrain = Terrain(World(3))
    x, y = np.random.default_rng(0).uniform(-20_000, 20_000, (2, 5000))
    angle = x[:, None] * terrain._wave[0] + y[:, None] * terrain._wave[1] + terrain._phase
    expected = np.sin(angle).sum(-1) * np.sqrt(2 / len(terrain._phase))
    np.testing.assert_allclose(terrain.unevenness(x, y), expected, atol=2e-6)
