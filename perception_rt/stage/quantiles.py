"""Quantiles of the chi-square distribution with the standard library, as `scipy.special` takes 30 MB."""

from __future__ import annotations

from math import erfc, exp, gamma, sqrt


def chi_square_beyond(distance: float, degrees: int) -> float:
    """Return the probability that a squared distance with `degrees` degrees of freedom exceeds `distance`.

    Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.4.4 and 26.4.5.
    """
    half = distance / 2
    beyond, first = (erfc(sqrt(half)), 1) if degrees % 2 else (exp(-half), 2)
    for lower in range(first, degrees, 2):
        beyond += half ** (lower / 2) * exp(-half) / gamma(lower / 2 + 1)
    return beyond


def chi_square_quantile(share: float, degrees: int) -> float:
    """Return the squared distance that a share in (0, 1) does not exceed, by bisection."""
    low, high = 0.0, 1.0
    while chi_square_beyond(high, degrees) > 1 - share:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if chi_square_beyond(middle, degrees) > 1 - share else (low, middle)
    return high
