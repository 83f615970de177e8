"""The noise of positions, learned from the positions."""

import numpy as np
import pytest

from perception_rt.stage.prediction.noise import LEAST_SCALE, NoiseScale


def learned(sd, stated_sd, steps_s, seed=0, count=100):
    rng = np.random.default_rng(seed)
    scale = NoiseScale(2)
    rows, labels = np.arange(count), np.ones(count, np.int64)
    scale.align(np.full(count, -1), np.zeros(count, bool))
    velocity = rng.normal(0, 2, (count, 2))
    for time_s in np.cumsum(steps_s):
        xy = velocity * time_s + rng.normal(0, sd, (count, 2))
        scale.observe(rows, time_s, xy, np.full(count, stated_sd**2), labels)
    return scale


@pytest.mark.parametrize(
    "steps_s", [np.full(60, 0.1), np.tile([0.1, 0.15, 0.05, 0.2], 15)], ids=["even", "uneven"]
)
@pytest.mark.parametrize(("sd", "stated"), [(0.1, 0.1), (0.05, 0.1), (0.15, 0.1)])
def test_the_true_noise_is_found(sd, stated, steps_s):
    scale = learned(sd, stated, steps_s)
    assert scale.of(np.array([1]))[0] == pytest.approx((sd / stated) ** 2, rel=0.3)
    assert scale.of(np.array([0]))[0] != scale.of(np.array([1]))[0]  # of another class nothing is known


def test_exact_positions_are_trusted():
    assert learned(0.0, 0.1, np.full(60, 0.1)).of(np.array([1]))[0] == pytest.approx(LEAST_SCALE, abs=0.05)


def test_what_was_learned_outlives_the_objects():
    scale = learned(0.05, 0.1, np.full(60, 0.1))
    before = scale.of(np.array([1]))[0]
    scale.forget()
    assert scale.of(np.array([1]))[0] == before


def test_three_positions_bound_the_noise():
    """Four tell it; three that lie in a line show already that it is far below what is stated."""
    assert learned(0.0, 0.1, np.full(3, 0.1)).of(np.array([1]))[0] < 0.03
    assert learned(0.1, 0.1, np.full(3, 0.1)).of(np.array([1]))[0] > 0.7
