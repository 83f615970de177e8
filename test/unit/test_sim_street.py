"""Streets for the lidar: they repeat by seed, truth fits the cloud, leaves and fences let light through."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.sim.fronts import FRONTS, bush, tree
from perception_rt.sim.lidar import MAX_RANGE_M, MIN_POINTS, LidarSample, Receiver, meet_solids, returns
from perception_rt.sim.raycast import RayGrid
from perception_rt.sim.sensors import TURN_S, LidarModel
from perception_rt.sim.solids import Solids
from perception_rt.sim.street import street_cloud
from perception_rt.sim.surroundings import Surroundings
from test.simulated_clouds import inside

SEEDS = range(24)
GRID = RayGrid.of(720, np.deg2rad(np.linspace(-20, 10, 61)), -np.pi)
HEIGHT = 1.8


@lru_cache(maxsize=64)
def street(seed: int) -> LidarSample:
    return street_cloud(seed)


def cast(around: Surroundings) -> tuple[np.ndarray, np.ndarray]:
    """Points and owners of what stands alone, from HEIGHT above it."""
    flat = np.zeros(0)
    nothing = Solids(
        np.zeros((0, 10, 3)), np.zeros((0, 3)), np.zeros((2, 0, 3)), flat,
        flat.astype(int), flat, flat.astype(bool), flat, flat, flat,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    surface = meet_solids(GRID, around.joined(nothing, HEIGHT), rng)
    return returns(GRID, surface, Receiver(dropout=0.0, full_power_m=3000.0), rng)


def test_a_seed_gives_one_street_and_another_seed_another():
    street_cloud(77)  # what was made before changes nothing
    again = street_cloud(3)
    np.testing.assert_array_equal(again.points, street(3).points)
    np.testing.assert_array_equal(again.truth.xyzlwh_yaw, street(3).truth.xyzlwh_yaw)
    assert len(street(4).points) != len(street(3).points)


@pytest.mark.parametrize("seed", range(8))
def test_a_cloud_and_its_truth_have_the_form_of_a_drive_s(seed):
    sample = street(seed)
    points, boxes = sample.points, sample.truth.xyzlwh_yaw
    assert points.dtype == np.float32
    assert points.shape[1] == 4
    assert np.isfinite(points).all()
    assert ((points[:, 3] >= 0) & (points[:, 3] <= 1)).all()
    assert np.hypot(points[:, 0], points[:, 1]).max() < MAX_RANGE_M * 1.5
    assert boxes.dtype == np.float32
    assert len(boxes) == len(sample.truth_points) == len(sample.truth_ids) == len(sample.truth_velocity)
    assert (boxes[:, 3:6] > 0.2).all()


def test_points_counted_for_a_box_lie_in_it():
    checked = 0
    for sample in map(street, SEEDS):
        # Behind, where a revolution begins and ends, motion tears things apart.
        torn = np.abs(np.arctan2(*sample.truth.xyzlwh_yaw[:, 1::-1].T)) > 2.9
        cars = (sample.truth.labels == 0) & (sample.truth_points >= 20) & ~torn
        for box, count in zip(sample.truth.xyzlwh_yaw[cars], sample.truth_points[cars], strict=True):
            assert inside(sample.points, box, 0.35).sum() >= 0.85 * count
            checked += 1
    assert checked > 60


def test_things_do_not_stand_in_each_other():
    for sample in map(street, SEEDS):
        boxes = sample.truth.xyzlwh_yaw
        for row, box in enumerate(boxes):
            centres = np.delete(boxes, row, 0).copy()
            centres[:, 2] = box[2]
            assert not inside(centres, box, 0.0).any()


def test_streets_differ_in_what_stands_on_them_and_in_the_sensor():
    samples = [street(seed) for seed in SEEDS]
    seen = [sample.truth_points >= MIN_POINTS for sample in samples]
    counts = np.array([rows.sum() for rows in seen])
    labels = np.concatenate([s.truth.labels[rows] for s, rows in zip(samples, seen, strict=True)])
    assert (np.bincount(labels, minlength=3) > 20).all()
    assert counts.max() > 20
    assert min(len(street_cloud(seed).truth) for seed in range(24, 60)) == 0
    sizes = np.array([len(sample.points) for sample in samples])
    assert sizes.max() > 3 * sizes.min()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_sensor_can_be_cast_with(seed):
    model = LidarModel.seeded(np.random.default_rng(seed))
    rings = len(model.grid.tan)
    assert 16 <= rings <= 128
    assert (np.diff(model.grid.tan) >= 0).all()
    assert 700 <= len(model.grid.cos) <= 2300
    assert 1.4 < model.height < 2.2


@pytest.mark.parametrize("name", sorted(FRONTS))
@pytest.mark.parametrize("sign", [-1, 1])
def test_every_front_is_seen_where_it_stands(name, sign):
    for seed in range(4):
        around = Surroundings()
        FRONTS[name](around, np.random.default_rng(seed), (0.0, sign * 9.0, 0.1), 12.0, sign)
        points, owner = cast(around)
        assert len(points) > 30
        assert (owner == -1).all()
        assert np.abs(points[:, 0]).max() < 16
        near = sign * points[:, 1].astype(float)
        assert 5 < near.min() < 12
        assert points[:, 2].min() > -HEIGHT - 0.8  # leaves are deep


def test_leaves_and_wire_let_light_through_and_walls_do_not():
    def behind(stop: float) -> int:
        around = Surroundings()
        around.block((10.0, 0.0, np.pi / 2), (20.0, 0.05), (0, 3), 0.4, stop)
        around.block((20.0, 0.0, np.pi / 2), (10.0, 0.3), (0, 3), 0.4)
        return int((cast(around)[0][:, 0] > 19).sum())

    assert behind(1.0) == 0
    thin, thick = behind(0.2), behind(0.7)
    assert thin > 2 * thick > 0
    assert thick / thin == pytest.approx(0.3 / 0.8, rel=0.2)
    around, rng = Surroundings(), np.random.default_rng(1)
    bush(around, rng, (10.0, 0.0, 0.0), 0.0)
    tree(around, rng, 14.0, 6.0, 0.2, 2.5)
    points, _ = cast(around)
    assert np.ptp(points[np.abs(points[:, 1]) < 2.5, 0]) > 0.3  # deep
    trunk = np.hypot(points[:, 0] - 14, points[:, 1] - 6) < 0.3
    assert points[trunk, 2].min() < -HEIGHT + 0.4


def test_a_block_has_four_sides_and_a_top():
    around = Surroundings()
    around.block((8.0, 3.0, 0.5), (4.0, 2.0), (0.0, 1.0), 0.5, owner=4)
    points, owner = cast(around)
    assert (owner == 4).all()
    box = np.array([8, 3, 0.5 - HEIGHT, 4, 2, 1, 0.5])
    assert inside(points, box, 0.1).all()
    c, s = np.cos(0.5), np.sin(0.5)
    along, across = (
        (points[:, 0] - 8) * c + (points[:, 1] - 3) * s,
        (points[:, 1] - 3) * c - (points[:, 0] - 8) * s,
    )
    on_top = np.abs(points[:, 2] - (1 - HEIGHT)) < 0.05
    on_side = (np.abs(np.abs(along) - 2) < 0.1) | (np.abs(np.abs(across) - 1) < 0.1)
    assert on_top.sum() > 20
    assert (on_top | on_side).all()


def test_motion_blurs_by_where_in_the_turn_a_point_was_taken():
    model = LidarModel(GRID, HEIGHT, Receiver(), np.pi, 0.0, True, 0.0)
    angle = np.linspace(-3, 3, 13)
    points = np.column_stack([10 * np.cos(angle), 10 * np.sin(angle), 0 * angle, 0 * angle]).astype(
        np.float32
    )
    velocity = np.tile(np.float32([4, -2]), (13, 1))
    moved = points.copy()
    model.blur(moved, velocity, 9.0)
    late = -angle / (2 * np.pi) * TURN_S
    np.testing.assert_allclose(moved[:, :2] - points[:, :2], velocity * late[:, None], atol=1e-5)
    raw = LidarModel(GRID, HEIGHT, Receiver(), np.pi, 0.0, False, 0.0)
    moved = points.copy()
    raw.blur(moved, 0 * velocity, 9.0)
    np.testing.assert_allclose(moved[:, 0] - points[:, 0], -9 * late, atol=1e-5)


def test_sector_and_lost_packets_take_points_away():
    angle = np.linspace(-np.pi, np.pi, 5000, endpoint=False)
    points = np.column_stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle])
    rng = np.random.default_rng(0)
    front = LidarModel(GRID, HEIGHT, Receiver(), 1.0, 0.0, True, 0.0).seen(points, rng)
    np.testing.assert_array_equal(front, np.abs(angle) <= 1.0)
    kept = LidarModel(GRID, HEIGHT, Receiver(), np.pi, 0.3, True, 0.0).seen(points, rng)
    assert kept.mean() == pytest.approx(0.7, abs=0.08)
    packet = ((np.rad2deg(angle) + 180) % 360).astype(int)
    shares = np.bincount(packet, kept) / np.bincount(packet)
    assert set(np.unique(shares)) == {0.0, 1.0}
