"""The heat maps of a replay, for the page."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

EXPLAIN, EXPLANATIONS = "explain", "explain.json"
"""The folder in that of the replay, and the file of records in it."""
MEANING = (
    "What made a detection: what is drawn in warm colours weakens it most when it is hidden. In a check the "
    "outlined part of a picture is hidden, and as much at random places; of a cloud the strongest points are "
    "left out. Blue points speak against the box."
)
_MOST = 24


def read_explanations(folder: Path) -> list[dict[str, Any]]:
    """The records of `explain.json` whose pictures are there; none without that file."""
    try:
        found = list(json.loads((folder / EXPLANATIONS).read_text())["records"])
        return [record for record in found if (folder / str(record["picture"])).is_file()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def explanation_figures(folder: Path) -> list[dict[str, str]]:
    """Title, caption, check and picture of the explanations of a replay.

    Args:
        folder: of the replay.
    """
    figures = []
    for record in read_explanations(folder / EXPLAIN)[:_MOST]:
        data = (folder / EXPLAIN / record["picture"]).read_bytes()
        figures.append(
            {
                "title": f"{record['class']} {record['score']:.2f}",
                "source": f"{record['node']}: {record['source']}, message {record['frame']}",
                "level": "good" if record["check"]["holds"] else "warn",
                "told": record["check"]["text"],
                "uri": f"data:image/jpeg;base64,{base64.b64encode(data).decode()}",
            }
        )
    return figures
