"""The simulated drive: repeatable, consistent in time, and honest about what can be seen."""

from __future__ import annotations

import sys
import threading
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.drive import ACCEL_SIGMA, GRAVITY, GYRO_SIGMA, MIN_HEIGHT_PX, Drive
from perception_rt.sim.world import World
from perception_rt.types import ConfigError

TIMES = st.floats(0, 600, allow_nan=False)


@lru_cache(maxsize=4)
def drive(seed: int) -> Drive:
    return Drive(seed, (480, 270))


def same(a, b) -> bool:
    return (
        np.array_equal(a.image, b.image)
        and np.array_equal(a.truth.xyxy, b.truth.xyxy)
        and np.array_equal(a.truth_ids, b.truth_ids)
        and a.ego == b.ego
        and np.array_equal(a.objects3d.xyzlwh_yaw, b.objects3d.xyzlwh_yaw)
    )


def test_any_time_in_any_order_gives_the_same_sample():
    times = [0.0, 0.1, 0.2, 5.0, 61.7]
    first, second = Drive(7, (320, 180)), Drive(7, (320, 180))
    forward = [first.sample(t) for t in times]
    backward = [second.sample(t) for t in reversed(times)][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    assert same(Drive(7, (320, 180)).sample(61.7), forward[-1])


def test_signals_do_not_depend_on_what_was_asked_before():
    first, second = Drive(7, (320, 180)), Drive(7, (320, 180))
    first.sample(300.0)
    assert np.array_equal(first.imu(2.5).linear_acceleration, second.imu(2.5).linear_acceleration)
    assert first.odometry(2.5) == second.odometry(2.5)


def test_threads_that_drive_on_together_see_one_road():
    alone, shared, found = World(3), World(3), {}
    places = np.arange(0.0, 30_000, 500)

    def go(number: int) -> None:
        found[number] = [shared.path.position(np.array([s]))[0] for s in places]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    expected = [alone.path.position(np.array([s]))[0] for s in places]
    assert all(np.array_equal(found[number], expected) for number in range(8))


def test_seeds_differ():
    images = [drive(seed).sample(1.0).image.astype(int) for seed in range(3)]
    for i in range(3):
        assert np.abs(images[i] - images[i - 1]).mean() > 5


def test_the_image_moves():
    a, b = drive(0).sample(1.0), drive(0).sample(1.1)
    assert a.image.shape == (270, 480, 3)
    assert a.image.dtype == np.uint8
    assert a.stamp_ns == 1_000_000_000
    assert np.abs(a.image.astype(int) - b.image).mean() > 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 40), t=TIMES)
def test_ego_state_is_consistent(seed, t):
    world, h, t = drive(seed % 4).world, 1e-3, t + 0.01
    a, now, b = (world.ego.state(u) for u in (t - h, t, t + h))
    turn = (b.yaw - a.yaw + np.pi) % (2 * np.pi) - np.pi
    assert (b.x - a.x) / (2 * h) == pytest.approx(now.v * np.cos(now.yaw), abs=1e-4)
    assert (b.y - a.y) / (2 * h) == pytest.approx(now.v * np.sin(now.yaw), abs=1e-4)
    assert turn / (2 * h) == pytest.approx(now.yaw_rate, abs=1e-6)
    assert (b.v - a.v) / (2 * h) == pytest.approx(now.accel, abs=1e-5)
    assert -np.pi <= now.yaw < np.pi
    assert 3 < now.v < 17
    assert abs(now.accel) < 2
    assert abs(now.v * now.yaw_rate) < 4


def test_world_starts_at_the_origin():
    ego = drive(1).ego(0.0)
    assert (ego.x, ego.y) == pytest.approx((0, 0), abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 3), t=TIMES)
def test_objects_move_by_their_velocity(seed, t):
    world, h, t = drive(seed).world, 1e-3, t + 0.01
    before, after = world.objects(t - h), world.objects(t + h)
    now = world.objects(t)
    shared = [i for i, key in enumerate(now.ids) if key in before.ids and key in after.ids]
    assert len(shared) > 10
    where = [{key: i for i, key in enumerate(o.ids)} for o in (before, after)]
    for i in shared:
        a, b = before.xyz[where[0][now.ids[i]]], after.xyz[where[1][now.ids[i]]]
        # A crosser starts and stops at once: within h of that moment the difference sees both.
        if not _starts_or_stops(world, now.ids[i], t, h):
            assert (b - a)[:2] / (2 * h) == pytest.approx(now.velocity[i], abs=2e-3)


def _starts_or_stops(world, key, t, h) -> bool:
    speeds = []
    for u in (t - h, t, t + h):
        objects = world.objects(u, scenery=False)
        row = np.flatnonzero(objects.ids == key)
        speeds.append(np.hypot(*objects.velocity[row[0]]) if len(row) else 0.0)
    return max(speeds) - min(speeds) > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_traffic_is_plausible(seed):
    world = drive(seed).world
    for t in np.arange(0, 60, 0.7):
        objects = world.objects(float(t), scenery=False)
        speed = np.hypot(*objects.velocity.T)
        limits = np.array([20.0, 2.2, 7.0])
        assert (speed <= limits[objects.labels]).all()
        assert len(np.unique(objects.ids)) == len(objects)
        assert set(objects.labels) <= {0, 1, 2}


@pytest.mark.parametrize("seed", range(6))
def test_the_way_of_the_ego_is_free(seed):
    for t in np.arange(0, 90, 0.2):
        near = drive(seed).objects3d(float(t))
        x, y, _, length, width = near.xyzlwh_yaw[:, :5].T
        across, along = np.abs(np.sin(near.xyzlwh_yaw[:, 6])), np.abs(np.cos(near.xyzlwh_yaw[:, 6]))
        half_x, half_y = (along * length + across * width) / 2, (across * length + along * width) / 2
        hit = (x - half_x < 3.6) & (x + half_x > -0.9) & (np.abs(y) - half_y < 0.85)
        assert not hit.any(), (t, near.ids[hit], near.labels[hit])


def test_imu_and_odometry_are_the_truth_with_their_noise():
    d, times = drive(2), np.arange(0, 40, 0.05)
    ego = [d.ego(t) for t in times]
    imu, odometry = [d.imu(t) for t in times], [d.odometry(t) for t in times]
    gyro = np.array([m.angular_velocity for m in imu]) - [[0, 0, e.yaw_rate] for e in ego]
    accel = np.array([m.linear_acceleration for m in imu]) - [
        [e.accel, e.v * e.yaw_rate, GRAVITY] for e in ego
    ]
    assert gyro.std(0) == pytest.approx([GYRO_SIGMA] * 3, rel=0.15)
    assert accel.std(0) == pytest.approx([ACCEL_SIGMA] * 3, rel=0.15)
    assert np.abs(accel.mean(0)).max() < 4 * ACCEL_SIGMA / np.sqrt(len(times))
    assert abs(np.mean([o.v - e.v for o, e in zip(odometry, ego, strict=True)])) < 0.01


def test_frames_hold_a_sensible_number_of_every_class():
    seen = np.zeros(len(SIM_CLASSES), int)
    for seed in range(4):
        counts = []
        for t in np.arange(0, 10, 0.5):
            sample = drive(seed).sample(float(t))
            counts.append(len(sample.truth))
            seen += np.bincount(sample.truth.labels, minlength=len(SIM_CLASSES))
            assert len(sample.truth_ids) == len(set(sample.truth_ids.tolist())) == len(sample.truth)
            assert set(sample.truth_ids.tolist()) <= set(sample.objects3d.ids.tolist())
        assert np.mean(counts) >= 3
        assert max(counts) <= 60
    assert (seen > 20).all()


def test_truth_boxes_lie_in_the_image_and_are_large_enough():
    for t in (0.0, 3.3, 8.1):
        truth = drive(1).sample(t).truth
        assert (truth.xyxy[:, :2] >= 0).all()
        assert (truth.xyxy[:, 2:] <= (480, 270)).all()
        assert (truth.xyxy[:, 3] - truth.xyxy[:, 1] >= MIN_HEIGHT_PX).all()
        assert (truth.scores == 1).all()


@pytest.mark.parametrize(("seed", "size"), [(-1, (960, 540)), (1.5, (960, 540)), (0, (10, 540)), (0, (960,))])
def test_bad_arguments_are_named(seed, size):
    with pytest.raises(ConfigError, match="seed=" if size == (960, 540) else "size="):
        Drive(seed, size)


@pytest.mark.parametrize("t", [-0.1, float("nan"), float("inf")])
def test_bad_times_are_named(t):
    with pytest.raises(ConfigError, match="t_s="):
        drive(0).sample(t)
