"""Build inline SVG: elements with escaped text, scales and chart frames.

Charts are about as wide as a phone and laid out in a grid, so that their text is always legible;
colours are classes of the style sheet, which has a light and a dark theme.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 400.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 392.0, 10.0, 172.0
"""Frame of the data, px."""
_TICK_PX = 34.0
_NICE = (1, 2, 2.5, 5, 10)
_LOG_DIGITS = (
    ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9), 1),
    ((1, 1.5, 2, 3, 4, 5, 7), 1),
    ((1, 2, 5), 1),
    ((1, 3), 1),
    ((1,), 1),
    ((1,), 2),
)
"""Tick digits within a decade, and the step between decades; densest first."""


def element(name: str, *content: str | Markup, **attributes: object) -> Markup:
    """Return `<name attributes>content</name>` with escaped content; `class_` becomes class, `a_b` a-b."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    inside = Markup("").join(Markup(' {}="{}"').format(key, _short(value)) for key, value in given.items())
    return Markup("<{}{}>{}</{}>").format(name, inside, Markup("").join(map(escape, content)), name)


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Scale:
    """Map values in `low`..`high` to pixels in `start`..`end`, linearly or logarithmically."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False  # ticks at whole numbers only

    def __call__(self, values: float | np.ndarray) -> np.ndarray:
        """Return the pixels of values."""
        low, high, given = self.low, self.high, np.asarray(values, np.float64)
        if self.log:
            # What lies below is drawn at the start, zero among it.
            low, high, given = np.log10(low), np.log10(high), np.log10(np.maximum(given, low))
        return self.start + (given - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values in the range, spaced so that their labels fit."""
        return _log_ticks(self) if self.log else _linear_ticks(self)


def _linear_ticks(scale: Scale) -> list[float]:
    most = max(abs(scale.end - scale.start) / _TICK_PX / (2 if scale.end > scale.start else 1), 1)
    rough = (scale.high - scale.low) / most
    decade = 10.0 ** np.floor(np.log10(rough))
    step = decade * next(nice for nice in _NICE if nice * decade >= rough * 0.999)
    step = max(step, 1.0) if scale.whole else step
    first, last = np.ceil(scale.low / step - 1e-9), np.floor(scale.high / step + 1e-9)
    return [float(f"{step * i:.6g}") for i in range(int(first), int(last) + 1)]


def _log_ticks(scale: Scale) -> list[float]:
    """Return the densest set of decade ticks that fits."""
    decades = range(int(np.floor(np.log10(scale.low))), int(np.ceil(np.log10(scale.high))) + 1)
    most = abs(scale.end - scale.start) / _TICK_PX / 1.4
    for digits, every in _LOG_DIGITS:
        ticks = [float(f"{digit}e{decade}") for decade in decades[::every] for digit in digits]
        ticks = [tick for tick in ticks if scale.low * 0.999 <= tick <= scale.high * 1.001]
        if len(ticks) <= most:
            break
    return ticks


class Chart(NamedTuple):
    """A chart of the page. `keys` are the legend's colours (as classes) and labels, `note` is a caption."""

    title: str
    svg: Markup
    keys: Sequence[tuple[str, str]] = ()
    note: str = ""


def x_scale(low: float, high: float, log: bool = False) -> Scale:
    """Return the horizontal scale of the frame."""
    return Scale(low, high, LEFT, RIGHT, log)


def y_scale(low: float, high: float, whole: bool = False) -> Scale:
    """Return the vertical scale of the frame."""
    return Scale(low, high, BOTTOM, TOP, whole=whole)


def number(value: float) -> str:
    """Return a number as text, to three or four digits."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}"


def chart(
    label: str, x: Scale, y: Scale, x_title: str, y_title: str, marks: Iterable[Markup], shares: bool = False
) -> Markup:
    """Return an SVG with marks between axes.

    Args:
        label: text for screen readers.
        x, y: scales of the axes.
        x_title, y_title: with units.
        marks: elements, in drawing order.
        shares: show y in per cent.
    """
    lines = []
    for tick in y.ticks():
        at = float(y(tick))
        text = f"{tick:.0%}" if shares else number(tick)
        lines.append(element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=at, y2=at))
        lines.append(element("text", text, class_="tick", x=LEFT - 6, y=at + 4, text_anchor="end"))
    for tick in x.ticks():
        at = float(x(tick))
        lines.append(element("line", class_="axis", x1=at, x2=at, y1=BOTTOM, y2=BOTTOM + 4))
        lines.append(element("text", number(tick), class_="tick", x=at, y=BOTTOM + 17, text_anchor="middle"))
    lines.append(element("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM))
    middle = (LEFT + RIGHT) / 2
    titles = [
        element("text", x_title, class_="title", x=middle, y=HEIGHT - 4, text_anchor="middle"),
        element(
            "text", y_title, class_="title", transform=f"translate(11 {(TOP + BOTTOM) / 2:.0f}) rotate(-90)",
            text_anchor="middle",
        ),
    ]  # fmt: skip
    size = f"0 0 {WIDTH:.0f} {HEIGHT:.0f}"
    return element("svg", *lines, *marks, *titles, viewBox=size, role="img", aria_label=label)


def note(text: str) -> Markup:
    """Return a tooltip."""
    return element("title", text)


def line(xs: np.ndarray, ys: np.ndarray, class_: str) -> Markup:
    """Draw a line through pixels; NaN interrupts it."""
    return element("path", class_=f"line {class_}", d=_moves(_runs(xs, ys)))


def band(xs: np.ndarray, low: np.ndarray, high: np.ndarray, class_: str) -> Markup:
    """Fill the area between two lines of pixels; NaN interrupts it."""
    loops = []
    for run in _runs(xs, low + high):
        start = np.searchsorted(xs, run[0, 0])
        here = slice(start, start + len(run))
        there = np.column_stack((xs[here], high[here]))
        loops.append(np.concatenate((there, np.column_stack((xs[here], low[here]))[::-1])))
    return element("path", class_=f"band {class_}", d=_moves(loops))


def bars(lefts: np.ndarray, widths: np.ndarray, low: np.ndarray, high: np.ndarray, class_: str) -> Markup:
    """Draw vertical bars as one path; bars without height are skipped."""
    there = low - high > 1e-6
    rows = zip(lefts[there], widths[there], low[there], high[there], strict=True)
    path = "".join(f"M{x:.1f} {a:.1f}h{w:.1f}V{b:.1f}h{-w:.1f}z" for x, w, a, b in rows)
    return element("path", class_=f"bar {class_}", d=path)


def dots(xs: np.ndarray, ys: np.ndarray, class_: str, notes: Sequence[str]) -> Markup:
    """Draw points with tooltips."""
    rows = zip(xs.tolist(), ys.tolist(), notes, strict=True)
    marks = (element("circle", note(text), cx=round(x, 1), cy=round(y, 1), r=2.2) for x, y, text in rows)
    return element("g", *marks, class_=f"dot {class_}")


def hover(lefts: np.ndarray, widths: np.ndarray, notes: Sequence[str]) -> Markup:
    """Draw invisible columns of full height with tooltips."""
    rows = zip(lefts.tolist(), widths.tolist(), notes, strict=True)
    marks = (
        element(
            "rect", note(text), x=round(x, 1), y=TOP, width=round(max(width, 0.1), 1), height=BOTTOM - TOP
        )
        for x, width, text in rows
        if text
    )
    return element("g", *marks, class_="hover")


def _runs(xs: np.ndarray, ys: np.ndarray) -> list[np.ndarray]:
    """Return the stretches without NaN, each (N, 2)."""
    there = np.isfinite(ys)
    points = np.column_stack((xs, ys))
    cuts = np.flatnonzero(np.diff(there.astype(np.int8))) + 1
    return [run for run in np.split(points, cuts) if len(run) and np.isfinite(run[0, 1])]


def _moves(runs: Iterable[np.ndarray]) -> str:
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run.tolist()) for run in runs)
