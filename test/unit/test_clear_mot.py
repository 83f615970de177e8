"""CLEAR MOT over recall, compared with cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perception_rt.replay.clear_mot import Trajectories, score_tracks

APART = 20.0  # m between objects


def trajectories(*rows) -> Trajectories:
    """Rows of (frame, id, object, score, ignored), the last two as far as given; `object` tells where."""
    full = sorted((*row, *(0.0, False)[len(row) - 3 :]) for row in rows)
    place = np.array([[APART * row[2], 0, 0, 4, 2, 1.5, 0.3] for row in full], float).reshape(-1, 7)
    return Trajectories(
        frames=np.array([row[0] for row in full], np.int64),
        ids=np.array([row[1] for row in full], np.int64),
        xyzlwh_yaw=place,
        ignored=np.array([row[4] for row in full], bool),
        scores=np.array([row[3] for row in full], float),
    )


def along(ids, ignored=()):
    """Counts for one truth of object 0 that has the track `ids[f]` in frame f; None for none."""
    truth = trajectories(*((f, 7, 0, 0.0, f in ignored) for f in range(len(ids))))
    tracks = trajectories(*((f, track, 0) for f, track in enumerate(ids) if track is not None))
    return score_tracks([(truth, tracks)]).best


def test_what_is_tracked_throughout_is_without_fault():
    truth = trajectories(*((f, i, i) for f in range(50) for i in range(4)))
    tracks = trajectories(*((f, i + 10, i, 1.0 + i) for f in range(50) for i in range(4)))
    score = score_tracks([(truth, tracks)])
    assert score.samota == pytest.approx(1.0)
    assert score.best.mota == 1.0
    assert (score.best.truths, score.best.pairs, score.best.errors, score.best.fragments) == (200, 200, 0, 0)


def test_recall_that_is_never_reached_counts_as_nothing():
    truth = trajectories(*((f, i, i) for f in range(100) for i in range(4)))
    tracks = trajectories(*((f, 0, 0, 1.0) for f in range(100)))
    score = score_tracks([(truth, tracks)])
    assert score.samota == pytest.approx(10 / 40)  # a quarter of the truths, without any other error
    assert (score.best.mota, score.best.misses) == (0.25, 300)


@pytest.mark.parametrize(
    ("ids", "switches", "fragments"),
    [
        ((1, 1, 1, 1), 0, 0),
        ((1, 1, 2, 2), 1, 1),
        ((1, None, 1, 1), 0, 1),
        ((1, None, 2, 2), 0, 1),  # no track in the frame before: KITTI calls it no switch
        ((1, 2, 1, 2), 3, 3),
        ((None, 1, 1, 1), 0, 0),
        ((1, 1, None, None), 0, 0),
        ((1, None, 1, None), 0, 0),  # what begins anew and ends at once is no fragment either
        ((1, 1, None, 1), 0, 1),
    ],
)
def test_switches_and_fragments_along_one_truth(ids, switches, fragments):
    counts = along(ids)
    assert (counts.switches, counts.fragments) == (switches, fragments)
    assert counts.misses == ids.count(None)


def test_an_ignored_frame_forgets_what_was_before_it():
    assert along((1, 1, 2, 2), ignored=(1,)).switches == 0
    assert along((1, 1, 2, 2)).switches == 1


def test_an_ignored_truth_is_no_miss_and_its_track_no_error():
    truth = trajectories((0, 1, 0), (0, 2, 1, 0.0, True), (0, 3, 2, 0.0, True))
    counts = score_tracks([(truth, trajectories((0, 1, 0), (0, 2, 1)))]).best
    assert (counts.truths, counts.misses, counts.false_tracks) == (1, 0, 0)


def test_an_ignored_track_is_no_error_but_may_be_right():
    truth = trajectories((0, 1, 0), (1, 1, 0))
    tracks = trajectories((0, 1, 0, 1.0, True), (0, 2, 5, 1.0, True), (1, 3, 5, 1.0, False))
    counts = score_tracks([(truth, tracks)]).best
    assert (counts.pairs, counts.misses, counts.false_tracks) == (1, 1, 1)


@pytest.mark.parametrize(("shift", "pairs"), [(2.3, 1), (2.5, 0)])  # 1.7 / 6.3 and 1.5 / 6.5 overlap
def test_boxes_pair_from_a_quarter_of_overlap_on(shift, pairs):
    truth, tracks = trajectories((0, 1, 0)), trajectories((0, 1, 0))
    tracks.xyzlwh_yaw[:, :2] += shift * np.array([np.cos(0.3), np.sin(0.3)])
    counts = score_tracks([(truth, tracks)]).best
    assert (counts.pairs, counts.misses, counts.false_tracks) == (pairs, 1 - pairs, 1 - pairs)


def test_as_many_pairs_as_can_be_then_the_closest():
    """Truths at 0 and 2 m, tracks at 0.9 and -1.5: the closest pair of all would leave one of each alone."""
    truth = trajectories((0, 1, 0), (0, 2, 0.1))
    tracks = trajectories((0, 8, 0.045), (0, 9, -0.075))
    for boxes in (truth.xyzlwh_yaw, tracks.xyzlwh_yaw):
        boxes[:, 6] = 0
    counts = score_tracks([(truth, tracks)]).best
    assert (counts.pairs, counts.false_tracks) == (2, 0)


def test_tracks_are_dropped_whole_by_their_mean_confidence():
    truth = trajectories(*((f, 1, 0) for f in range(40)))
    right = [(f, 1, 0, 1.0 + 4 * (f % 2)) for f in range(40)]  # 3 on average
    unsure = [(f, 2, 3, 2.0) for f in range(40)]
    score = score_tracks([(truth, trajectories(*right, *unsure))])
    assert (score.best.mota, score.threshold) == (1.0, 3.0)
    sure = [(f, 2, 3, 4.0) for f in range(10)]
    assert score_tracks([(truth, trajectories(*right, *sure))]).best.false_tracks == 10


def test_counts_add_up_over_recordings_whose_ids_are_their_own():
    one = trajectories((0, 1, 0), (1, 1, 0)), trajectories((0, 1, 0), (1, 1, 0))
    other = trajectories((0, 1, 0), (1, 1, 0)), trajectories((0, 5, 0), (1, 6, 0))
    counts = score_tracks([one, other]).best
    assert (counts.truths, counts.pairs, counts.switches) == (4, 4, 1)


def test_without_tracks_everything_is_missed():
    score = score_tracks([(trajectories((0, 1, 0), (1, 1, 0)), trajectories())])
    assert (score.samota, score.best.mota, score.best.misses) == (0.0, 0.0, 2)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="no truth"):
        score_tracks([(trajectories((0, 1, 0, 0.0, True)), trajectories())])
    with pytest.raises(ValueError, match="twice"):
        trajectories((0, 1, 0), (0, 1, 2))
    with pytest.raises(ValueError, match="at least 0"):
        trajectories((0, -1, 0))
    with pytest.raises(ValueError, match="not decrease"):
        Trajectories(np.array([1, 0]), np.arange(2), np.zeros((2, 7)), np.zeros(2, bool), np.zeros(2))
    with pytest.raises(ValueError, match="xyzlwh_yaw"):
        Trajectories(np.arange(2), np.arange(2), np.zeros((1, 7)), np.zeros(2, bool), np.zeros(2))
