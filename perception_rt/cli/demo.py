"""Run a graph through real topics and leave a summary, pictures and a film.

Without --bag: ten seconds of the simulated drive with the shipped detector, scored against ground truth.
With --bag: any rosbag2 with camera topics, played with its own spacing, through any detect2d bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from perception_rt.codec.compressed import parse_compressed
from perception_rt.codec.image import parse_image
from perception_rt.model.archive import read_manifest
from perception_rt.model.manifest import Manifest
from perception_rt.model.runtime import resolve_bundle
from perception_rt.node.graph import output_prefixes, read_graph, transport_environment
from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.replay.film import write_film
from perception_rt.replay.summary import summarise, summary_table
from perception_rt.sim import SIM_CLASSES
from perception_rt.sim.drive import Drive
from perception_rt.types import BagError, CameraFrame, CodecError, ConfigError, Detections2D, PerceptionError

if TYPE_CHECKING:
    from perception_rt.node.collector import Collector

EXAMPLES = """\
  perception-rt demo
  perception-rt demo --bag drive/ --bundle detector.pt --out out/drive
  perception-rt demo --bag drive/ --bundle detector.pt --topic /camera/front/image_raw"""

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
TRUTH_TOPIC = "/drive_simulator/ground_truth"
PICTURES = 6
SHARE = Path(sys.prefix, "share", "perception_rt", "config")


@dataclass(frozen=True)
class Plan:
    """What to run and how to look at it afterwards."""

    config: Path
    streams: dict[str, str]  # camera topic -> detections topic
    bundle: str
    frames: int  # expected on each stream
    camera_hz: float
    bag: Path | None
    truth: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `demo`."""
    parser.add_argument(
        "--config", type=Path, help="parameter file of the simulated graph (config/demo.yaml)"
    )
    parser.add_argument("--bag", type=Path, help="a rosbag2 to play instead of the simulator")
    parser.add_argument("--bundle", help="the detector; needed with --bag")
    parser.add_argument("--topic", action="append", help="camera topic of the bag (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")


def run(args: argparse.Namespace) -> int:
    """Plan, run, score, draw."""
    console = Console()
    args.out.mkdir(parents=True, exist_ok=True)
    plan = plan_bag(args) if args.bag else plan_simulation(args)
    manifest = read_manifest(resolve_bundle(plan.bundle))
    classes = list(manifest.classes)
    os.environ.update(transport_environment())
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    collector = run_graph(plan, classes, console)
    truths = common_truth(collector.detections[TRUTH_TOPIC], classes) if plan.truth else None
    summary = {}
    for stream, topic in plan.streams.items():
        account = collector.statuses.get(f"camera_detector: {stream}")
        if account is None:
            raise PerceptionError(f"{stream}: no diagnostics came from camera_detector; its log is above")
        summary[stream] = summarise(account, collector.detections[topic], truths, classes)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(plan, collector, manifest, args.out, console)
    console.print(summary_table(summary))
    console.print(f"summary, pictures and film: {args.out}")
    return 0


def plan_simulation(args: argparse.Namespace) -> Plan:
    """The simulated drive of a parameter file."""
    config = args.config or next(
        (folder / "demo.yaml" for folder in (Path("config"), SHARE) if (folder / "demo.yaml").is_file()), None
    )
    if config is None:
        raise ConfigError("--config: no config/demo.yaml here, nor an installed one: name a parameter file")
    nodes = {node.name: node.parameters for node in read_graph(config)}
    if not {"camera_detector", "drive_simulator"} <= set(nodes):
        raise ConfigError(f"--config={config}: must name camera_detector and drive_simulator")
    simulator, detector = nodes["drive_simulator"], nodes["camera_detector"]
    camera_hz, seconds = float(simulator.get("camera_hz", 30.0)), float(simulator.get("duration_s", 0.0))
    if not seconds:
        raise ConfigError(f"--config={config}: drive_simulator needs a duration_s above 0 here")
    cameras = ["/" + topic.lstrip("/") for topic in detector.get("image_topics", ["image_raw"])]
    bundle = args.bundle or detector.get("bundle", "sim_camera")
    return Plan(config, outputs(cameras), bundle, round(camera_hz * seconds), camera_hz, None, truth=True)


def outputs(cameras: list[str]) -> dict[str, str]:
    """The detections topic of each camera."""
    return {
        camera: f"/camera_detector{prefix}/detections" for camera, prefix in output_prefixes(cameras).items()
    }


def plan_bag(args: argparse.Namespace) -> Plan:
    """A recording: its graph is written to the results, to be run again with `perception-rt up`."""
    if not args.bundle:
        raise ConfigError(
            "--bundle: name the detector for this bag (`perception-rt bundle export` makes one)"
        )
    with Bag(args.bag) as bag:
        cameras = args.topic or bag.of_type(IMAGE, COMPRESSED)
        missing = [topic for topic in cameras if topic not in bag.topics]
        if missing or not cameras:
            raise BagError(f"{args.bag}: no camera topic {missing or ''}; it has {sorted(bag.topics)}")
        counts = [bag.topics[topic][1] for topic in cameras]
        if not all(counts):
            raise BagError(f"{args.bag}: no messages on {cameras[counts.index(0)]}")
        first = parse(next(bag.messages(cameras[:1])))
        seconds = max(bag.duration_s, 1e-3)
    detector = {
        "use_sim_time": True,
        "bundle": str(args.bundle),
        "image_topics": cameras,
        "warmup_sizes": [f"{first.pixels.shape[1]}x{first.pixels.shape[0]}"],
    }
    graph = {
        "camera_detector": {"ros__parameters": detector},
        "bag_player": {"ros__parameters": {"bag": str(args.bag)}},
    }
    config = args.out / "graph.yaml"
    config.write_text(yaml.safe_dump(graph, sort_keys=False))
    rate = (max(counts) - 1) / seconds if max(counts) > 1 else 1.0
    return Plan(config, outputs(cameras), args.bundle, max(counts), rate, args.bag, truth=False)


def run_graph(plan: Plan, classes: list[str], console: Console) -> Collector:
    """Run `perception-rt up` as a process of its own and record what it publishes."""
    from perception_rt.node.collector import Collector  # rclpy: only when all else is sound

    topics = dict.fromkeys(plan.streams.values(), classes)
    if plan.truth:
        topics[TRUTH_TOPIC] = list(SIM_CLASSES)
    command = [sys.executable, "-m", "perception_rt.cli.main", "up", str(plan.config)]
    # What is published before the collector is known would be missing from the results.
    command += ["-p", f"bundle:={plan.bundle}", "-p", f"listeners:={json.dumps(list(topics))}"]
    with Collector(topics) as collector, progress_bar(console) as progress:
        bars = {
            topic: progress.add_task(f"{stream}", total=plan.frames) for stream, topic in plan.streams.items()
        }
        graph = subprocess.Popen(command, start_new_session=True)
        try:
            while graph.poll() is None:
                for topic, bar in bars.items():
                    progress.update(bar, completed=len(collector.detections[topic]))
                time.sleep(0.05)
        finally:
            if graph.poll() is None:
                os.killpg(graph.pid, signal.SIGINT)
                graph.wait(10)
        for topic, bar in bars.items():
            progress.update(bar, completed=len(collector.detections[topic]))
    if graph.returncode:
        raise PerceptionError(f"the graph ended with status {graph.returncode}; its log is above")
    return collector


def common_truth(truths: dict[int, Detections2D], classes: list[str]) -> dict[int, Detections2D] | None:
    """The simulator's truth in the labels of a bundle; None where they share no class."""
    shared = {SIM_CLASSES.index(name): classes.index(name) for name in SIM_CLASSES if name in classes}
    if not shared:
        return None
    relabelled = {}
    for stamp_ns, truth in sorted(truths.items()):
        kept = truth[np.isin(truth.labels, list(shared))]
        labels = np.array([shared[label] for label in kept.labels], np.int64)
        relabelled[stamp_ns] = Detections2D(kept.xyxy, kept.scores, labels)
    return relabelled


def draw(plan: Plan, collector: Collector, manifest: Manifest, out: Path, console: Console) -> None:
    """Pictures and film of every stream, from the very frames that were played."""
    classes, least_score = list(manifest.classes), manifest.score_threshold
    for stream, topic in plan.streams.items():
        with progress_bar(console) as progress:
            frames = bag_frames(plan.bag, stream) if plan.bag else simulated_frames(plan, collector)
            name = "camera" if len(plan.streams) == 1 else stream.strip("/").replace("/", "_")
            pictures = [round((k + 0.5) * plan.frames / PICTURES) for k in range(PICTURES)]
            film = progress.track(frames, total=plan.frames, description=f"film {name}")
            found = collector.detections[topic]
            write_film(out, name, film, found, classes, plan.camera_hz, pictures, least_score)


def simulated_frames(plan: Plan, collector: Collector) -> Iterator[CameraFrame]:
    """The frames of the drive, rendered again: a drive is a function of its seed and the time."""
    simulator = {node.name: node.parameters for node in read_graph(plan.config)}["drive_simulator"]
    drive = Drive(simulator.get("seed", 1), (simulator.get("width", 960), simulator.get("height", 540)))
    stamps = sorted(collector.detections[TRUTH_TOPIC])
    for stamp_ns in stamps:
        yield CameraFrame(drive.sample((stamp_ns - stamps[0]) / 1e9).image, False, stamp_ns, "camera")


def bag_frames(path: Path, topic: str) -> Iterator[CameraFrame]:
    """The frames of one topic that can be decoded."""
    with Bag(path) as bag:
        for message in bag.messages([topic]):
            try:
                yield parse(message)
            except CodecError:
                continue  # the node counted it as decode_error


def parse(message: BagMessage) -> CameraFrame:
    """The frame of a recorded message."""
    return (parse_image if message.message_type == IMAGE else parse_compressed)(message.data).decode()


def progress_bar(console: Console) -> Progress:
    """A bar with counts and time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
