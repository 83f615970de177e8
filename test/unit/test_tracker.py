"""Trackers: ids, birth and death, occlusion, time, ego motion, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_rt.stage.tracking.boxes3d import SURE_HEADING
from perception_rt.stage.tracking.config import (
    PEDESTRIAN,
    VEHICLE,
    Life,
    Motion2D,
    Motion3D,
    TrackerConfig2D,
    TrackerConfig3D,
)
from perception_rt.stage.tracking.lifecycle import LifeCycle
from perception_rt.stage.tracking.object_tracking import MOST_CLASSES, ClassNames
from perception_rt.stage.tracking.presets import config_3d
from perception_rt.stage.tracking.tracker import Tracker2D, Tracker3D
from perception_rt.types import ConfigError, Detections2D, Detections3D, TrackingError, Tracks

STEP = 10**8  # ns
LIFE = Life(
    least_score=0.1,
    high_score=0.5,
    birth_score=0.5,
    sure_score=0.9,
    hits_to_confirm=3,
    probation_s=0.05,
    memory_s=1.0,
    coast_s=0.25,
)
CAR, PERSON = 0, 1


def tracker(**life) -> Tracker3D:
    lives = (replace(LIFE, **life),) * 2
    return Tracker3D(TrackerConfig3D(lives, (VEHICLE, PEDESTRIAN)))


def boxes(*rows) -> Detections3D:
    """Rows of (x, y, score, label, yaw), from the left as far as given."""
    full = [(*row, *(0.0, 0.0, 0.95, CAR, 0.0)[len(row) :]) for row in rows]
    array = np.array([(x, y, 0.0, 4.0, 1.8, 1.5, yaw) for x, y, _, _, yaw in full], np.float32).reshape(-1, 7)
    scores = np.array([row[2] for row in full], np.float32)
    return Detections3D(array, scores, np.array([row[3] for row in full], np.int64))


def pose(x: float, y: float, yaw: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    matrix[:2, 3] = x, y
    return matrix


def test_a_moving_object_keeps_its_id_and_its_velocity_is_found():
    track = tracker()
    for step in range(20):
        tracks = track.update(step * STEP, boxes((10 + 0.8 * step, 3 - 0.2 * step)))
        assert tracks.ids.tolist() == [0]
    assert tracks.velocity[0] == pytest.approx([8.0, -2.0], abs=0.1)
    assert tracks.xyzlwh_yaw[0, :2] == pytest.approx([25.2, -0.8], abs=0.05)
    assert (tracks.hits[0], tracks.detection[0], tracks.missed_s[0]) == (20, 0, 0.0)
    assert tracks.age_s[0] == pytest.approx(1.9)


def test_a_turning_vehicle_is_foreseen_on_its_arc():
    track, speed, rate = tracker(coast_s=1.0), 8.0, 0.5

    def at(t: float) -> tuple[float, float, float]:
        return speed / rate * np.sin(rate * t), speed / rate * (1 - np.cos(rate * t)), rate * t

    for step in range(30):
        x, y, yaw = at(step * 0.1)
        tracks = track.update(step * STEP, boxes((x, y, 0.95, CAR, yaw)))
    assert tracks.yaw_rate[0] == pytest.approx(rate, abs=0.05)
    hidden = track.update(37 * STEP, boxes())  # 0.8 s on: a straight line would end 1.3 m off
    assert hidden.ids.tolist() == tracks.ids.tolist()
    assert hidden.xyzlwh_yaw[0, [0, 1, 6]] == pytest.approx(at(3.7), abs=0.35)


def test_a_reversed_box_does_not_turn_the_track_but_the_majority_does():
    track = tracker()
    for step in range(6):
        tracks = track.update(step * STEP, boxes((5, 0, 0.95, CAR, np.pi if step in (1, 3) else 0.1)))
        assert tracks.xyzlwh_yaw[0, 6] == pytest.approx(0.05, abs=0.2)
    for step in range(6, 16):
        tracks = track.update(step * STEP, boxes((5, 0, 0.95, CAR, np.pi - 0.1)))
    assert abs(tracks.xyzlwh_yaw[0, 6]) == pytest.approx(np.pi - 0.1, abs=0.1)


def test_votes_for_a_heading_are_capped_so_that_an_old_track_can_still_turn():
    """However long a track had its front one way, a few more boxes than the cap turn it."""
    track = tracker()
    for step in range(40):
        track.update(step * STEP, boxes((5, 0, 0.95, CAR, 0.1)))
    for step in range(40, 40 + int(SURE_HEADING) + 2):
        tracks = track.update(step * STEP, boxes((5, 0, 0.95, CAR, np.pi + 0.1)))
    assert abs(tracks.xyzlwh_yaw[0, 6]) == pytest.approx(np.pi - 0.1, abs=0.3)


@pytest.mark.parametrize(("hidden", "same"), [(9, True), (11, False)])
def test_an_id_outlives_an_occlusion_up_to_the_memory(hidden, same):
    track = tracker(memory_s=1.0)
    for step in range(10):
        before = track.update(step * STEP, boxes((step, 0)))
    for step in range(10, 9 + hidden):
        track.update(step * STEP, boxes())
    after = track.update((9 + hidden) * STEP, boxes((9 + hidden, 0)))
    assert (after.ids.tolist() == before.ids.tolist()) is same


def test_a_hidden_track_is_reported_while_it_coasts_then_only_remembered():
    track = tracker(coast_s=0.25)
    for step in range(5):
        track.update(step * STEP, boxes((0.5 * step, 0)))
    seen = [track.update(step * STEP, boxes()) for step in range(5, 8)]
    assert [len(tracks) for tracks in seen] == [1, 1, 0]
    assert seen[1].missed_s[0] == pytest.approx(0.2)
    assert seen[1].detection.tolist() == [-1]
    assert seen[1].xyzlwh_yaw[0, 0] == pytest.approx(3.0, abs=0.1)
    assert track.update(8 * STEP, boxes((4.0, 0))).ids.tolist() == [0]


def test_birth_is_by_score_or_by_hits():
    track = tracker()
    assert len(track.update(0, boxes((0, 0, 0.95), (20, 0, 0.6), (40, 0, 0.4)))) == 1  # sure at once
    assert len(track.update(STEP, boxes((0, 0, 0.95), (20, 0, 0.6), (40, 0, 0.4)))) == 1
    third = track.update(2 * STEP, boxes((0, 0, 0.95), (20, 0, 0.6), (40, 0, 0.4)))
    assert third.xyzlwh_yaw[:, 0] == pytest.approx([0, 20], abs=0.1)  # three hits; too unsure to begin
    assert third.hits.tolist() == [3, 3]


def test_a_track_on_probation_dies_of_one_miss():
    track = tracker()
    track.update(0, boxes((0, 0, 0.6)))
    track.update(STEP, boxes((0, 0, 0.6)))
    track.update(2 * STEP, boxes())
    counts = [len(track.update(step * STEP, boxes((0, 0, 0.6)))) for step in (3, 4, 5)]
    assert counts == [0, 0, 1]


def test_an_unsure_detection_keeps_a_confirmed_track_and_only_that():
    track = tracker(coast_s=0.0)
    for step in range(3):
        track.update(step * STEP, boxes((0, 0)))
    for step in range(3, 40):
        tracks = track.update(step * STEP, boxes((0, 0, 0.2), (30, 0, 0.2)))
        assert tracks.ids.tolist() == [0]
    assert tracks.scores[0] == pytest.approx(0.2)
    assert len(track.update(40 * STEP, boxes((0, 0, 0.05)))) == 0  # below least_score: no detection at all


def test_unsure_detections_confirm_nothing():
    track = tracker(probation_s=0.35)
    track.update(0, boxes((0, 0, 0.6)))
    assert [len(track.update(step * STEP, boxes((0, 0, 0.3)))) for step in range(1, 4)] == [0, 0, 0]


def test_a_sure_detection_goes_before_a_nearer_unsure_one():
    track = tracker()
    for step in range(5):
        track.update(step * STEP, boxes((0, 0)))
    assert track.update(5 * STEP, boxes((0.0, 0, 0.3), (0.3, 0, 0.9))).detection.tolist() == [1]


def test_crossing_objects_keep_their_ids():
    track = tracker()
    for step in range(40):
        a, b = (-10 + 0.5 * step, 0.4), (10 - 0.5 * step, -0.4)
        tracks = track.update(step * STEP, boxes(a, b) if step % 2 else boxes(b, a))
        by_id = dict(zip(tracks.ids.tolist(), tracks.velocity[:, 0], strict=True))
        if step == 10:
            before = by_id
    assert len(by_id) == 2
    assert all(np.sign(by_id[key]) == np.sign(before[key]) for key in before)


def test_a_jump_beyond_the_gate_is_another_object():
    track = tracker()
    for step in range(5):
        track.update(step * STEP, boxes((0, 0)))
    tracks = track.update(5 * STEP, boxes((6, 0)))
    assert dict(zip(tracks.ids.tolist(), tracks.detection.tolist(), strict=True)) == {0: -1, 1: 0}


def test_classes_do_not_mix():
    track = tracker()
    track.update(0, boxes((0, 0, 0.95, CAR)))
    tracks = track.update(STEP, boxes((0, 0, 0.95, PERSON)))
    assert tracks.labels.tolist() == [CAR, PERSON]
    assert tracks.detection.tolist() == [-1, 0]


def test_uneven_steps_are_taken_from_the_stamps():
    track, moments = tracker(), np.cumsum([0, 0.1, 0.3, 0.05, 0.2, 0.1, 0.4, 0.1, 0.02, 0.1])
    for moment in moments:
        tracks = track.update(round(moment * 1e9), boxes((6 * moment, 0)))
    assert tracks.ids.tolist() == [0]
    assert tracks.velocity[0] == pytest.approx([6, 0], abs=0.15)


def test_empty_frames_change_nothing_but_the_age():
    straight, stepped = tracker(coast_s=1.0), tracker(coast_s=1.0)
    for step in range(6):
        for track in (straight, stepped):
            track.update(step * STEP, boxes((0.5 * step, 0.2 * step)))
    stepped.update(6 * STEP, boxes())
    stepped.update(7 * STEP, boxes())
    a, b = straight.update(8 * STEP, boxes()), stepped.update(8 * STEP, boxes())
    np.testing.assert_allclose(a.xyzlwh_yaw, b.xyzlwh_yaw, atol=1e-3)
    np.testing.assert_allclose(a.missed_s, b.missed_s)


def test_time_that_runs_backwards_starts_anew_with_new_ids():
    track = tracker()
    track.update(10 * STEP, boxes((0, 0)))
    assert track.update(10 * STEP, boxes((0, 0))).ids.tolist() == [0]  # the same stamp is no step back
    assert track.update(2 * STEP, boxes((0, 0))).ids.tolist() == [1]
    assert track.resets == 1


def test_with_odometry_what_stands_still_has_no_velocity():
    tracks, in_odom, odom_free = [], tracker(), tracker()
    for step in range(20):
        sensor = pose(1.0 * step, 0.02 * step**2, 0.03 * step)  # drives and turns
        seen = np.linalg.inv(sensor) @ [30, 5, 0, 1]
        found = boxes((*seen[:2], 0.95, CAR, 0.7 - 0.03 * step))
        tracks = in_odom.update(step * STEP, found, sensor), odom_free.update(step * STEP, found)
    fixed, relative = tracks
    assert fixed.ids.tolist() == [0]
    assert fixed.velocity[0] == pytest.approx([0, 0], abs=0.05)
    assert fixed.xyzlwh_yaw[0, [0, 1, 6]] == pytest.approx([30, 5, 0.7], abs=0.02)
    assert np.hypot(*relative.velocity[0]) > 5


def test_odometry_that_comes_or_goes_starts_anew():
    track = tracker()
    track.update(0, boxes((0, 0)))
    assert track.update(STEP, boxes((0, 0)), np.eye(4)).ids.tolist() == [1]
    assert track.update(2 * STEP, boxes((0, 0)), np.eye(4)).ids.tolist() == [1]
    assert track.resets == 1


detections = st.lists(
    st.tuples(
        st.floats(-50, 50),
        st.floats(-50, 50),
        st.floats(0, 1),
        st.sampled_from([CAR, PERSON]),
        st.floats(-9, 9),
    ),
    max_size=6,
)
drives = st.lists(st.tuples(st.integers(0, 10**10), detections), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(drives)
def test_any_input_gives_the_same_sound_tracks_twice(drive):
    first, second, stamp = tracker(), tracker(), 0
    for step_ns, rows in drive:
        stamp += step_ns
        found = boxes(*rows)
        a, b = first.update(stamp, found), second.update(stamp, found)
        for name in Tracks.__slots__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert len(set(a.ids.tolist())) == len(a)
        used = a.detection[a.detection >= 0]
        assert len(set(used.tolist())) == len(used)
        assert (a.labels[a.detection >= 0] == found.labels[used]).all()
        assert (np.abs(a.xyzlwh_yaw[:, 6]) <= np.pi + 1e-6).all()
        assert np.isfinite(a.xyzlwh_yaw).all()
        assert (np.linalg.eigvalsh(a.covariance.astype(float)) > -1e-4).all()


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (r"xyzlwh_yaw\[1\]", boxes((0, 0), (np.nan, 0))),
        (r"scores\[0\]=1.5", boxes((0, 0, 1.5))),
        (r"scores\[0\]=nan", boxes((0, 0, np.nan))),
        (r"labels\[0\]=2", boxes((0, 0, 0.9, 2))),
        (r"labels\[0\]=-1", boxes((0, 0, 0.9, -1))),
    ],
)
def test_detections_that_cannot_be_used_are_named_and_change_nothing(field, found):
    track = tracker()
    track.update(0, boxes((0, 0)))
    with pytest.raises(TrackingError, match=field):
        track.update(STEP, found)
    assert track.update(STEP, boxes((0, 0))).hits.tolist() == [2]


@pytest.mark.parametrize(
    "matrix", [np.eye(3), np.diag([1, 1, 1, np.nan]), 2 * np.eye(4), np.diag([1, 1, -1, 1])]
)
def test_a_pose_that_is_none_is_refused(matrix):
    with pytest.raises(TrackingError, match="odom_from_sensor"):
        tracker().update(0, boxes((0, 0)), matrix)


def test_settings_that_make_no_sense_are_refused():
    for bad in ({"gate": 1.0}, {"hits_to_confirm": 0}, {"birth_score": 0.05}, {"memory_s": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            replace(LIFE, **bad)
    with pytest.raises(ConfigError, match="acceleration"):
        Motion3D(acceleration=0.0)
    with pytest.raises(ConfigError, match="size_sd"):
        Motion2D(size_sd=float("nan"))
    with pytest.raises(ConfigError, match="2 lives and 1 motions"):
        TrackerConfig3D((LIFE, LIFE), (VEHICLE,))


def test_tracks_check_their_shapes_and_filter():
    tracks = tracker().update(0, boxes((0, 0), (20, 0)))
    assert tracks[tracks.ids == 1].xyzlwh_yaw[0, 0] == pytest.approx(20)
    with pytest.raises(ValueError, match="velocity"):
        replace(tracks, velocity=tracks.velocity[:1])


def image_tracker(**life) -> Tracker2D:
    return Tracker2D(TrackerConfig2D((replace(LIFE, **life),), (Motion2D(),)))


def image(*rows) -> Detections2D:
    array = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Detections2D(array, np.full(len(array), 0.95, np.float32), np.zeros(len(array), np.int64))


def test_a_box_in_the_image_keeps_its_id_while_it_grows_and_is_hidden():
    track = image_tracker(coast_s=1.0)
    for step in [*range(10), 14]:
        left, size = 100 + 4.0 * step, 40 + 2.0 * step
        tracks = track.update(step * STEP, image((left, 50, left + size, 50 + 2 * size)))
    assert tracks.ids.tolist() == [0]
    assert tracks.velocity[0] == pytest.approx([50, 20, 20, 40], abs=6)  # px/s of centre and size
    for step in range(15, 18):
        tracks = track.update(step * STEP, image())
    assert tracks.xyxy[0] == pytest.approx([168, 50, 242, 198], abs=6)
    assert (np.linalg.eigvalsh(tracks.covariance[0].astype(float)) > 0).all()


def test_boxes_side_by_side_keep_their_ids_when_one_is_hidden():
    track = image_tracker()
    for step in range(10):
        tracks = track.update(step * STEP, image((100, 50, 140, 150), (150, 50, 190, 150)))
    for step in range(10, 14):
        tracks = track.update(step * STEP, image((150, 50, 190, 150)))
    assert tracks.ids[tracks.detection == 0].tolist() == [1]
    tracks = track.update(14 * STEP, image((100, 50, 140, 150), (150, 50, 190, 150)))
    assert tracks.ids.tolist() == [0, 1]
    assert tracks.detection.tolist() == [0, 1]


def test_a_box_without_area_is_refused():
    with pytest.raises(TrackingError, match=r"xyxy\[1\]"):
        image_tracker().update(0, image((0, 0, 5, 5), (9, 0, 9, 5)))


# Classes that detectors take for each other, stated covariances, and detectors that fire twice.

NAMES = ("car", "truck", "pedestrian", "cyclist", "sofa")
CAR_, TRUCK, PERSON_, CYCLIST, SOFA = range(5)


def by_names() -> Tracker3D:
    return Tracker3D(config_3d(NAMES, odometry=True))


def one(label, xyz=(20.0, 2.0, 0.8), size=(4.2, 1.8, 1.55), score=0.9) -> Detections3D:
    box = np.array([[*xyz, *size, 0.0]], np.float32)
    return Detections3D(box, np.array([score], np.float32), np.array([label]))


@pytest.mark.parametrize("sizes_follow", [False, True])
def test_a_car_that_is_now_and_then_called_a_truck_stays_one_track(sizes_follow):
    track, ids, labels = by_names(), set(), []
    for step in range(40):
        label = TRUCK if step % 3 == 2 else CAR_
        size = (8.0, 2.5, 1.6) if sizes_follow and label == TRUCK else (4.2, 1.8, 1.55)
        tracks = track.update(step * STEP, one(label, size=size))
        ids |= set(tracks.ids.tolist())
        labels += tracks.labels.tolist()
    assert ids == {0}
    assert set(labels[3:]) == {CAR_}
    assert tracks.xyzlwh_yaw[0, 3] == pytest.approx(4.2, abs=0.2)  # a truck's size is none of a car's


def test_a_track_takes_the_class_that_it_is_mostly_called():
    track = by_names()
    for step in range(40):
        tracks = track.update(step * STEP, one(CAR_ if step < 3 else TRUCK))
    assert tracks.ids.tolist() == [0]
    assert tracks.labels.tolist() == [TRUCK]


@pytest.mark.parametrize("other", [PERSON_, CYCLIST, SOFA])
def test_classes_of_other_groups_do_not_match(other):
    track = by_names()
    for step in range(6):
        track.update(step * STEP, one(CAR_))
    for step in range(6, 12):
        tracks = track.update(step * STEP, one(other))
    assert 0 not in tracks.ids.tolist()


def test_the_stated_covariance_widens_gate_and_gain():
    """A far car that a camera places with 3 m along the ray: one id with the covariance, many without."""
    rng = np.random.default_rng(0)
    places = 40 + rng.normal(0, 3.0, 60), 1 + rng.normal(0, 0.2, 60)
    stated = np.diag([9.0, 0.04, np.pi**2 / 3])[None]
    counts = []
    for covariance in (stated, np.zeros((1, 3, 3)), None):
        track, ids = by_names(), set()
        for step, (x, y) in enumerate(zip(*places, strict=True)):
            tracks = track.update(step * STEP, one(CAR_, (x, y, 0.8)), np.eye(4), covariance)
            ids |= set(tracks.ids.tolist())
        counts.append(len(ids))
        if covariance is stated:
            assert abs(tracks.xyzlwh_yaw[0, 0] - 40) < 2.0
            assert tracks.covariance[0, 0, 0] > 0.2
    assert counts[0] == 1
    assert counts[1] == counts[2] > 3


def test_the_stated_covariance_turns_with_the_sensor():
    track, turned = by_names(), np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]
    track.update(0, one(CAR_), turned, np.diag([9.0, 0.1, 0.1])[None])
    np.testing.assert_allclose(track.stated[0], np.diag([0.1, 9.0, 0.1]), atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_covariance_that_is_none_counts_as_not_stated(bad):
    track = by_names()
    track.update(0, one(CAR_), np.eye(4), np.full((1, 3, 3), bad))
    assert (track.stated == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 0.15))
def test_a_detector_that_fires_twice_makes_one_track(seed, sd):
    rng, track, ids = np.random.default_rng(seed), by_names(), set()
    for step in range(40):
        here = np.array([20 + 0.8 * step, 3.0]) + rng.normal(0, sd, (2, 2))
        found = [one(CAR_, (*xy, 0.8), score=score) for xy, score in zip(here, (0.7, 0.6), strict=True)]
        both = Detections3D(
            *(np.concatenate([getattr(each, name) for each in found]) for name in Detections3D.__slots__)
        )
        ids |= set(track.update(step * STEP, both).ids.tolist())
    assert len(ids) == 1


def test_people_who_walk_side_by_side_are_two():
    track = by_names()
    for step in range(10):
        pair = [one(PERSON_, (5 + 0.1 * step, y, 0.9), (0.6, 0.6, 1.7)) for y in (0.0, 0.55)]
        both = Detections3D(
            *(np.concatenate([getattr(each, name) for each in pair]) for name in Detections3D.__slots__)
        )
        tracks = track.update(step * STEP, both)
    assert tracks.ids.tolist() == [0, 1]


def test_a_detector_s_period_is_the_median_of_the_last_fifteen_steps():
    """A detector that became faster: a track is remembered for four of the periods of now."""
    tracks = tracker(memory_s=0.3)
    stamps = np.cumsum([0, STEP] + [2 * STEP] * 8 + [STEP] * 8)
    ids = [tracks.update(stamp, boxes((10, 0))).ids.tolist() for stamp in stamps.tolist()]
    assert ids == [[0]] * len(stamps)
    later = int(stamps[-1]) + 5 * STEP
    tracks.update(later, boxes())
    assert tracks.update(later + STEP, boxes((10, 0))).ids.tolist() == [1]


def test_of_twins_the_one_of_the_higher_score_is_born():
    found = tracker().update(0, boxes((10, 0, 0.91), (10.2, 0, 0.97), (9.8, 0, 0.93)))
    assert found.scores.tolist() == pytest.approx([0.97])
    assert found.detection.tolist() == [1]


def test_a_stated_covariance_counts_where_it_is_more_than_the_class_is_known_for():
    own, tracks = 2 * VEHICLE.position_sd**2, tracker()
    for share, counts in ((0.99, False), (1.01, True)):
        stated = np.diag([share * own / 2, share * own / 2, 0.0])[None]
        tracks.update(0, boxes((10, 0)), covariance=stated)
        assert tracks.stated == pytest.approx(stated * counts)


@pytest.mark.parametrize("motion", [Motion2D, Motion3D])
@pytest.mark.parametrize("value", [0.0, 1_000_000.5, float("nan"), -1.0])
def test_a_motion_beyond_its_range_is_refused(motion, value):
    with pytest.raises(ConfigError, match="speed="):
        motion(speed=value)


@pytest.mark.parametrize("name", ["least_score", "high_score", "birth_score", "sure_score"])
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_a_score_beyond_0_and_1_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name}="):
        Life(**{name: value})


def test_a_track_is_reported_for_any_row_of_detections_also_outside_the_view():
    life = LifeCycle((LIFE,))
    life.append(np.array([0, 1]), np.array([0.95, 0.95]), np.array([0, 0]))
    assert life.reported(np.zeros(2, bool)).tolist() == [0, 1]


def test_a_class_that_is_heard_of_anew_gets_the_next_label():
    names = ClassNames()
    known = len(names.names)
    assert names.labels(np.array([1, 0, 1]), ["car", "zebra"]).tolist() == [known, 0, known]
    assert names.names[known:] == ["zebra"]
    assert names.slots == [*names.names, *["unknown"] * (MOST_CLASSES - known - 1)]
    for number in range(MOST_CLASSES - known - 1):
        names.labels(np.array([0]), [f"animal {number}"])
    with pytest.raises(TrackingError, match="64 classes already"):
        names.labels(np.array([0]), ["one too many"])
