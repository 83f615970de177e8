"""Scores of tracks compared with TrackEval, the reference for HOTA, and with cases counted by hand."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from perception_rt.replay.score.hota import ALPHAS, TrackFrame, hota
from perception_rt.replay.score.tracking import clear_mot

# TrackEval 1.3.0 (PyPI) on `at_random(seed)`: HOTA, DetA, AssA (means), IDF1, and CLEAR at 0.5: TP, FN, FP.
# It is not among the dependencies, because it brings an OpenCV that replaces the headless one; where it is
# installed without its own (`pip install --no-deps trackeval tabulate`), the last test here asks it itself.
REFERENCE = {
    0: (0.257131637, 0.398708533, 0.16825507, 0.27804878, 110, 88, 102),
    1: (0.326121444, 0.48730699, 0.219699727, 0.35883905, 126, 60, 67),
    2: (0.337947233, 0.459030742, 0.251434658, 0.37593985, 119, 81, 80),
    3: (0.311990697, 0.435959214, 0.224549031, 0.330935252, 118, 81, 100),
    4: (0.31327325, 0.451095538, 0.218648568, 0.330708661, 116, 68, 81),
    5: (0.248432319, 0.451684796, 0.138405156, 0.257217848, 116, 72, 77),
}


def at_random(seed: int, frames: int = 40, objects: int = 6) -> list[TrackFrame]:
    """Objects that come and go; tracks that miss, swap, split and invent; similarities of any size."""
    rng = np.random.RandomState(seed)  # whose numbers are the same in every version of NumPy
    alive = rng.rand(frames, objects) < 0.8
    track_of = np.arange(objects) + 10
    made = []
    for frame in range(frames):
        if rng.rand() < 0.3:
            a, b = rng.randint(0, objects, 2)
            track_of[[a, b]] = track_of[[b, a]]
        if rng.rand() < 0.1:
            track_of[rng.randint(objects)] = 100 + frame
        truths = np.flatnonzero(alive[frame])
        seen = truths[rng.rand(len(truths)) < 0.85]
        tracks = np.concatenate([track_of[seen], 1000 + np.arange(rng.randint(0, 3))])
        similarity = rng.rand(len(truths), len(tracks)) * 0.45
        for column, of in enumerate(seen):
            similarity[np.flatnonzero(truths == of), column] = 0.3 + 0.7 * rng.rand()
        made.append(TrackFrame(truths.astype(np.int64), tracks.astype(np.int64), similarity))
    return made


def trackeval_on(frames: list[TrackFrame]) -> tuple[float, ...]:
    """(HOTA, DetA, AssA, IDF1, TP, FN, FP) as TrackEval has them."""
    metrics = importlib.import_module("trackeval.metrics")
    truth_ids, track_ids = (
        np.unique(np.concatenate([getattr(frame, name) for frame in frames]))
        for name in ("truth_ids", "track_ids")
    )
    data = {
        "num_gt_dets": sum(len(frame.truth_ids) for frame in frames),
        "num_tracker_dets": sum(len(frame.track_ids) for frame in frames),
        "num_gt_ids": len(truth_ids),
        "num_tracker_ids": len(track_ids),
        "num_timesteps": len(frames),
        "gt_ids": [np.searchsorted(truth_ids, frame.truth_ids) for frame in frames],
        "tracker_ids": [np.searchsorted(track_ids, frame.track_ids) for frame in frames],
        "similarity_scores": [frame.similarity for frame in frames],
    }
    of = metrics.HOTA().eval_sequence(data)
    identity = metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    clear = metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    means = [float(of[name].mean()) for name in ("HOTA", "DetA", "AssA")]
    return (*means, float(identity["IDF1"]), *(int(clear[name]) for name in ("CLR_TP", "CLR_FN", "CLR_FP")))


def ours_on(frames: list[TrackFrame]) -> tuple[float, ...]:
    """The same numbers of our own."""
    counts = clear_mot(frames, 0.5)
    idf1 = 2 * counts["idtp"] / (2 * counts["idtp"] + counts["idfp"] + counts["idfn"])
    found = counts["num_objects"] - counts["num_misses"]
    return (*hota(frames), idf1, found, counts["num_misses"], counts["num_false_positives"])


@pytest.mark.parametrize("seed", sorted(REFERENCE))
def test_scores_are_those_of_trackeval(seed):
    assert ours_on(at_random(seed)) == pytest.approx(REFERENCE[seed], abs=1e-8)


def test_scores_are_those_of_trackeval_where_it_is_installed():
    pytest.importorskip("trackeval", reason="trackeval is not installed (it need not be: see REFERENCE)")
    for seed in range(20, 30):
        frames = at_random(seed, frames=15)
        assert ours_on(frames) == pytest.approx(trackeval_on(frames), abs=1e-12)


def one_truth(*tracks, similarity=0.8) -> list[TrackFrame]:
    """A truth that has the track `tracks[f]` in frame f; None for none."""
    ids = [np.array([] if track is None else [track], np.int64) for track in tracks]
    return [TrackFrame(np.zeros(1, np.int64), i, np.full((1, len(i)), similarity)) for i in ids]


def test_a_truth_with_one_track_scores_one_up_to_its_overlap():
    score = hota(one_truth(5, 5, 5, 5))
    assert score.hota == pytest.approx((ALPHAS <= 0.8 + 1e-9).mean())  # 16 of 19 overlaps
    assert score.det_a == score.ass_a == score.hota


def test_a_track_that_is_cut_in_half_is_half_associated():
    score = hota(one_truth(1, 1, 2, 2, similarity=1.0))
    assert score.det_a == 1
    assert score.ass_a == pytest.approx(0.5)  # each pair: 2 of 4 frames of the truth
    assert score.hota == pytest.approx(math.sqrt(0.5))


def test_missing_frames_cost_detection_and_association():
    score = hota(one_truth(1, None, 1, None, similarity=1.0))
    assert (score.det_a, score.ass_a) == (pytest.approx(0.5), pytest.approx(0.5))


def test_without_truths_and_tracks_there_is_no_score_and_without_one_of_them_it_is_zero():
    nothing = np.zeros(0, np.int64)
    assert all(math.isnan(value) for value in hota([TrackFrame(nothing, nothing, np.zeros((0, 0)))]))
    assert hota(one_truth(None, None)) == (0, 0, 0)
    assert hota([TrackFrame(nothing, np.ones(1, np.int64), np.zeros((0, 1)))]) == (0, 0, 0)


def test_a_swap_is_counted_as_a_switch():
    counts = clear_mot(one_truth(1, 1, 2, 2), 0.5)
    assert (counts["num_switches"], counts["num_misses"], counts["num_false_positives"]) == (1, 0, 0)
    assert clear_mot(one_truth(1, 1, 1, 1), 0.9)["num_misses"] == 4  # overlaps of 0.8 are not enough
