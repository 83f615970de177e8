"""The effect of motion within a sweep on boxes, before and after `deskew`.

    python -m bench.deskew

A simulated lidar's clouds are bent as a spinning sensor at 10 Hz bends them on a vehicle at 15 m/s, straight
and in a turn of 0.3 rad/s: each point moves by the time of its azimuth. `bev_cluster` runs on the still
cloud, the bent one, and the one that was deskewed with a twist that is 3 % wrong, as odometry may be. The
rows compare the centres of boxes with those of the still cloud. Writes `out/bench/deskew.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.command import command, no_arguments
from bench.rows import Row, row, table_of, write_rows
from perception_rt.model.runtime import Runtime
from perception_rt.sim.drive import Drive
from perception_rt.stage.deskew import PlanarTwist, deskewed
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import LidarFrame

OUT = Path("out/bench/deskew.json")
SWEEP_S = 0.1
TWISTS = {"straight_15_m_s": PlanarTwist(15, 0, 0), "turn_15_m_s": PlanarTwist(15, 0, 0.3)}
SEEDS, TIMES_S = (31, 32), (2.0, 5.0, 8.0)
ODOMETRY = 0.97  # of the true twist
NEAR_M = 3.0  # a box farther from every box of the still cloud belongs to another object


def bent(points: np.ndarray, twist: PlanarTwist) -> LidarFrame:
    """Return the cloud as seen while moving: deskewing it by the reverse motion bends it."""
    times = (np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5) * SWEEP_S
    still = LidarFrame(points, 0, 0, "lidar", times)
    # The inverse of a constant twist over t is the same twist over -t.
    return LidarFrame(
        deskewed(LidarFrame(points, 0, 0, "lidar", -times), twist, np.eye(4)).points,
        0,
        0,
        "lidar",
        still.times_s,
    )


def centre_errors(found: np.ndarray, truth: np.ndarray) -> list[float]:
    """Return the distance of each true centre to the nearest detected one, m, if one is near."""
    if not len(found) or not len(truth):
        return []
    distances = np.linalg.norm(truth[:, None, :2] - found[None, :, :2], axis=2).min(1)
    return distances[distances < NEAR_M].tolist()


def deskew_rows() -> list[Row]:
    """Measure all drives."""
    runtime, rows = Runtime.open("bev_cluster", "cpu"), []
    for name, twist in TWISTS.items():
        measured = PlanarTwist(*(ODOMETRY * value for value in twist))
        errors: dict[str, list[float]] = {"skewed": [], "deskewed": []}
        for seed in SEEDS:
            drive = Drive(seed)
            for time_s in TIMES_S:
                points = np.ascontiguousarray(drive.lidar(time_s).points)
                still = detect3d(runtime, LidarFrame(points, 0, 0, "lidar")).xyzlwh_yaw
                moved = bent(points, twist)
                for kind, frame in (("skewed", moved), ("deskewed", deskewed(moved, measured, np.eye(4)))):
                    errors[kind] += centre_errors(detect3d(runtime, frame).xyzlwh_yaw, still)
        skewed, mended = (float(np.median(errors[kind])) for kind in ("skewed", "deskewed"))
        rows += [
            row(f"deskew/{name}/skewed_centre_error_m", skewed, "m"),
            row(f"deskew/{name}/deskewed_centre_error_m", mended, "m", "<= 0.05"),
            row(f"deskew/{name}/boxes", len(errors["deskewed"]), "boxes"),
        ]
    return rows


def main() -> int:
    """Measure, print, write."""
    no_arguments(__doc__)

    def work() -> None:
        rows = deskew_rows()
        write_rows(OUT, rows)
        Console().print(table_of(rows))

    return command(work)


if __name__ == "__main__":
    sys.exit(main())
