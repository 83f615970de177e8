"""Choose parameters by leaving one recording out, and score them on it.

A figure counts only if its recording was not used to choose. Argoverse 2 is never used to choose.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from rich.console import Console

from bench.command import command
from bench.inputs import DATA
from bench.tune_clusters import tune_clusters
from bench.tune_pedestrians import tune_pedestrians
from bench.tune_tracks import tune_tracks2d, tune_tracks3d

PARTS: dict[str, Callable[[Console], None]] = {
    "bev": tune_clusters,
    "pedestrians": lambda console: tune_pedestrians(DATA, console),
    "tracks2d": lambda console: tune_tracks2d(DATA, console),
    "tracks3d": lambda console: tune_tracks3d(DATA, console),
}


def main(argv: list[str] | None = None) -> int:
    """Choose, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.tune", description=__doc__)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="choose for this (default: all)")
    args = parser.parse_args(argv)
    console = Console()
    return command(lambda: [PARTS[part](console) for part in args.part or PARTS])


if __name__ == "__main__":
    sys.exit(main())
