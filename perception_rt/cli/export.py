"""Write detections, tracks and predictions of a replay or recording for other tools.

`coco` and `yolo` contain boxes in images, and boxes in space projected by CameraInfo and transforms; `kitti`
writes label files (and a tracking file for tracks); `mot` writes MOTChallenge rows; `csv` writes everything.
Frame k is the k-th message of the sensor.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from perception_rt.types import ConfigError

EXAMPLES = """\
  perception-rt export out/drive1 --format coco --images --out labels
  perception-rt export out/drive1 --format mot --topic /object_tracker/tracks --out tracks
  perception-rt export recorded_bag --format csv --out csv"""
FORMATS = ("coco", "kitti", "mot", "yolo", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `export`."""
    parser.add_argument(
        "source", type=Path, metavar="RUN|BAG", help="output folder of a replay, or a recording"
    )
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write; new or empty"
    )
    parser.add_argument(
        "--topic", action="append", default=[], metavar="TOPIC", help="export only this topic; repeatable"
    )
    parser.add_argument("--images", action="store_true", help="also write the images")
    parser.add_argument(
        "--recording", type=Path, metavar="BAG", help="of the sensors (default: the one that was replayed)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the files.

    Raises:
        ConfigError: the output folder is not empty, or there is nothing to write. BagError: of a recording.
    """
    if args.out.is_dir() and any(args.out.iterdir()):
        raise ConfigError(f"--out={args.out}: is not empty: choose another folder")
    from perception_rt.replay.bag import Bag
    from perception_rt.replay.export import export, read_topics

    run_folder = (args.source / "metrics.json").is_file()
    detections = args.source / "bag" if run_folder else args.source
    sensors = args.recording or (_replayed(args.source) if run_folder else args.source)
    with Bag(detections) as made, Bag(sensors, salvage=True) as recording:
        topics = read_topics(made, recording, args.topic)
        try:
            lines = export(topics, recording, args.format, args.out, args.images)
        except BaseException:  # also Ctrl-C: no half of a folder is left
            shutil.rmtree(args.out, ignore_errors=True)
            raise
    print(*lines, sep="\n")
    return 0


def _replayed(folder: Path) -> Path:
    import json

    try:
        return Path(json.loads((folder / "run.json").read_text())["bag"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: run.json names no recording; name it by --recording") from error
