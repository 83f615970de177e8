"""The trackers' parts: assignment is optimal, filters are exact, and their covariance is honest."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2

from perception_rt.stage.tracking.associate import assign
from perception_rt.stage.tracking.boxes2d import BoxFilters2D
from perception_rt.stage.tracking.boxes3d import BoxFilters3D
from perception_rt.stage.tracking.config import PEDESTRIAN, VEHICLE, Motion2D

CAR, PERSON = 0, 1
DT = 0.1


def test_the_assignment_is_optimal_where_greed_is_not():
    distance = np.array([[1.0, 2.0], [1.5, 9.0]])  # the least first leaves 9 for the other
    tracks, found = assign(distance, np.zeros((2, 1)), np.full(2, 20.0))
    assert list(zip(tracks, found, strict=True)) == [(0, 1), (1, 0)]


def test_a_wide_new_track_does_not_take_an_old_ones_detection():
    tracks, found = assign(np.array([[2.0], [0.5]]), np.array([[0.0], [5.0]]), np.full(2, 9.0))
    assert (tracks.tolist(), found.tolist()) == ([0], [0])


@settings(max_examples=100, deadline=None)
@given(arrays(float, (3, 3), elements=st.floats(0, 20)), arrays(float, 3, elements=st.floats(-5, 5)))
def test_no_other_assignment_is_better(distance, spread):
    gate = np.full(3, 9.0)
    tracks, found = assign(distance, np.tile(spread[:, None], 3), gate)
    assert (distance[tracks, found] <= 9.0).all()

    def worth(pairs) -> tuple[int, float]:
        kept = [(i, j) for i, j in pairs if distance[i, j] <= gate[i]]
        return len(kept), -sum(distance[i, j] + spread[i] for i, j in kept)

    best = max(worth(enumerate(order)) for order in permutations(range(3)))
    ours = worth(zip(tracks, found, strict=True))
    assert ours[0] == best[0]
    assert ours[1] == pytest.approx(best[1], abs=1e-6)


def started(state: np.ndarray, label: int) -> BoxFilters3D:
    filters = BoxFilters3D((VEHICLE, PEDESTRIAN))
    filters.append(np.array([[0, 0, 0, 4, 2, 1.5, 0]], float), np.array([label]))
    filters.mean[0] = state
    return filters


@pytest.mark.parametrize("label", [CAR, PERSON])
@pytest.mark.parametrize("rate", [0.0, 0.4, -1.2])
def test_the_covariance_moves_as_the_mean_does(label, rate):
    """The analytic Jacobian against differences of the prediction itself."""
    state = np.array([3.0, -2.0, 0.5, 6.0, 2.0, rate])
    filters = started(state, label)
    filters.covariance[:] = 0
    noise = started(state, label)
    noise.covariance[:] = 0
    noise.predict(0.5, np.array([label]))
    spread = np.diag([1.0, 2, 3, 4, 5, 6])
    filters.covariance[0] = spread
    filters.predict(0.5, np.array([label]))
    jacobian = np.zeros((6, 6))
    for column in range(6):
        ends = []
        for sign in (1, -1):
            moved = started(state + sign * 1e-5 * np.eye(6)[column], label)
            moved.predict(0.5, np.array([label]))
            ends.append(moved.mean[0])
        jacobian[:, column] = (ends[0] - ends[1]) / 2e-5
    expected = jacobian @ spread @ jacobian.T + noise.covariance[0]
    np.testing.assert_allclose(filters.covariance[0], expected, rtol=1e-4, atol=1e-4)


def test_a_turn_keeps_the_speed_and_ends_on_the_circle():
    filters = started(np.array([0, 0, 0, 10, 0, 0.5]), CAR)
    filters.predict(np.pi, np.array([CAR]))  # a quarter turn of radius 20
    assert filters.mean[0] == pytest.approx([20, 20, np.pi / 2, 0, 10, 0.5], abs=1e-6)


def test_a_pedestrian_walks_straight_whatever_way_it_looks():
    filters = started(np.array([0, 0, 2.0, 1, 0.5, 0.0]), PERSON)
    filters.predict(2.0, np.array([PERSON]))
    assert filters.mean[0] == pytest.approx([2, 1, 2, 1, 0.5, 0], abs=1e-4)


def test_height_and_size_are_weighed_as_a_random_walk():
    """The scalar filter by hand: measured with variance r, wandering by q over a step."""
    labels, rows = np.array([CAR]), np.array([0])
    filters = started(np.zeros(6), CAR)
    r = np.array([VEHICLE.height_sd, VEHICLE.size_sd]) ** 2
    q = np.array([VEHICLE.drift, 0.05]) ** 2 * DT
    expected, variance = np.array([0.0, 4.0]), r.copy()
    for z, length in ((0.4, 5.0), (0.3, 3.0), (0.8, 4.5)):
        filters.predict(DT, labels)
        variance += q
        gain = variance / (variance + r)
        expected += gain * (np.array([z, length]) - expected)
        variance *= 1 - gain
        filters.update(rows, np.array([[0, 0, z, length, 2, 1.5, 0]], float), labels)
        assert filters.boxes(rows)[0, [2, 3]] == pytest.approx(expected, abs=1e-5)
    assert filters.boxes(rows)[0, 4:6] == pytest.approx([2, 1.5])


def measured_truths(label: int, motion, rng: np.random.Generator, count: int, steps: int):
    """Truths drawn from the class's own model and their measurements: (steps, count, 6) and (..., 7)."""
    start = [0.0, 0.0, 0.0, motion.speed, motion.speed, 0.5 * motion.turns]
    state = rng.normal(0, 1, (count, 6)) * start
    truths, boxes = [], []
    for _ in range(steps):
        noisy = state[:, :3] + rng.normal(0, 1, (count, 3)) * [motion.position_sd] * np.array([1, 1, 0])
        noisy[:, 2] = state[:, 2] + rng.normal(0, motion.yaw_sd, count)
        truths.append(state.copy())
        boxes.append(
            np.column_stack([noisy[:, :2], np.zeros(count), np.tile([4, 2, 1.5], (count, 1)), noisy[:, 2]])
        )
        rate = state[:, 5] + 1e-12
        sin, cos = np.sin(rate * DT), np.cos(rate * DT)
        vx, vy = state[:, 3].copy(), state[:, 4].copy()
        push = rng.normal(0, motion.acceleration, (count, 2))
        state[:, 0] += (sin * vx - (1 - cos) * vy) / rate + push[:, 0] * DT**2 / 2
        state[:, 1] += ((1 - cos) * vx + sin * vy) / rate + push[:, 1] * DT**2 / 2
        state[:, 3] = cos * vx - sin * vy + push[:, 0] * DT
        state[:, 4] = sin * vx + cos * vy + push[:, 1] * DT
        if motion.turns:
            twist = rng.normal(0, motion.turning, count)
            state[:, 2] += state[:, 5] * DT + twist * DT**2 / 2
            state[:, 5] += twist * DT
        else:
            state[:, 2] += rng.normal(0, motion.turning * np.sqrt(DT), count)
    return np.array(truths), np.array(boxes)


def test_the_covariance_of_a_pedestrian_is_honest():
    """Normalised estimation error squared within its 95 % bounds (Bar-Shalom, 5.4.2)."""
    count, steps = 200, 30
    truths, boxes = measured_truths(PERSON, PEDESTRIAN, np.random.default_rng(0), count, steps)
    filters, labels, rows = BoxFilters3D((VEHICLE, PEDESTRIAN)), np.full(count, PERSON), np.arange(count)
    filters.append(boxes[0], labels)
    for step in range(1, steps):
        filters.predict(DT, labels)
        filters.update(rows, boxes[step], labels)
    part = np.ix_(rows, [0, 1, 3, 4], [0, 1, 3, 4])
    error = filters.mean[:, [0, 1, 3, 4]] - truths[-1][:, [0, 1, 3, 4]]
    nees = np.einsum("ni,nij,nj", error, np.linalg.inv(filters.covariance[part]), error)
    low, high = chi2.ppf([0.025, 0.975], 4 * count)
    assert low < nees < high


def test_the_covariance_of_a_vehicle_is_honest():
    """The same through the turn's linearisation, with a slack of a fifth for it."""
    count, steps = 300, 30
    truths, boxes = measured_truths(CAR, VEHICLE, np.random.default_rng(1), count, steps)
    filters, labels, rows = BoxFilters3D((VEHICLE, PEDESTRIAN)), np.full(count, CAR), np.arange(count)
    filters.append(boxes[0], labels)
    for step in range(1, steps):
        filters.predict(DT, labels)
        filters.update(rows, boxes[step], labels)
    error = filters.mean - truths[-1]
    error[:, 2] -= np.pi * np.round(error[:, 2] / np.pi)  # which end is the front is not the filter's matter
    nees = np.einsum("ni,nij,nj->n", error, np.linalg.inv(filters.covariance), error)
    assert 0.8 * 6 < np.mean(nees) < 1.2 * 6


def test_the_covariance_in_the_image_is_honest():
    rng, count, motion = np.random.default_rng(2), 400, Motion2D()
    height = 100.0
    value = np.tile([0.0, 0.0, 50.0, height], (count, 1))
    rate = rng.normal(0, 1, (count, 4)) * height * np.array([motion.speed] * 2 + [0, 0])
    labels, rows, filters = np.zeros(count, np.int64), np.arange(count), BoxFilters2D((motion,))
    noise = height * np.array([motion.position_sd] * 2 + [motion.size_sd] * 2)
    filters.append(value + rng.normal(0, 1, value.shape) * noise, labels)
    for _ in range(20):
        push = rng.normal(0, 1, (count, 2)) * motion.acceleration * height
        value[:, :2] += rate[:, :2] * DT + push * DT**2 / 2
        rate[:, :2] += push * DT
        filters.predict(DT, labels)
        filters.update(rows, value + rng.normal(0, 1, value.shape) * noise, labels)
    covariance = filters.covariance(rows).astype(float)
    at = [0, 1, 4, 5]
    error = np.hstack([filters.value - value, filters.rate - rate])[:, at]
    nees = np.einsum("ni,nij,nj->n", error, np.linalg.inv(covariance[np.ix_(rows, at, at)]), error)
    assert 0.8 * 4 < np.mean(nees) < 1.2 * 4


@pytest.mark.parametrize("seed", [0, 1])
def test_covariances_stay_symmetric_and_positive_over_many_steps(seed):
    rng, labels, rows = np.random.default_rng(seed), np.array([CAR, PERSON]), np.arange(2)
    filters = BoxFilters3D((VEHICLE, PEDESTRIAN))
    filters.append(np.zeros((2, 7)), labels)
    for _ in range(5000):
        filters.predict(float(rng.choice([0.0, 1e-3, 0.1, 2.0])), labels)
        if rng.random() < 0.7:
            filters.update(rows, rng.normal(0, 0.3, (2, 7)), labels)
    np.testing.assert_allclose(
        filters.covariance, filters.covariance.transpose(0, 2, 1), rtol=1e-9, atol=1e-9
    )
    assert (np.linalg.eigvalsh(filters.covariance[0]) > 0).all()
    assert (np.linalg.eigvalsh(filters.covariance[1, :5, :5]) > 0).all()  # its yaw rate is 0, and known


def test_a_box_in_the_image_that_shrinks_does_not_turn_inside_out():
    filters = BoxFilters2D((Motion2D(),))
    labels = np.array([0])
    filters.append(np.array([[100.0, 100, 50, 80]]), labels)
    filters.rate[0, 2:] = -1000
    for _ in range(5):
        filters.predict(DT, labels)
    assert (filters.value[0, 2:] >= 1).all()
