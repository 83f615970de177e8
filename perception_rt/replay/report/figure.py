"""Draw the charts of the page as one PNG, for use without a browser."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from perception_rt.replay.report.charts import words
from perception_rt.replay.report.colours import LIGHT
from perception_rt.replay.report.svg import HEIGHT, WIDTH, Chart, element

LOG = logging.getLogger(__name__)
_COLUMNS, _MOST_ROWS = 4, 12
_HEADING, _TITLE = 26.0, 32.0
_STYLE = (
    "text{fill:#5a646e;font-size:12px} .heading{font-size:15px;font-weight:bold;fill:#1d2329}"
    ".grid{stroke:#e8eaec} .axis{stroke:#5a646e;stroke-width:.8} .hover{display:none}"
    ".line{fill:none;stroke-width:1.8;stroke-linejoin:round} .thin{stroke-width:1;opacity:.55}"
    ".faint{stroke-width:.8;opacity:.5} .mark{stroke:#1d2329;stroke-width:.8;stroke-dasharray:3 3}"
    ".ideal{stroke:#5a646e;stroke-dasharray:4 4} .band{opacity:.2}"
) + "".join(
    f".line.{name}{{stroke:{c}}} .bar.{name},.band.{name},.swatch.{name}{{fill:{c}}}"
    f".{name} circle{{fill:{c}}}"
    for name, c in LIGHT.items()
)
"""The light theme of style.css, without variables."""


def write_figure(
    path: Path, title: str, verdict: str, sections: Sequence[tuple[str, Sequence[Chart]]]
) -> None:
    """Write a PNG with a row of charts for each section.

    Args:
        path: path of the picture.
        title, verdict: printed at the top.
        sections: headings and charts of the page; other parts are skipped. The picture is as wide as the
            section with the most charts: constant times have no histograms.
    """
    import matplotlib  # for its fonts alone, as a container may have none

    try:
        import resvg_py
    except ImportError:  # no distribution packages it
        LOG.warning("%s is not written: install resvg-py with pip", path)
        return
    top = _HEADING
    parts = [element("text", title, class_="heading", x=8.0, y=top)]
    for line in textwrap.wrap(verdict, 110):
        top += 18
        parts.append(element("text", line, x=8.0, y=top))
    columns = 2
    for heading, charts in sections[:_MOST_ROWS]:
        top += _HEADING
        parts.append(element("text", heading, class_="heading", x=8.0, y=top))
        shown = [chart for chart in charts if str(chart.svg).startswith("<svg")][:_COLUMNS]
        columns = max(columns, len(shown))
        for column, chart in enumerate(shown):
            parts += _cell(chart, column * WIDTH, top)
        top += _TITLE + HEIGHT
    width, height = columns * WIDTH, top + 10
    picture = element("svg", *parts, xmlns="http://www.w3.org/2000/svg", width=width, height=height)
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    path.write_bytes(
        resvg_py.svg_to_bytes(
            svg_string=str(picture),
            style_sheet=_STYLE,
            background="#ffffff",
            skip_system_fonts=True,
            font_files=[str(fonts / name) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")],
            font_family="DejaVu Sans",
        )
    )


def _cell(chart: Chart, x: float, y: float) -> Iterator[Markup]:
    """Place a chart below its title and legend."""
    yield element("text", chart.title, x=x + 8, y=y + 16)
    at = x + 8
    for name, label in chart.keys:
        yield element("rect", class_=f"swatch {name}", x=at, y=y + 21, width=9, height=9)
        yield element("text", words(label), x=at + 12, y=y + 30)
        at += 26 + 6.5 * len(label)
    place = Markup('<svg x="{}" y="{}" width="{}" height="{}"').format(x, y + _TITLE, WIDTH, HEIGHT)
    yield chart.svg.replace("<svg", place, 1)
