"""The occlusion check: does what a heat map marks matter more than a random part of the same size?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class OcclusionCheck:
    """What is lost of a detection when a part of the input is taken away, as a part of what was there.

    Attributes:
        size: of the part, in pixels or points.
        share: of the input.
        marked: lost without the part that the heat map marks.
        random: lost without a part of the same size and shape elsewhere in the input, for each try.
        near: the same beside or on the detection.
    """

    size: int
    share: float
    marked: float
    random: tuple[float, ...]
    near: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the marked part matters more than 95 % of the random ones."""
        beaten = sum(self.marked > other for other in self.random)
        return bool(self.random) and beaten >= 0.95 * len(self.random)

    def text(self, what: str) -> str:
        """One line with the figures."""
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
    """Measure what is lost without each part.

    Args:
        lost: of an input without the elements of a bool mask.
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
    """Mask of the `count` greatest values."""
    order = np.argsort(-heat, axis=None, kind="stable")[:count]
    mask = np.zeros(heat.size, bool)
    mask[order] = True
    return mask.reshape(heat.shape)


def _range(values: tuple[float, ...]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.0%} (at most {max(values):.0%} in {len(values)})"
