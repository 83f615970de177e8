"""Plan a demo: the nodes of a parameter file, their streams, and the expected number of messages."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from perception_rt.cli.demo.check import bag_topics, simulated_graph
from perception_rt.cli.demo.folder import kept_frames
from perception_rt.cli.demo.rates import Load
from perception_rt.cli.demo.sensors import DETECTORS, SIMULATED
from perception_rt.codec.video import is_live, measure_video
from perception_rt.component.graph import output_prefixes
from perception_rt.model.archive import read_manifest
from perception_rt.model.runtime import resolve_bundle
from perception_rt.model.task import DETECT2D, DETECT3D, TASKS
from perception_rt.replay.bag import Bag, frames_of
from perception_rt.sim.recording import Course, Recording
from perception_rt.stage.road_users import ROAD_USERS, canonical
from perception_rt.types import BagError, CameraFrame, ConfigError

TRUE_ODOMETRY = "/drive_simulator/ground_truth_odometry"


@dataclass(frozen=True)
class DemoStream:
    """The messages into a node, and its output.

    Attributes:
        node: the node that counts them. topic: input topic. output: output topic.
        task: kind of the output: the name of a task, or ``odometry``. classes: class names of the output, by
            label.
        frames: expected number of messages. rate_hz: of the messages.
        least_score: minimum score to draw.
        range: detection range of a lidar's bundle (`CloudSpec.range`).
        scored: True to score the output, if there is ground truth.
    """

    node: str
    topic: str
    output: str
    task: str
    classes: tuple[str, ...]
    frames: int
    rate_hz: float
    least_score: float
    range: tuple[float, ...] | None = None
    scored: bool = True

    @property
    def name(self) -> str:
        """Name in the summary: a sensor's topic, or node and topic if several nodes may subscribe."""
        return self.topic if self.node in DETECTORS else self.status

    @property
    def status(self) -> str:
        """Name of its diagnostics status."""
        return f"{self.node}: {self.topic}"


@dataclass(frozen=True)
class DemoPlan:
    """The graph of a demo, and how to evaluate it.

    Attributes:
        config: the parameter file. streams: the streams of the graph. source: the node that plays.
        bag, video: the source, if not the simulator; for a `live` source, the folder with its frames, named
        by stamp. simulator: parameters of the simulator.
        ahead: the topic of the tracks' predictions, if any. camera_info: the topic of the camera that fusion
        looks through, in the bag. overrides: of parameters, ``node:name:=value``.
        asked: requested rates of the simulated sensors by detector, Hz. loads: the detectors to time.
        recording: the simulated drive, if rendered in advance. epoch_ns: start of the video's stamps.
    """

    config: Path
    streams: tuple[DemoStream, ...]
    source: str
    bag: Path | None = None
    video: str = ""
    live: bool = False
    simulator: dict[str, Any] = field(default_factory=dict)
    ahead: str = ""
    camera_info: str = ""
    overrides: tuple[str, ...] = ()
    asked: dict[str, float] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    recording: Recording | None = None
    epoch_ns: int = 0

    @property
    def simulated(self) -> bool:
        """True if the simulator plays; only then there is ground truth."""
        return self.source == "drive_simulator"

    @property
    def course(self) -> Course:
        """The course that the simulator renders."""
        given = {name: self.simulator[name] for name in Course._fields if name in self.simulator}
        return Course(**given)

    def of(self, node: str) -> list[DemoStream]:
        """Return the streams into a node."""
        return [stream for stream in self.streams if stream.node == node]


def plan_simulation(args: argparse.Namespace) -> DemoPlan:
    """Plan the simulated drive of a parameter file."""
    config, nodes = simulated_graph(args.config)
    simulator = nodes["drive_simulator"]
    seconds = float(simulator["duration_s"])
    overrides = []
    for name, bundle in ((DETECT2D.node, args.bundle), (DETECT3D.node, args.lidar_bundle)):
        if bundle and name in nodes:
            nodes[name] = {**nodes[name], "bundle": bundle}
            overrides.append(f"{name}:bundle:={bundle}")
    rates = {
        TASKS[task].node: float(simulator.get(sensor.rate, sensor.default_hz))
        for task, sensor in SIMULATED.items()
    }
    counts = {name: round(seconds * rate) for name, rate in rates.items()}
    streams, ahead = make_streams(nodes, counts, rates), _ahead(nodes)
    loads = {name: Load.of(nodes[name], _default(name, "bundle")) for name in DETECTORS if name in nodes}
    asked = {name: rates[name] for name in loads if rates[name]}
    loads = {name: loads[name] for name in asked}
    return DemoPlan(
        config,
        streams,
        "drive_simulator",
        simulator=simulator,
        ahead=ahead,
        overrides=tuple(overrides),
        asked=asked,
        loads=loads,
    )


def at_rates(plan: DemoPlan, used: dict[str, float]) -> DemoPlan:
    """Return the plan with the simulated sensors at other rates, Hz, by detector."""
    tasks = {DETECTORS[name].TASK.name: rate / plan.asked[name] for name, rate in used.items()}
    topics = {stream.output: tasks[stream.task] for name in used for stream in plan.of(name)}
    streams = []
    for stream in plan.streams:
        # A stream has the rate of its sensor, or of the detector that it subscribes to.
        factor = tasks[stream.task] if stream.node in used else topics.get(stream.topic, 1.0)
        if stream.node == "object_tracker" and stream.topic not in topics:
            factor = tasks.get(stream.task, 1.0)
        streams.append(replace(stream, frames=round(stream.frames * factor), rate_hz=stream.rate_hz * factor))
    sensors = {name: SIMULATED[DETECTORS[name].TASK.name] for name in used}
    overrides = [f"drive_simulator:{sensors[name].rate}:={rate}" for name, rate in used.items()]
    simulator = plan.simulator | {sensors[name].rate: rate for name, rate in used.items()}
    return replace(plan, streams=tuple(streams), simulator=simulator, overrides=(*plan.overrides, *overrides))


def make_streams(
    nodes: dict[str, dict[str, Any]], counts: dict[str, int], rates: dict[str, float]
) -> tuple[DemoStream, ...]:
    """Return the streams of the detectors and of fusion among `nodes` (name: parameters)."""
    streams: list[DemoStream] = []
    for name, component in DETECTORS.items():
        if name not in nodes or name not in rates:  # a node without a sensor has no streams
            continue
        manifest = read_manifest(resolve_bundle(nodes[name].get("bundle", _default(name, "bundle"))))
        task = component.TASK.name
        if manifest.task != task:
            raise ConfigError(f"bundle={manifest.name}: task is {manifest.task}, {name} needs {task}")
        topics = nodes[name].get(component.TOPICS, _default(name, component.TOPICS))
        inputs = ["/" + topic.lstrip("/") for topic in topics]
        for topic, prefix in output_prefixes(inputs).items():
            stream = DemoStream(
                node=name,
                topic=topic,
                output=f"/{name}{prefix}/detections",
                task=task,
                classes=manifest.classes,
                frames=counts[name],
                rate_hz=rates[name],
                least_score=manifest.score_threshold,
                range=getattr(manifest.input, "range", None),
            )
            streams.append(stream)
    if "fusion" in nodes:
        streams += fusion_streams(streams)
    if "object_tracker" in nodes:
        streams.append(tracker_stream(streams, nodes["object_tracker"]))
    if "vehicle_state" in nodes:
        streams += vehicle_streams(nodes["vehicle_state"])
    return tuple(streams)


def fusion_streams(detectors: list[DemoStream]) -> list[DemoStream]:
    """Return the streams of fusion from one lidar and one camera; its output follows the lidar."""
    inputs = {stream.task: stream for stream in detectors}
    if len(detectors) != 2 or len(inputs) != 2:
        raise ConfigError("fusion: needs one camera and one lidar")
    classes = tuple(dict.fromkeys(canonical(name) for stream in detectors for name in stream.classes))
    lidar, camera = inputs[DETECT3D.name], inputs[DETECT2D.name]
    return [
        replace(
            stream,
            node="fusion",
            topic=stream.output,
            output="/fusion/detections",
            task=DETECT3D.name,
            classes=classes,
            range=lidar.range,
            least_score=lidar.least_score,
            scored=stream is lidar,
        )
        for stream in (lidar, camera)
    ]


def tracker_stream(others: list[DemoStream], parameters: dict[str, Any]) -> DemoStream:
    """Return the stream of the tracker: the output of another stream."""
    topic = "/" + parameters.get("detections_topic", "lidar_detector/detections").lstrip("/")
    source = next((stream for stream in others if stream.output == topic and stream.scored), None)
    wanted = DETECT2D if parameters.get("dimensions", "3d") == "2d" else DETECT3D
    if source is None or source.task != wanted.name:
        raise ConfigError(
            f"object_tracker: detections_topic={topic}: none of the nodes publishes {wanted.name} there"
        )
    names = tuple(dict.fromkeys([*ROAD_USERS, *map(canonical, source.classes)]))
    return replace(
        source,
        node="object_tracker",
        topic=topic,
        output="/object_tracker/tracks",
        classes=names,
        scored=False,
    )


def vehicle_streams(parameters: dict[str, Any]) -> list[DemoStream]:
    """Return the streams of the ego filter; their number of messages is unknown."""
    usual = {"odometry_topic": "odom_in", "imu_topic": "imu", "fix_topic": "", "twist_topic": ""}
    topics = [parameters.get(name, default) for name, default in usual.items()]
    rate = float(parameters.get("rate_hz", 50.0))
    return [
        DemoStream(
            node="vehicle_state",
            topic="/" + topic.lstrip("/"),
            output="/vehicle_state/odometry",
            task="odometry",
            classes=(),
            frames=0,
            rate_hz=rate,
            least_score=0.0,
            scored=False,
        )
        for topic in topics
        if topic
    ]


def plan_bag(args: argparse.Namespace) -> DemoPlan:
    """Plan a recording; its parameter file is written to the results, for `perception-rt up`."""
    with Bag(args.bag) as bag:
        chosen = bag_topics(bag, args)
        graph = bag_graph(bag, chosen, args)
        counts, rates = {}, {}
        for name, component in DETECTORS.items():
            if name in graph:
                counts[name] = max(bag.topics[topic][1] for topic in graph[name][component.TOPICS])
                seconds = max(bag.duration_s, 1e-3)
                rates[name] = (counts[name] - 1) / seconds if counts[name] > 1 else 1.0
    config = write_graph(args.out, graph)
    info = graph.get("fusion", {}).get("camera_info_topic", "")
    streams = make_streams(graph, counts, rates)
    return DemoPlan(config, streams, "bag_player", bag=args.bag, ahead=_ahead(graph), camera_info=info)


def plan_video(args: argparse.Namespace) -> DemoPlan:
    """Plan a video through the camera detector; its parameter file is written to the results.

    In steps, the player waits for the result of each frame. A live source is played as it arrives, and its
    frames are stored for the pictures.
    """
    live = is_live(args.video)
    size = measure_video(args.video)
    epoch_s = int(time.time())
    graph: dict[str, dict[str, Any]] = {
        DETECT2D.node: {
            "use_sim_time": not live,
            "bundle": str(args.bundle or _default(DETECT2D.node, "bundle")),
            "image_topics": ["camera/image_raw"],
            "warmup_sizes": [f"{size.width}x{size.height}"],
        },
        "video_player": {"video": args.video, "topic": "camera/image_raw"},
    }
    graph["object_tracker"] = {
        "use_sim_time": not live,
        "detections_topic": f"/{DETECT2D.node}/detections",
        "dimensions": "2d",
    }
    count = round(size.rate_hz * args.seconds) if live else size.frames
    streams = make_streams(graph, {DETECT2D.node: count}, {DETECT2D.node: size.rate_hz})
    if live:
        kept = kept_frames(args.out)
        kept.mkdir()
        graph["video_player"] |= {"duration_s": float(args.seconds), "keep": str(kept)}
    else:
        graph["video_player"]["epoch_s"] = float(epoch_s)
        if not args.realtime:
            graph["video_player"] |= {"answers": streams[-1].output, "speed": 100.0}
    config = write_graph(args.out, graph)
    played = str(kept_frames(args.out)) if live else args.video
    return DemoPlan(config, streams, "video_player", video=played, live=live, epoch_ns=epoch_s * 10**9)


def write_graph(out: Path, graph: dict[str, dict[str, Any]]) -> Path:
    """Write the parameter file of a graph into the folder of results."""
    config = out / "graph.yaml"
    file = {name: {"ros__parameters": parameters} for name, parameters in graph.items()}
    config.write_text(yaml.safe_dump(file, sort_keys=False))
    return config


def _default(node: str, parameter: str) -> Any:
    return next(one.default for one in DETECTORS[node].PARAMETERS if one.name == parameter)


def _ahead(nodes: dict[str, Any]) -> str:
    return "/object_tracker/predictions" if "object_tracker" in nodes else ""


def _size(bag: Bag, topic: str) -> str:
    """Return the size of a camera's images, as the detector's `warmup_sizes` has it.

    Raises:
        BagError: none of them can be decoded.
    """
    for _, frame in frames_of(bag.messages([topic])):
        assert isinstance(frame, CameraFrame)
        height, width, _ = frame.pixels.shape
        return f"{width}x{height}"
    raise BagError(f"{topic}: none of its {bag.topics[topic][1]} images can be decoded")


def bag_graph(bag: Bag, chosen: list[str], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return nodes and their parameters for the chosen topics of a bag."""
    cameras = [topic for topic in chosen if bag.topics[topic][0] in DETECT2D.sensor_types]
    lidars = [topic for topic in chosen if bag.topics[topic][0] in DETECT3D.sensor_types]
    graph: dict[str, dict[str, Any]] = {}
    if cameras:
        graph["camera_detector"] = {
            "use_sim_time": True,
            "bundle": str(args.bundle),
            "image_topics": cameras,
            "warmup_sizes": [_size(bag, cameras[0])],
        }
    if lidars:
        bundle = str(args.lidar_bundle or _default("lidar_detector", "bundle"))
        graph["lidar_detector"] = {"use_sim_time": True, "bundle": bundle, "points_topics": lidars}
    info = f"{cameras[0].removesuffix('/compressed').rpartition('/')[0]}/camera_info" if cameras else ""
    if len(cameras) == len(lidars) == 1 and info in bag.topics and "/tf_static" in bag.topics:
        graph["fusion"] = {"use_sim_time": True, "camera_info_topic": info}
    if len(lidars) == 1:  # without known odometry, tracks are in the frame of the lidar or of fusion
        source = "fusion" if "fusion" in graph else "lidar_detector"
        graph["object_tracker"] = {
            "use_sim_time": True,
            "detections_topic": f"{source}/detections",
            "fixed_frame": "",
        }
    graph["bag_player"] = {"bag": str(args.bag)}
    return graph
