"""How far off predictions are: what is learned while running, and what a table of radii says in between."""

from __future__ import annotations

import numpy as np
import pytest

from bench.prediction_inputs import bare_tracks
from perception_rt.stage.prediction import spread
from perception_rt.stage.prediction.motion import PEDESTRIAN, VEHICLE
from perception_rt.stage.prediction.predictor import ObjectPredictor, PredictorConfig
from perception_rt.stage.prediction.spread import GAUSSIAN, LEADS_S, Errors, Spread

LEADS = (0.3, 0.6, 1.0), (0.75, 1.5, 2.5)
SPREAD = Spread(0.1, 1.0, *LEADS, (1.0, 2.0, 4.0), (1.0, 3.0, 8.0), (2.0, 7.0, 20.0))
STEP_NS = 400_000_000


def walked(wander: float, steps: int = 60, count: int = 40, kind=PEDESTRIAN):
    """Predictions of people whose velocity wanders, and where they are then: (T,) shares held at 50, 95 %."""
    rng = np.random.default_rng(1)
    velocity = rng.normal(0, 1, (count, 2))
    places = np.cumsum(velocity + np.cumsum(rng.normal(0, wander, (steps, count, 2)), 0), 0) * 0.4
    predictor = ObjectPredictor(PredictorConfig((kind,), 2.0, 0.4))
    labels, inside, total = np.zeros(count, np.int64), np.zeros((2, 5)), 0
    for step in range(steps - 5):
        found = predictor.update(step * STEP_NS, bare_tracks(places[step], labels, 2.0), places[step])
        if step > 25:
            error = places[step + 1 : step + 6].swapaxes(0, 1) - found.xy
            distance = np.sqrt(np.einsum("nti,ntij,ntj->nt", error, np.linalg.inv(found.covariance), error))
            inside += [(distance <= found.half_distance).sum(0), (distance <= GAUSSIAN[1]).sum(0)]
            total += count
    return inside / total


@pytest.mark.parametrize("wander", [0.02, 0.1, 0.4])
def test_ellipses_adapt_to_how_people_move(wander):
    """Twenty times as restless: what is held after some time stays near what is said."""
    half, most = walked(wander)
    assert ((half[:3] > 0.35) & (half[:3] < 0.65)).all()  # to 1.2 s ahead, where errors are followed
    assert ((most[:3] > 0.85) & (most[:3] <= 0.99)).all()


def test_classes_without_a_spread_keep_the_filters_ellipses():
    predictor = ObjectPredictor(PredictorConfig((VEHICLE,), 2.0, 0.5))
    xy = np.zeros((1, 2))
    found = predictor.update(0, bare_tracks(xy, np.zeros(1, np.int64), 2.0), xy)
    np.testing.assert_allclose(found.half_distance, GAUSSIAN[0])


def test_radii_are_those_of_the_table_and_grow_between_and_beyond():
    half, most = SPREAD.radii(np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0]))
    np.testing.assert_allclose(half[[1, 3, 5]], SPREAD.half)
    np.testing.assert_allclose(most[[1, 3, 5]], SPREAD.most)
    assert (np.diff(half) > 0).all()
    assert (np.diff(most) > 0).all()


def test_before_anything_is_seen_the_recordings_count():
    np.testing.assert_allclose(Errors([SPREAD, None]).factors()[..., 0], 1, rtol=0.05)


def test_one_that_is_away_for_long_is_not_checked():
    errors = Errors([SPREAD])
    errors.align(np.array([-1]), np.array([False]))
    rows, label, velocity = np.array([0]), np.zeros(1, np.int64), np.array([[1.0, 0.0]])
    before = errors.factors().copy()
    for step in range(15):
        errors.advance(0.1)
        errors.observe(rows, 0.1, np.array([[0.1 * step, 0.0]]), velocity, label)
    errors.advance(30.0)
    errors.observe(rows, 30.0, np.array([[500.0, 0.0]]), velocity, label)
    np.testing.assert_allclose(errors.factors(), before)


def test_errors_that_grow_faster_than_the_recordings_go_on_growing():
    """Beyond the last lead the factors follow their trend, damped; before the first they stay."""
    errors = Errors([SPREAD])
    for lead, times in enumerate((1.0, 2.0, 4.0)):
        bins = np.searchsorted(spread._BINS, times)
        errors._counts[lead, 0, bins] += 1e6
    growth = errors.growth(np.array([0.2, *LEADS_S, 2.4, 4.8]))[0, 0]
    assert growth[:4] == pytest.approx([1, 1, 2, 4], rel=0.1)
    assert 4 < growth[4] < growth[5] <= 4 * (4.8 / 1.2) ** spread.MOST_TREND + 1e-9
