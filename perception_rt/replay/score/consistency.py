"""Consistency of estimates: share within the 95 % ellipse, and normalised squared error (NEES)."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

SHARE = 0.95


def ellipses(errors: np.ndarray, covariances: np.ndarray) -> dict | None:
    """Check how well covariances match the errors of estimates.

    NEES as of Bar-Shalom, Li and Kirubarajan, "Estimation with applications to tracking and navigation",
    2001, section 5.4: the squared error in units of the covariance; its mean should be K.

    Args:
        errors: (N, K). covariances: (N, K, K); estimates whose covariance is not positive definite (zero
            means unknown) are left out.

    Returns:
        `{"count", "within_95", "nees", "nees_expected", "without_covariance"}`: `within_95` is the share of
        errors inside the 95 % ellipse; None without estimates.
    """
    if not len(errors):
        return None
    usable = _positive(covariances)
    dimensions = errors.shape[1]
    result = {
        "count": int(usable.sum()),
        "within_95": None,
        "nees": None,
        "nees_expected": dimensions,
        "without_covariance": int((~usable).sum()),
    }
    if usable.any():
        kept = errors[usable]
        nees = (kept * np.linalg.solve(covariances[usable], kept[..., None])[..., 0]).sum(1)
        result |= {
            "within_95": float((nees <= chi2.ppf(SHARE, dimensions)).mean()),
            "nees": float(nees.mean()),
        }
    return result


def _positive(covariances: np.ndarray) -> np.ndarray:
    finite = np.isfinite(covariances).all((1, 2))
    least = np.linalg.eigvalsh(np.where(finite[:, None, None], covariances, 0.0))[:, 0]
    return finite & (least > 1e-12)
