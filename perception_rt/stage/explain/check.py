"""The occlusion check: compare the marked part of a heat map with random parts of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class OcclusionCheck:
    """How much of a detection's score is lost if a part of the input is removed, as a share of the score.

    Attributes:
        size: of the part, in pixels or points.
        share: of the input.
        marked: loss without the part that the heat map marks.
        random: loss without a part of the same size and shape elsewhere in the input, for each try.
        near: the same beside or on the detection.
    """

    size: int
    share: float
    marked: float
    random: tuple[float, ...]
    near: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Return whether the marked part matters more than 95 % of the random ones."""
        beaten = sum(self.marked > other for other in self.random)
        return bool(self.random) and beaten >= 0.95 * len(self.random)

    def text(self, what: str) -> str:
        """Return one line with the figures."""
        verdict = "more" if self.holds else "NO more"
        near = f", beside or on the object {_range(self.near)}" if self.near else ""
        return (
            f"without the marked {self.share:.2%} of the {what} {self.marked:.0%} of the score is lost, "
            f"without as much elsewhere {_range(self.random)}{near}: the marked part matters {verdict} than "
            "a random one"
        )


def check_parts(
    lost: Callable[[np.ndarray], float],
    marked: np.ndarray,
    random: Iterable[np.ndarray],
    near: Iterable[np.ndarray],
) -> OcclusionCheck:
    """Measure the loss without each part.

    Args:
        lost: returns the loss for an input without the elements of a bool mask.
        marked: the mask of the heat map.
        random, near: masks of the same size.
    """
    return OcclusionCheck(
        size=int(marked.sum()),
        share=float(marked.mean()),
        marked=lost(marked),
        random=tuple(lost(mask) for mask in random),
        near=tuple(lost(mask) for mask in near),
    )


def strongest(heat: np.ndarray, count: int) -> np.ndarray:
    """Return a mask of the `count` greatest values."""
    order = np.argsort(-heat, axis=None, kind="stable")[:count]
    mask = np.zeros(heat.size, bool)
    mask[order] = True
    return mask.reshape(heat.shape)


def _range(values: tuple[float, ...]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.0%} (at most {max(values):.0%} in {len(values)})"
