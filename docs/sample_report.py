"""Write docs/sample_report.html: the replay of a simulated drive with ground truth, beside another run.

Usage: ``python docs/sample_report.py``. It takes a minute; run it when the report has changed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from perception_rt.api import replay_bag  # noqa: E402 - of this checkout
from perception_rt.replay.bag import Bag  # noqa: E402
from perception_rt.replay.report import write_report  # noqa: E402
from perception_rt.replay.score import load_truth  # noqa: E402
from test.drives import TRUTH, TRUTH_3D, write_drive  # noqa: E402

SECONDS, SIZE, AZIMUTH_STEPS = 6.0, (960, 540), 1024
OTHER = {"camera_detector": {"score_threshold": 0.6}, "lidar_detector": {"score_threshold": 0.5}}


def main(out: Path) -> None:
    """Replay the drive twice, the first time with other thresholds, and report the second."""
    with tempfile.TemporaryDirectory() as folder:
        bag = write_drive(Path(folder, "simulated_drive"), SECONDS, size=SIZE, azimuth_steps=AZIMUTH_STEPS)
        config = Path(folder, "car.yaml")
        whole = (ROOT / "config" / "demo.yaml").read_text().replace("    score_threshold: 0.05", "    #")
        config.write_text(whole.partition("drive_simulator:")[0])
        given = {"inference": "fixed:20", "truth": (TRUTH, TRUTH_3D)}
        higher = Path(folder, "higher_thresholds")
        replay_bag(bag, config, higher, parameters=OTHER, inference="fixed:20")
        run = Path(folder, "run")
        replay_bag(bag, config, run, **given)
        about = json.loads((run / "run.json").read_text())
        kept = (
            "started",
            "inference",
            "wall_s",
            "bag_s",
            "speed",
            "device",
            "versions",
            "exit_code",
            "findings",
        )
        with Bag(bag) as recording:
            truths = [truth for source in (TRUTH, TRUTH_3D) for truth in load_truth(source, recording)]
        told = {"bag": bag.name} | {name: about[name] for name in kept}
        write_report(run, bag, told, truths=truths, golden=higher)
        shutil.copy(run / "report.html", out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(__file__).with_name("sample_report.html"))
