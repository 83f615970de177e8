"""The heat maps of a replay, for the page."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

EXPLAIN, EXPLANATIONS = "explain", "explain.json"
"""The folder in that of the replay, and the file of records in it."""
MEANING = (
    "What a detection depends on: hiding a part in warm colours weakens it most; blue points count "
    "against the box. The check hides the outlined part of a picture, and areas of the same size at random "
    "places; in a cloud it removes the strongest points."
)
_MOST = 24


def read_explanations(folder: Path) -> list[dict[str, Any]]:
    """The records of `explain.json` whose pictures are there; none without that file."""
    try:
        found = list(json.loads((folder / EXPLANATIONS).read_text())["records"])
        return [record for record in found if os.path.isfile(folder / str(record["picture"]))]
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
