"""The part replay: speed of a replay through the whole graph relative to the models alone; memory.

The models alone and the replay are measured in alternating blocks of one process, on the same frames. The
models alone run one after the other on frames that are decoded already; the replay reads, decodes, schedules,
fuses, tracks, predicts, serializes and writes as well, and may use the cores that there are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.big_bag import repeated
from bench.inputs import CITY
from bench.rows import Row, row
from perception_rt.component.graph import GraphNode, read_graph
from perception_rt.model.runtime import Runtime
from perception_rt.replay.bag import Bag, frame_of
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.lockstep.runner import Run, replay
from perception_rt.replay.lockstep.timing import parse_inference
from perception_rt.stage.detect2d import detect2d
from perception_rt.stage.detect3d import detect3d
from perception_rt.types import CameraFrame, LidarFrame

CONFIG = Path(__file__).parents[1] / "config" / "kitti.yaml"
IMAGES, CLOUDS = "/camera/front/image_raw", "/lidar/points"
FIXED = "fixed:20"
GRAPHS = {  # by name: nodes, topics of their models, target
    "kitti_city": (None, (IMAGES, CLOUDS), ">= 0.95"),
    "camera": (("camera_detector",), (IMAGES,), ""),
    "lidar": (("lidar_detector",), (CLOUDS,), ""),
}
WARM = 8
MEMORY_TARGET = "<= 1500 MB"
Step = Callable[[float, str], None]


def replay_part(
    bundle: str, folder: Path, pairs: int, times: int, memory_times: int, step: Step
) -> list[Row]:
    """Every row.

    Args:
        bundle: the camera's; the lidar's is bev_cluster. folder: for recordings.
        pairs: of blocks. times: how often the recording is repeated for a block, and for the memory.
    """
    bag = repeat(folder / "speed", times)
    alone = Alone(bundle)
    rows = []
    for name, (nodes, topics, target) in GRAPHS.items():
        graph = [node for node in read_graph(CONFIG) if nodes is None or node.name in nodes]
        rates: dict[str, list[float]] = {"alone": [], FIXED: [], "measured": []}
        for _ in range(pairs):
            rates["alone"].append(alone.rate(topics, times))
            for inference in (FIXED, "measured"):
                rates[inference].append(replay_rate(bag, graph, bundle, inference, folder / "out", times))
            step(3 * times * 0.6, f"replay {name}")
        rows += speed_rows(name, rates, target)
    return rows + memory_rows(bundle, folder, memory_times, step)


def repeat(folder: Path, times: int) -> Path:
    """Repeat the recording a number of times."""
    with Bag(CITY) as source, BagWriter(folder) as target:
        left = {topic: times * source.topics[topic][1] for topic in (IMAGES, CLOUDS)}
        messages = repeated(source)
        while any(left.values()):
            message = next(messages)
            target.write(message.topic, message.message_type, message.log_ns, message.data)
            if message.topic in left:
                left[message.topic] -= 1
    return folder


def speed_rows(name: str, rates: dict[str, list[float]], target: str) -> list[Row]:
    """Medians, and the ratio by pair."""

    def ratio(how: str) -> float:
        return float(np.median(np.divide(rates[how], rates["alone"])))

    return [
        row(f"replay/{name}/models_alone_per_s", float(np.median(rates["alone"])), "moments/s"),
        row(f"replay/{name}/replay_per_s", float(np.median(rates[FIXED])), "moments/s"),
        row(f"replay/{name}/speed_ratio", ratio(FIXED), "ratio", target),
        row(f"replay/{name}/speed_ratio_measured", ratio("measured"), "ratio"),
    ]


class Alone:
    """The models alone on the frames of the recording; one thread, as in the replay."""

    def __init__(self, bundle: str) -> None:
        torch.set_num_threads(1)
        self._camera = Runtime.open(bundle, device="cpu", threads=1)
        self._lidar = Runtime.open("bev_cluster", device="cpu", threads=1)
        with Bag(CITY) as bag:
            self._frames = {
                topic: [frame_of(message) for message in bag.messages([topic])] for topic in (IMAGES, CLOUDS)
            }
        for topic in self._frames:
            self._run(self._frames[topic][:WARM])

    def rate(self, topics: Sequence[str], times: int) -> float:
        """Moments a second, each with a frame of every topic."""
        began = time.perf_counter()
        for _ in range(times):
            for topic in topics:
                self._run(self._frames[topic])
        return times * len(self._frames[topics[0]]) / (time.perf_counter() - began)

    def _run(self, frames: Sequence[CameraFrame | LidarFrame]) -> None:
        for frame in frames:
            if isinstance(frame, CameraFrame):
                detect2d(self._camera, [frame])
            else:
                detect3d(self._lidar, frame)


def replay_rate(
    path: Path, graph: Sequence[GraphNode], bundle: str, inference: str, folder: Path, times: int
) -> float:
    """Moments a second of a replay, from its first message to its last byte written."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    began: list[float] = []

    def started(done_s: float) -> None:
        if not began:
            began.append(time.perf_counter())

    camera = any(node.name == "camera_detector" for node in graph)
    overrides = {"camera_detector": {"bundle": bundle}} if camera else {}
    run = Run(graph, parse_inference(inference), overrides)
    with Bag(path, salvage=True) as bag:
        metrics = replay(run, bag, folder, progress=started)
    took = time.perf_counter() - began[0]
    answered = {stream["states"]["published"] for stream in metrics["streams"].values()}
    assert answered == {24 * times}, answered
    return 24 * times / took


def memory_rows(bundle: str, folder: Path, times: int, step: Step) -> list[Row]:
    """Measure the peak memory of a process that replays a long recording."""
    bag = repeat(folder / "long", times)
    size = sum(file.stat().st_size for file in bag.iterdir())
    step(times * 0.1, "replay memory")
    command = [sys.executable, "-m", "perception_rt.cli.main", "replay", str(bag), "--config", str(CONFIG)]
    given = [
        "-p",
        f"camera_detector:bundle:={bundle}",
        "--inference",
        FIXED,
        "--out",
        str(folder / "long_out"),
    ]
    process = subprocess.Popen([*command, *given, "--progress", "none"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    step(times * 0.6, "replay memory")
    return [
        row("replay/memory/recording_gb", size / 1e9, "GB"),
        row("replay/memory/peak_rss_mb", usage.ru_maxrss / 1e3, "MB", MEMORY_TARGET),
    ]
