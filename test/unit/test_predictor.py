"""Object prediction: how each mode moves, the filter over modes, the paths, and what becomes of tracks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.stage.prediction import imm, motion
from perception_rt.stage.prediction.motion import (
    CONSTANT_VELOCITY,
    CYCLIST,
    PEDESTRIAN,
    STOP,
    TURN,
    VEHICLE,
    columns,
    turn,
)
from perception_rt.stage.prediction.noise import NoiseScale
from perception_rt.stage.prediction.paths import positions_ahead
from perception_rt.stage.prediction.predictor import (
    LONGEST_GAP_S,
    ObjectPredictor,
    PredictorConfig,
    motions_of,
)
from perception_rt.stage.tracking import config as tracking_config
from perception_rt.stage.tracking.config import Life, TrackerConfig3D
from perception_rt.stage.tracking.tracker import Tracker3D
from perception_rt.types import ConfigError, Detections3D, TrackingError, Tracks
from perception_rt.types.predictions import Predictions

STEP_NS = 10**8
CAR, PERSON = 0, 1
CONFIG = PredictorConfig((VEHICLE, PEDESTRIAN))
TIMES = np.array([0.5, 1.0, 2.0, 3.0])


def tracks_at(xy, ids=None, label=CAR, yaw=0.0, detection=None, velocity=None, speed_sd=10.0) -> Tracks:
    """Tracks of these places; all are detected unless `detection` says otherwise."""
    xy = np.asarray(xy, float).reshape(-1, 2)
    n = len(xy)
    boxes, covariance = np.zeros((n, 7), np.float32), np.zeros((n, 6, 6), np.float32)
    boxes[:, :2], boxes[:, 3:6], boxes[:, 6] = xy, 1.0, yaw
    covariance[:, range(6), range(6)] = np.square([0.2, 0.2, 0.1, speed_sd, speed_sd, 1.0])
    return Tracks(
        ids=np.arange(n) if ids is None else np.array(ids, np.int64),
        xyzlwh_yaw=boxes,
        velocity=np.zeros((n, 2), np.float32) if velocity is None else np.array(velocity, np.float32),
        yaw_rate=np.zeros(n, np.float32),
        covariance=covariance,
        scores=np.ones(n, np.float32),
        labels=np.full(n, label, np.int64),
        hits=np.ones(n, np.int64),
        age_s=np.zeros(n, np.float32),
        missed_s=np.zeros(n, np.float32),
        detection=np.arange(n) if detection is None else np.array(detection, np.int64),
    )


def follow(path, seconds: float, label=CAR, noise=0.0, yaw=None, config=CONFIG, seed=0) -> Predictions:
    """What is predicted of one object that was at `path(t)` every 0.1 s until `seconds`, seen with noise."""
    predictor, rng = ObjectPredictor(config), np.random.default_rng(seed)
    for step in range(round(seconds * 10) + 1):
        t = step / 10
        xy = np.array([path(t)]) + rng.normal(0, 1, (1, 2)) * noise
        tracks = tracks_at(xy, label=label, yaw=0.0 if yaw is None else yaw(t))
        predictions = predictor.update(step * STEP_NS, tracks, xy)
    return predictions


def bank_of(states, sd=0.1, kind=VEHICLE) -> imm.Bank:
    """Filters whose three modes agree on each of `states` (N, 6)."""
    states = np.asarray(states, float)
    bank = imm.begin(
        states[:, :2],
        np.tile(np.eye(2) * sd**2, (len(states), 1, 1)),
        states[:, 2:4],
        np.tile(np.eye(2) * sd**2, (len(states), 1, 1)),
        columns([kind] * len(states)),
    )
    bank.mean[:, :, 4:] = states[:, None, 4:]
    return bank


def arc(t, speed, acceleration, yaw_rate, yaw=0.0, steps=4000):
    """End of a constant turn rate and acceleration from the origin, by the midpoint rule."""
    dt = t / steps
    at = (np.arange(steps) + 0.5) * dt
    v = np.maximum(speed + acceleration * at, 0)
    return np.array([(v * np.cos(yaw + yaw_rate * at)).sum(), (v * np.sin(yaw + yaw_rate * at)).sum()]) * dt


LASTING = replace(VEHICLE, acceleration_time_s=1e6, yaw_rate_time_s=1e6)


@settings(max_examples=60, deadline=None)
@given(st.floats(4, 30), st.floats(-3, 3), st.floats(-0.6, 0.6), st.floats(-3.1, 3.1), st.floats(0.05, 0.5))
def test_turn_is_constant_turn_rate_and_acceleration(speed, acceleration, yaw_rate, yaw, dt):
    state = np.array([[1.0, 2.0, speed * np.cos(yaw), speed * np.sin(yaw), acceleration, yaw_rate]])
    moved, _, _ = turn(state, columns([LASTING]), dt)
    # Acceleration along the velocity fades out at creeping speed: a few parts in a thousand at 4 m/s.
    np.testing.assert_allclose(
        moved[0, :2], np.array([1.0, 2.0]) + arc(dt, speed, acceleration, yaw_rate, yaw), atol=2e-3
    )
    assert np.hypot(*moved[0, 2:4]) == pytest.approx(speed + acceleration * dt, abs=5e-3)
    turned = np.arctan2(moved[0, 3], moved[0, 2]) - yaw - yaw_rate * dt
    assert np.sin(turned) == pytest.approx(0, abs=1e-9)


def test_braking_ends_at_rest_and_not_in_reverse():
    bank = bank_of([[0, 0, 4.0, 0, -2.0, 0]], kind=LASTING)
    mean, _, _ = positions_ahead(bank, np.array([1.0, 2.0, 3.0, 6.0]))
    np.testing.assert_allclose(mean[0, TURN, :, 0], [3.0, 4.0, 4.0, 4.0], atol=0.1)
    assert (np.diff(mean[0, TURN, :, 0]) > -1e-9).all()


def test_acceleration_and_yaw_rate_fade():
    bank = bank_of([[0, 0, 10.0, 0, 1.0, 0.3]])
    for _ in range(100):
        bank.mean[:, TURN], _, _ = turn(bank.mean[:, TURN], bank.motion, 0.1)
    assert bank.mean[0, TURN, 4] == pytest.approx(np.exp(-10 / VEHICLE.acceleration_time_s), rel=1e-6)
    assert bank.mean[0, TURN, 5] == pytest.approx(0.3 * np.exp(-10 / VEHICLE.yaw_rate_time_s), rel=1e-6)


def test_noise_of_turn_is_that_of_kicks_along_and_across_the_way():
    """One node after the other, in plain loops; and a step that is used again is the same."""
    rng, dt, kinds = np.random.default_rng(0), 0.4, [VEHICLE, PEDESTRIAN, CYCLIST]
    state, table, step = rng.normal(0, 3, (3, 6)), columns(kinds), motion.TurnStep(columns(kinds), dt)
    step.of(rng.normal(0, 3, (3, 6)))
    moved, _, noise = step.of(state)
    np.testing.assert_array_equal(noise, turn(state, table, dt)[2])
    nodes, weights = np.polynomial.legendre.leggauss(3)
    for row, kind in enumerate(kinds):
        vx, vy = state[row, 2:4]
        angle, creep = state[row, 5] * dt, np.hypot(np.hypot(vx, vy), motion.CREEP_M_S)
        ahead = np.array([np.cos(angle) * vx - np.sin(angle) * vy, np.sin(angle) * vx + np.cos(angle) * vy])
        across = np.array([-moved[row, 3], moved[row, 2]])
        expected = np.zeros((6, 6))
        for axis in ((0, 2), (1, 3)):
            expected[np.ix_(axis, axis)] = kind.walk**2 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        for name, own, direction in (("acceleration", 4, ahead / creep), ("yaw_rate", 5, across)):
            size, time_s = getattr(kind, name), getattr(kind, name + "_time_s")
            for node, weight in zip(nodes, weights, strict=True):
                left, kick = (1 - (node + 1) / 2) * dt, size * np.sqrt(2 / time_s * dt * weight / 2)
                vector = np.array([*direction * kick * left**2 / 2, *direction * kick * left, 0, 0])
                vector[own] = kick * np.exp(-left / time_s)
                expected += np.outer(vector, vector)
        np.testing.assert_allclose(noise[row], expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("column", "still"), [(2, True), (3, True), (4, False), (5, False)])
def test_jacobian_of_turn(column, still):
    """By differences; of the velocity without acceleration, whose direction counts as fixed."""
    state = np.array([[0.0, 0.0, 6.0, 3.0, 0.0 if still else 1.2, 0.4]])
    _, jacobian, _ = turn(state, columns([VEHICLE]), 0.4)
    step = np.zeros((1, 6))
    step[0, column] = 1e-5
    ahead, behind = (turn(state + sign * step, columns([VEHICLE]), 0.4)[0] for sign in (1, -1))
    np.testing.assert_allclose(jacobian[0, :, column], (ahead - behind)[0] / 2e-5, atol=1e-5)


@pytest.mark.parametrize("mode", [CONSTANT_VELOCITY, STOP, TURN])
def test_two_steps_make_one(mode):
    bank = bank_of([[0, 0, 8.0, 2.0, 0.0, 0.0]])
    mean, covariance = motion.advance(bank.mean, bank.covariance, bank.motion, 0.2)
    twice = motion.advance(*motion.advance(bank.mean, bank.covariance, bank.motion, 0.1), bank.motion, 0.1)
    np.testing.assert_allclose(mean[:, mode], twice[0][:, mode], atol=1e-9)
    # Acceleration and yaw rate fade within a step of `turn`, which the position sees only at its end.
    tolerance = 0.05 if mode == TURN else 1e-9
    scale = np.sqrt(np.einsum("nii->ni", covariance[:, mode]))
    apart = (covariance - twice[1])[:, mode] / (scale[:, :, None] * scale[:, None, :])
    assert np.abs(apart).max() < tolerance


def test_paths_of_straight_modes_are_those_of_steps():
    calm = replace(VEHICLE, start_speed=1e-6)
    bank = bank_of([[5, -3, 8.0, 2.0, 0, 0]], kind=calm)
    mean, covariance = bank.mean, bank.covariance
    for _ in range(20):
        mean, covariance = motion.advance(mean, covariance, bank.motion, 0.1)
    ahead, spread, _ = positions_ahead(bank, np.array([2.0]))
    for mode in (CONSTANT_VELOCITY, STOP):
        np.testing.assert_allclose(ahead[0, mode, 0], mean[0, mode, :2], atol=1e-9)
        np.testing.assert_allclose(spread[0, mode, 0], covariance[0, mode, :2, :2], rtol=1e-6)


def test_one_that_stands_may_start_off():
    """The variance of a start at a random time, by sampling."""
    kind = replace(PEDESTRIAN, stop_speed=1e-6, start_speed=1.5, mode_time_s=2.0)
    bank = bank_of([[0, 0, 0, 0, 0, 0]], sd=1e-6, kind=kind)
    _, spread, _ = positions_ahead(bank, TIMES)
    rng = np.random.default_rng(0)
    begin = rng.exponential(kind.mode_time_s / (1 - kind.stop_share), 200_000)
    moved = rng.normal(0, 1.5, len(begin)) * np.maximum(TIMES[:, None] - begin, 0)
    np.testing.assert_allclose(spread[0, STOP, :, 0, 0], moved.var(1), rtol=0.03)


def test_who_leaves_standing_may_have_any_speed():
    bank = bank_of([[0, 0, 0, 0, 0, 0]], sd=0.01, kind=replace(PEDESTRIAN, start_speed=1.5, walk=1e-6))
    bank.weights[:] = [1e-12, 1e-12, 1.0]
    imm.advance(bank, 0.1)
    spread = np.sqrt(bank.covariance[0, :, motion.VX, motion.VX])
    np.testing.assert_allclose(spread[[CONSTANT_VELOCITY, TURN]], 1.5, rtol=0.01)
    assert spread[STOP] < 0.02


def test_mixture_has_the_moments_of_its_parts():
    rng = np.random.default_rng(1)
    weights, mean = np.array([[0.5, 0.3, 0.2]]), rng.normal(0, 3, (1, 3, 1, 2)) + 1e6
    covariance = np.array([np.diag([1.0, 2.0]), np.diag([0.5, 0.1]), np.eye(2)])[None, :, None]
    mixed, moments = imm.mixture(weights, mean, covariance)
    mode = rng.choice(3, 400_000, p=weights[0])
    drawn = mean[0, mode, 0] + rng.standard_normal((len(mode), 2)) * np.sqrt(
        np.einsum("mii->mi", covariance[0, :, 0])[mode]
    )
    np.testing.assert_allclose(mixed[0, 0], drawn.mean(0), atol=0.02)
    np.testing.assert_allclose(moments[0, 0], np.cov(drawn.T), atol=0.05)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([VEHICLE, PEDESTRIAN, CYCLIST]), st.sampled_from([0.0, 1e6]))
def test_filter_stays_sound_whatever_comes(seed, kind, offset):
    rng = np.random.default_rng(seed)
    bank = bank_of(rng.normal(0, 5, (4, 6)) + np.array([offset, -offset, 0, 0, 0, 0]), kind=kind)
    for _ in range(60):
        imm.advance(bank, float(rng.choice([1e-6, 0.02, 0.1, 0.5])))
        rows = np.flatnonzero(rng.random(4) < 0.8)
        xy = rng.normal(0, 10 ** rng.uniform(-2, 3), (len(rows), 2)) + np.array([offset, -offset])
        imm.correct(bank, rows, xy, np.tile(np.eye(2) * rng.uniform(0.01, 1), (len(rows), 1, 1)))
    assert np.isfinite(bank.mean).all()
    assert np.linalg.eigvalsh(bank.covariance).min() > 0
    np.testing.assert_allclose(bank.weights.sum(1), 1)
    assert bank.weights.min() > 0
    _, spread, _ = positions_ahead(bank, TIMES)
    assert np.linalg.eigvalsh(spread).min() > 0


def test_one_mode_is_a_kalman_filter():
    """A measurement of one that is certain to be in one mode changes it as the textbook says."""
    bank = bank_of([[0, 0, 1.0, 0, 0, 0]])
    imm.advance(bank, 0.5)
    mean, covariance = bank.mean[0, CONSTANT_VELOCITY].copy(), bank.covariance[0, CONSTANT_VELOCITY].copy()
    noise, seen = np.array([[0.04, 0.01], [0.01, 0.09]]), np.array([0.9, -0.2])
    imm.correct(bank, np.array([0]), seen[None], noise[None])
    picks = np.eye(2, 6)
    gain = covariance @ picks.T @ np.linalg.inv(picks @ covariance @ picks.T + noise)
    np.testing.assert_allclose(bank.mean[0, CONSTANT_VELOCITY], mean + gain @ (seen - mean[:2]), atol=1e-12)
    np.testing.assert_allclose(
        bank.covariance[0, CONSTANT_VELOCITY], covariance - gain @ picks @ covariance, atol=1e-12
    )


def test_car_that_stands_is_known_to_stand():
    found = [follow(lambda t: (10.0, 5.0), 3.0, noise=0.15, seed=seed) for seed in range(9)]
    assert np.median([one.mode_probabilities[0, STOP] for one in found]) > 0.7
    for one in found:
        np.testing.assert_allclose(one.xy[0], np.tile([10.0, 5.0], (6, 1)), atol=0.6)


def test_car_that_drives_straight_on():
    expected = np.stack([24 + 8 * CONFIG.times_s, np.full(6, 2.0)], 1)
    found = [follow(lambda t: (8.0 * t, 2.0), 3.0, noise=0.15, seed=seed) for seed in range(9)]
    assert max(one.mode_probabilities[0, STOP] for one in found) < 0.03
    assert np.median([np.linalg.norm(one.xy[0] - expected, axis=1).max() for one in found]) < 1.0


def test_car_in_a_bend_is_followed_round_it():
    def bend(t):
        return 20 * np.sin(0.4 * t), 20 * (1 - np.cos(0.4 * t))

    found = follow(bend, 4.0, noise=0.05, yaw=lambda t: 0.4 * t)
    truth = np.array([bend(4.0 + t) for t in CONFIG.times_s])
    assert found.mode_probabilities[0, TURN] > 0.8
    ahead = np.array(
        [np.array(bend(4.0)) + t * 8 * np.array([np.cos(1.6), np.sin(1.6)]) for t in CONFIG.times_s]
    )
    error, straight = (np.linalg.norm(path - truth, axis=1) for path in (found.xy[0], ahead))
    assert error[-1] < 0.5 * straight[-1]
    assert 1.6 + 0.4 < found.yaw[0, -1] < 1.6 + 0.4 * 3 + 0.1


def test_car_that_brakes_is_not_predicted_at_its_old_speed():
    found = follow(lambda t: (12 * t - 1.0 * t**2, 0.0), 4.0, noise=0.05)
    truth = 12 * 7 - 49 - (48 - 16)  # in three seconds more
    assert found.xy[0, -1, 0] - (48 - 16) < 4.0 * 3.0 - 1.5
    assert abs(found.xy[0, -1, 0] - (48 - 16) - truth) < 9 - 1.5  # the other way round is 9 m too far


def test_moments_to_come_are_stamped():
    config = PredictorConfig((VEHICLE,), horizon_s=2.0, step_s=0.3)
    found = ObjectPredictor(config).update(5 * 10**9, tracks_at([[0, 0]]), np.zeros((1, 2)))
    np.testing.assert_array_equal(found.stamps_ns, 5 * 10**9 + np.round(np.arange(1, 8) * 2e9 / 7))
    assert found.xy.shape == (1, 7, 2)
    assert found.paths.shape == (1, 3, 7, 2)
    np.testing.assert_allclose(found.mode_probabilities.sum(1), 1)


def test_covariance_grows_while_it_is_not_seen_and_shrinks_when_it_is():
    predictor = ObjectPredictor(CONFIG)
    for step in range(10):
        xy = np.array([[1.0 * step, 0.0]])
        seen = predictor.update(step * STEP_NS, tracks_at(xy), xy)
    hidden = predictor.update(15 * STEP_NS, tracks_at([[0, 0]], detection=[-1]), np.zeros((0, 2)))
    assert (np.linalg.det(hidden.covariance) > np.linalg.det(seen.covariance)).all()
    assert hidden.xy[0, 0, 0] == pytest.approx(15 + 5, abs=1.0)  # from the filter, not the track's place
    again = predictor.update(16 * STEP_NS, tracks_at([[16.0, 0]]), np.array([[16.0, 0.0]]))
    assert (np.linalg.det(again.covariance) < np.linalg.det(hidden.covariance)).all()


def test_objects_do_not_sway_each_other_and_order_does_not_matter(monkeypatch):
    # The noise of positions is the one thing that objects of a class share.
    monkeypatch.setattr(NoiseScale, "observe", lambda *_: None)
    rng = np.random.default_rng(3)
    alone, crowd = ObjectPredictor(CONFIG), ObjectPredictor(CONFIG)
    for step in range(12):
        xy = rng.normal(0, 20, (5, 2))
        ids = rng.permutation(5)
        at = int(np.flatnonzero(ids == 2)[0])
        one = alone.update(step * STEP_NS, tracks_at(xy[at : at + 1], ids=[2]), xy[at : at + 1])
        all_ = crowd.update(step * STEP_NS, tracks_at(xy, ids=ids), xy)
        np.testing.assert_array_equal(all_.ids, ids)
        np.testing.assert_allclose(all_.xy[at], one.xy[0], atol=1e-9)
        np.testing.assert_allclose(all_.covariance[at], one.covariance[0], rtol=1e-9)


def test_detections_are_counted_by_the_tracks_rows():
    """Two tracks whose detections come in the other order."""
    predictor = ObjectPredictor(CONFIG)
    detected = np.array([[50.0, 0.0], [0.0, 0.0], [9.0, 9.0]])
    found = predictor.update(0, tracks_at([[1, 1], [49, 1]], detection=[1, 0]), detected)
    np.testing.assert_allclose(found.paths[:, STOP, 0], [[0, 0], [50, 0]], atol=1e-6)


def test_new_track_keeps_the_velocity_that_the_tracker_knows():
    tracks = tracks_at([[0, 0]], velocity=[[7.0, 0.0]], speed_sd=0.5)
    found = ObjectPredictor(CONFIG).update(0, tracks, np.zeros((1, 2)))
    assert found.paths[0, CONSTANT_VELOCITY, 1, 0] == pytest.approx(7.0, rel=0.02)
    unseen = tracks_at([[3, 4]], detection=[-1])
    late = ObjectPredictor(CONFIG).update(0, unseen, np.zeros((0, 2)))
    np.testing.assert_allclose(late.xy[0, 0], [3, 4], atol=1e-5)


@pytest.mark.parametrize("stamp_ns", [0, round((LONGEST_GAP_S + 10) * 1e9)])
def test_time_that_jumps_begins_anew(stamp_ns):
    predictor = ObjectPredictor(CONFIG)
    for step in range(10, 20):
        xy = np.array([[2.0 * step, 0.0]])
        predictor.update(step * STEP_NS, tracks_at(xy), xy)
    jumped = predictor.update(stamp_ns, tracks_at([[100, 0]]), np.array([[100.0, 0.0]]))
    fresh = ObjectPredictor(CONFIG).update(stamp_ns, tracks_at([[100, 0]]), np.array([[100.0, 0.0]]))
    np.testing.assert_array_equal(jumped.xy, fresh.xy)
    # What was learned of the noise of positions stays.
    np.testing.assert_allclose(jumped.covariance, fresh.covariance, rtol=0.01)


def test_forgotten_track_begins_anew_and_the_same_stamp_twice_is_no_step():
    predictor = ObjectPredictor(CONFIG)
    for step in range(10):
        xy = np.array([[2.0 * step, 0.0]])
        predictor.update(step * STEP_NS, tracks_at(xy), xy)
    empty = predictor.update(10 * STEP_NS, tracks_at(np.zeros((0, 2))), np.zeros((0, 2)))
    assert len(empty) == 0
    assert empty.xy.shape == (0, 6, 2)
    back = predictor.update(10 * STEP_NS, tracks_at([[20, 0]]), np.array([[20.0, 0.0]]))
    assert back.xy[0, -1, 0] == pytest.approx(20, abs=1e-5)


def test_given_covariance_outweighs_the_class():
    found = {}
    for name, sd in (("sure", 0.02), ("unsure", 2.0)):
        predictor = ObjectPredictor(CONFIG)
        for step in range(5):
            xy = np.array([[0.0, 0.0 if step < 4 else 1.0]])
            found[name] = predictor.update(step * STEP_NS, tracks_at(xy), xy, np.eye(2)[None] * sd**2)
    assert found["sure"].xy[0, 0, 1] > found["unsure"].xy[0, 0, 1]
    assert np.linalg.det(found["sure"].covariance[0, 0]) < np.linalg.det(found["unsure"].covariance[0, 0])


def bad(**changes):
    """Arguments of `update` with something wrong."""
    tracks = tracks_at([[0, 0], [5, 5]], **changes.pop("tracks", {}))
    return {"tracks": tracks, "detected_xy": np.array([[0.0, 0.0], [5.0, 5.0]])} | changes


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (bad(detected_xy=np.zeros((2, 3))), "detected_xy"),
        (bad(detected_xy=np.array([[0, np.nan], [5, 5]])), "detected_xy"),
        (bad(tracks={"detection": [0, 2]}), r"detection\[1\]=2"),
        (bad(tracks={"detection": [-2, 1]}), r"detection\[0\]=-2"),
        (bad(tracks={"label": 2}), r"labels\[0\]=2"),
        (bad(tracks={"label": -1}), r"labels\[0\]=-1"),
        (bad(tracks={"yaw": np.nan}), r"xyzlwh_yaw\[0\]"),
        (bad(tracks={"velocity": [[0, 0], [np.inf, 0]]}), r"velocity\[1\]"),
        (bad(tracks={"ids": [4, 4]}), "ids"),
        (bad(detected_covariance=np.eye(2)[None]), "detected_covariance"),
        (bad(detected_covariance=np.stack([np.eye(2), -np.eye(2)])), r"covariance\[1\]"),
        (bad(detected_covariance=np.array([np.eye(2), [[1, 2], [2, 1]]])), r"covariance\[1\]"),
        (bad(detected_covariance=np.full((2, 2, 2), np.nan)), r"covariance\[0\]"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(arguments, field):
    predictor, twin = ObjectPredictor(CONFIG), ObjectPredictor(CONFIG)
    start = bad()
    for each in (predictor, twin):
        each.update(0, **start)
    with pytest.raises(TrackingError, match=field):
        predictor.update(STEP_NS, **arguments)
    after = [each.update(2 * STEP_NS, **start) for each in (predictor, twin)]
    np.testing.assert_array_equal(after[0].xy, after[1].xy)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"motions": ()}, "motions"),
        ({"horizon_s": 0.0}, "horizon_s"),
        ({"step_s": float("nan")}, "step_s"),
        ({"step_s": 7.0}, "step_s"),
        ({"step_s": 1e-4}, "step_s"),
    ],
)
def test_config_is_checked(changes, name):
    with pytest.raises(ConfigError, match=name):
        PredictorConfig(**{"motions": (VEHICLE,)} | changes)


@pytest.mark.parametrize(
    "changes", [{"walk": 0.0}, {"stop_time_s": np.inf}, {"turn_share": 0.7, "stop_share": 0.3}]
)
def test_motion_is_checked(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(VEHICLE, **changes)


def test_classes_are_known_by_name():
    names = ["Car", "person", "bicycle", "truck", "Cyclist", "no such thing"]
    assert motions_of(names) == (VEHICLE, PEDESTRIAN, CYCLIST, VEHICLE, CYCLIST, VEHICLE)


def test_what_the_tracker_says_is_predicted():
    """Two cars through Tracker3D: ids and detections fit, and the paths go where the cars will be."""
    lives, motions = (Life(),), (tracking_config.VEHICLE,)
    tracker, predictor = (
        Tracker3D(TrackerConfig3D(lives, motions)),
        ObjectPredictor(PredictorConfig((VEHICLE,))),
    )
    start, velocity = np.array([[0.0, 0.0], [30.0, 10.0]]), np.array([[8.0, 0.0], [-6.0, 2.0]])
    rng = np.random.default_rng(0)
    for step in range(31):
        boxes = np.zeros((2, 7), np.float32)
        boxes[:, :2] = start + velocity * step / 10 + rng.normal(0, 0.1, (2, 2))
        boxes[:, 3:6], boxes[:, 6] = (4.2, 1.8, 1.5), np.arctan2(velocity[:, 1], velocity[:, 0])
        found = Detections3D(boxes, np.full(2, 0.95, np.float32), np.zeros(2, np.int64))
        if step == 20:
            found = found[[1]]  # one is hidden for a moment
        tracks = tracker.update(step * STEP_NS, found)
        predictions = predictor.update(step * STEP_NS, tracks, found.xyzlwh_yaw[:, :2].astype(np.float64))
    np.testing.assert_array_equal(predictions.ids, tracks.ids)
    assert len(predictions) == 2
    order = np.argsort(tracks.xyzlwh_yaw[:, 1])  # the first car stays at y = 0
    truth = start[:, None] + velocity[:, None] * (3.0 + CONFIG.times_s)[:, None]
    error = truth - predictions.xy[order]
    assert np.linalg.norm(error[:, -1], axis=-1).max() < 2.5
    inverse = np.linalg.inv(predictions.covariance[order])
    assert np.einsum("nti,ntij,ntj->nt", error, inverse, error).max() < 9.2  # 99 %
