"""The stage's replacements for parts of SciPy, against SciPy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaincinv

from perception_rt.stage.assignment import linear_sum_assignment
from perception_rt.stage.quantiles import chi_square_quantile


@given(st.floats(0.001, 1 - 1e-9), st.integers(1, 9))
def test_quantiles_are_those_of_scipy(share, degrees):
    assert chi_square_quantile(share, degrees) == pytest.approx(2 * gammaincinv(degrees / 2, share), rel=1e-6)


@pytest.mark.parametrize("maximize", [False, True])
def test_assignment_is_that_of_scipy(maximize):
    cost = np.random.default_rng(1).random((20, 30))
    ours, theirs = (
        solve(cost, maximize=maximize)
        for solve in (linear_sum_assignment, scipy.optimize.linear_sum_assignment)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_assignment_imports_no_more_of_scipy_and_leaves_it_usable():
    code = (
        "import sys, perception_rt.stage.assignment\n"
        "assert not {'scipy', 'scipy.optimize', 'scipy.linalg'} & set(sys.modules)\n"
        "import scipy.optimize; assert scipy.optimize.linear_sum_assignment([[1, 2]])[1] == [0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
