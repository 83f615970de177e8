"""Many real replays at once: some killed while they work, all with the results of an undisturbed one."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from perception_rt.replay.batch import BatchPlan, exit_code, find_bags, merge_runs, read_progress, run_batch
from perception_rt.replay.compare import compare_runs
from test.drives import IMAGE, ODOM, write_drive

NAMES = ("one", "two")
CONFIG = f"""
camera_detector: {{ros__parameters: {{image_topics: [{IMAGE}], warmup_sizes: [320x180]}}}}
vehicle_state: {{ros__parameters: {{odometry_topic: {ODOM}}}}}
"""


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Path:
    """Two short drives and the parameters of two nodes."""
    folder = tmp_path_factory.mktemp("drives")
    for seed, name in enumerate(NAMES):
        write_drive(folder / "bags" / name, 4.0, seed, lidar_hz=0.5)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def replayed(drives: Path, out: Path, plan: BatchPlan):
    arguments = ["--config", str(drives / "config.yaml"), "--inference", "fixed:20", "--no-report"]
    bags = find_bags([drives / "bags"])
    return run_batch(bags, out, lambda name: arguments, plan, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def undisturbed(drives, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    outcomes = replayed(drives, out, BatchPlan(jobs=1))
    assert [(o.name, o.state, o.exit_code) for o in outcomes] == [(name, "done", 0) for name in NAMES]
    return out


def processes_of(folder: Path) -> list[int]:
    """The processes whose command line writes into a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if str(folder).encode() in words and any(b"perception_rt.cli.main" in word for word in words):
            found.append(int(process.name))
    return found


def kill_at_work(out: Path, name: str, parent: bool) -> threading.Thread:
    """Kill a bag's replay, or the worker above it, as soon as some of the bag is done."""

    def work():
        end = time.monotonic() + 120
        while time.monotonic() < end:
            progress = read_progress(out / f"{name}.log")
            pids = processes_of(out / name) if progress and progress.done_s > 0 else []
            if pids:
                stat = Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()
                os.kill(int(stat[1]) if parent else pids[0], signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("engine", ["jobs", "ray"])
def test_killed_replays_are_done_again_with_the_same_result(drives, undisturbed, tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra `ray`")
    jobs = min(2, len(os.sched_getaffinity(0)))
    killer = kill_at_work(tmp_path, "one", parent=engine == "ray")
    outcomes = replayed(drives, tmp_path, BatchPlan(jobs, "" if engine == "ray" else None))
    killer.join()
    assert [(o.name, o.state, o.attempts) for o in outcomes] == [("one", "done", 2), ("two", "done", 1)]
    assert exit_code(outcomes) == 0
    for name in NAMES:
        comparison = compare_runs(tmp_path / name, undisturbed / name)
        assert comparison.same, comparison.shown
        assert comparison.compared["/camera_detector/detections"] == 40
    merged = merge_runs(tmp_path, outcomes)
    stream = merged["streams"][f"/camera_detector: {IMAGE}"]
    assert (stream["received"], stream["states"]["published"]) == (80, 80)
    assert {o.state for o in replayed(drives, tmp_path, BatchPlan())} == {"skipped"}
