"""Replay every recording here from end to end; writes out/accuracy/recordings.json.

Real bags run on the parameter file that `perception-rt init` writes for them; the cases, made to be hard to
read, on the files below. A row tells how many messages of a stream were answered, and the exit code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.console import Console

from bench.accuracy import OUT
from bench.command import command
from bench.inputs import DATA
from bench.rows import Row, row, table_of, write_rows
from perception_rt.cli.main import main as perception_rt
from perception_rt.replay.batch import find_bags

CASES = DATA.parent / "cases"
ODOMETRY = "vehicle_state: {ros__parameters: {odometry_topic: /odom, imu_topic: ''}}"
FIXES = (
    "vehicle_state: {ros__parameters: {odometry_topic: '', imu_topic: '', fix_topic: /fix, frame_id: map}}"
)
IMU = "vehicle_state: {ros__parameters: {odometry_topic: /odom, imu_topic: /imu}}"


class RecordingCase(NamedTuple):
    """A recording, the text or file of its parameters ("" for those of `init`), and the right exit code."""

    name: str
    bag: Path
    config: str | Path
    code: int = 0
    least: float = 0.95
    """Share of the received messages of each stream that must be answered."""


def recording_cases() -> Iterator[RecordingCase]:
    """Yield every recording that is here."""
    for bag in find_bags([DATA / "bags"]) if DATA.is_dir() else ():
        yield RecordingCase(bag.name.partition(".")[0], bag, "")
    if not CASES.is_dir():
        return
    folder, tracking = CASES / "recordings", CASES / "tracking"
    yield RecordingCase("fixes_only_slow", folder / "fixes_only_slow.mcap.zstd", FIXES)
    for name in (
        "stamps_of_another_clock",
        "stamps_5s_ahead",
        "log_time_zero_first",
        "odometry_quaternion_zero",
    ):
        yield RecordingCase(name, folder / f"{name}.mcap.zstd", ODOMETRY)
    for name in ("imu_gyro_minus1", "imu_gyro_minus1_reference_no_imu"):
        yield RecordingCase(name, folder / f"{name}.mcap.zstd", IMU if name.endswith("1") else ODOMETRY)
    yield RecordingCase("git_lfs_pointer", folder / "git_lfs_pointer.mcap", ODOMETRY, 2)
    for path in sorted((folder / "mcap").glob("*.mcap")):
        yield RecordingCase(path.stem, path, tracking / "trk.yaml")
    yield RecordingCase("folder_drives", folder / "folders" / "drives", tracking / "trk.yaml")
    yield RecordingCase("folder_renamed", folder / "folders" / "renamed", tracking / "trk_odom.yaml")


def recording_rows(console: Console) -> Iterator[Row]:
    """Replay every recording; yield its rows."""
    for case in recording_cases():
        console.print(case.name)
        with TemporaryDirectory() as folder:
            yield from _rows_of(case, Path(folder))


def _rows_of(case: RecordingCase, folder: Path) -> Iterator[Row]:
    config, out, said = folder / "config.yaml", folder / "out", StringIO()
    if isinstance(case.config, Path):
        config = case.config
    elif case.config:
        config.write_text(case.config)
    with redirect_stdout(said), redirect_stderr(said):
        if not case.config:
            perception_rt(["init", str(case.bag), "--out", str(config)])
        arguments = ["--config", str(config), "--out", str(out), "--inference", "fixed:20", "--no-report"]
        code = perception_rt(["replay", str(case.bag), *arguments])
    name = f"recordings/{case.name}"
    yield row(f"{name}/exit_code", code, "", str(case.code))
    for path in sorted(out.glob("**/metrics.json")) if case.code != 2 else ():
        if path.parent == out and any(out.glob("*/metrics.json")):
            continue  # merged from those of the recordings
        metrics = json.loads(path.read_text())
        part = "" if path.parent == out else f"/{path.parent.name}"
        for stream in metrics["streams"].values():
            where = f"{name}{part}{stream['node']}:{stream['topic'].replace('/', '.')}"
            received, published = stream["received"], stream["states"]["published"]
            yield row(f"{where}/received", received, "messages")
            share = published / received if received else None
            yield row(f"{where}/published_share", share, "", f">= {case.least}")
        for topic, offset_s in metrics["bag"].get("clock", {}).get("offsets_s", {}).items():
            if abs(offset_s) > 1:
                yield row(f"{name}{part}{topic}/clock_offset", offset_s, "s")


def measure_all() -> None:
    """Replay, print, write."""
    console = Console()
    rows = list(recording_rows(console))
    write_rows(OUT / "recordings.json", rows)
    console.print(table_of(rows))
    console.print(f"written: {OUT / 'recordings'}.json")


if __name__ == "__main__":
    sys.exit(command(measure_all))
