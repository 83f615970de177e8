"""Read the nodes to run from a parameter file, for `ros2 launch` and `perception-rt up`.

The keys of a ROS parameter file are the nodes to run. A node's name is its executable (`camera_detector`);
several of one kind differ by namespace (`/front/camera_detector`). Entries with a wildcard (`/**`) set
parameters and start no node.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from perception_rt.types import ConfigError
from perception_rt.types.bounded_yaml import load_yaml
from perception_rt.types.executables import EXECUTABLES

PARAMETERS = "ros__parameters"
SENSORS = {
    "camera_detector": ("image_topics", "image_raw"),
    "camera_classifier": ("image_topics", "image_raw"),
    "camera_segmenter": ("image_topics", "image_raw"),
    "lidar_detector": ("points_topics", "points"),
}
"""By detector, the parameter with its sensor topics and the default topic."""
IMAGE_OPTIONS: Mapping[str, tuple[Any, Callable]] = {
    "significant_bits": (16, min),
    "max_image_mb": (64.0, max),
}
"""By parameter of a camera's detector, its default and the choice for all; cameras of 8 bits need none."""
WITHOUT_IMAGES = ("fusion", "object_tracker", "sensor_health", "vehicle_state")


class GraphNode(NamedTuple):
    """A node to run.

    Attributes:
        name: name of the node and of its executable.
        namespace: absolute, `/` if none.
        parameters: what the file sets for it, apart from wildcard entries.
        inherited: what wildcard entries set for it.
    """

    name: str
    namespace: str
    parameters: dict[str, Any]
    inherited: Mapping[str, Any] = MappingProxyType({})

    @property
    def path(self) -> str:
        """The absolute name."""
        return f"{self.namespace.rstrip('/')}/{self.name}"


def read_graph(params_file: str | os.PathLike) -> list[GraphNode]:
    """Read the nodes of a ROS parameter file.

    Args:
        params_file: in any form that rcl accepts: `name:`, `/ns/name:` or `ns:` above `name:`.

    Returns:
        The nodes, in the file's order.

    Raises:
        ConfigError: no such file, not a parameter file, an unknown node, the same node twice, or none.
    """
    try:
        content = load_yaml(Path(params_file).read_text())
    except OSError as error:
        raise ConfigError(f"params_file={params_file}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an invalid date
        raise ConfigError(f"params_file={params_file}: not YAML: {' '.join(str(error).split())}") from error
    nodes = []
    entries = _entries(content, "", params_file)
    wildcards = [(path, parameters) for path, parameters in entries if "*" in path]
    for path, parameters in entries:
        namespace, _, name = path.rpartition("/")
        if "*" in path:
            continue
        inherited = {
            k: v for pattern, given in wildcards if _matches(pattern, path) for k, v in given.items()
        }
        if name not in EXECUTABLES:
            raise ConfigError(f"params_file={params_file}: no node {path!r}; known: {', '.join(EXECUTABLES)}")
        nodes.append(GraphNode(name, namespace or "/", parameters, inherited))
    if not nodes:
        raise ConfigError(f"params_file={params_file}: names no node; known: {', '.join(EXECUTABLES)}")
    paths = [node.path for node in nodes]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ConfigError(f"params_file={params_file}: named twice: {', '.join(twice)}")
    return nodes


def with_sensor_health(nodes: Sequence[GraphNode]) -> list[GraphNode]:
    """Return the nodes, with a sensor_health node for the detectors' sensors added if there is none.

    Raises:
        ConfigError: none of the nodes is a detector.
    """
    if any(node.name == "sensor_health" for node in nodes):
        return list(nodes)
    topics: dict[str, list[str]] = {parameter: [] for parameter, _ in SENSORS.values()}
    cameras: list[dict[str, Any]] = []
    for node in nodes:
        if node.name in SENSORS:
            parameter, default = SENSORS[node.name]
            values = {**node.inherited, **node.parameters}
            given = values.get(parameter, [default])
            # Relative to the graph's namespace, which a launch file may prepend.
            prefix = f"{node.namespace.strip('/')}/".lstrip("/")
            topics[parameter] += [topic if topic.startswith("/") else prefix + topic for topic in given]
            if parameter == "image_topics":
                cameras.append(values)
    if not any(topics.values()):
        raise ConfigError(f"sensor_health: no detector among {', '.join(node.path for node in nodes)}")
    added: dict[str, Any] = {name: list(dict.fromkeys(found)) or [""] for name, found in topics.items()}
    added |= _image_options(cameras)
    fusions = [node.path.lstrip("/") for node in nodes if node.name == "fusion"]
    if len(fusions) == 1:
        added["fusion_topic"] = f"{fusions[0]}/detections"
    return [*nodes, GraphNode("sensor_health", "/", added)]


def _image_options(cameras: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one value for all cameras of each option that the parameters of a detector set."""
    options = {}
    for name, (usual, choose) in IMAGE_OPTIONS.items():
        values = [camera.get(name, usual) for camera in cameras]
        # What is no number, the detector refuses with its reason.
        numbers = [value for value in values if isinstance(value, int | float)]
        if numbers and any(name in camera for camera in cameras):
            options[name] = choose(numbers)
    return options


def sends_images(nodes: Sequence[GraphNode]) -> bool:
    """Return whether one of the nodes sends images or clouds; fusion does if it has an image topic."""
    named = {node.name for node in nodes} - {*WITHOUT_IMAGES}
    keys = [key for node in nodes if node.name == "fusion" for key in (*node.inherited, *node.parameters)]
    return bool(named) or any("image_topic" in key for key in keys)


def _matches(pattern: str, path: str) -> bool:
    """Return whether a wildcard entry matches a node: `*` is one level of the name, `**` any number."""
    levels = pattern.strip("/").split("/")
    parts = {"**": "(/[^/]+)*", "*": "/[^/]+"}
    return (
        re.fullmatch("".join(parts.get(level, "/" + re.escape(level)) for level in levels), path) is not None
    )


def _entries(level: Any, prefix: str, params_file: str | os.PathLike) -> list[tuple[str, dict]]:
    """Return (absolute node name, parameters) of all nodes below a level of the file."""
    if not isinstance(level, dict):
        raise ConfigError(f"params_file={params_file}: {prefix or 'the file'} holds no {PARAMETERS}")
    entries = []
    for key, value in level.items():
        if key != PARAMETERS:
            entries += _entries(value, f"{prefix}/{str(key).strip('/')}", params_file)
        elif isinstance(value, dict):
            entries.append((prefix, value))
        else:
            raise ConfigError(
                f"params_file={params_file}: {prefix}: {PARAMETERS}={value!r}: must be a mapping"
            )
    return entries


def class_of(package: str, node_name: str, suffix: str = "") -> type:
    """Return the class of a node in a package: CamelCase, plus `suffix`, of module snake_case."""
    module = importlib.import_module(f"{package}.{node_name}")
    return getattr(module, "".join(word.capitalize() for word in node_name.split("_")) + suffix)


def output_prefixes(streams: Sequence[str]) -> dict[str, str]:
    """Return the namespace of each sensor's outputs, below the node's own name.

    Args:
        streams: absolute topic names, as `/front/image_raw` or `/front/image_raw/compressed`.

    Returns:
        By stream: empty for a single sensor, else the namespace of its topic, like `/front`. Where sensors
        share a namespace, as `/cameras/front` and `/cameras/rear` do, the whole topic.

    Raises:
        ConfigError: one sensor stands twice, as image and as compressed image.
    """
    if len(streams) == 1:
        return {streams[0]: ""}
    topics = {stream: stream.removesuffix("/compressed") for stream in streams}
    prefixes = {stream: topic.rpartition("/")[0] for stream, topic in topics.items()}
    if len(set(prefixes.values())) != len(streams):
        prefixes = topics
    if len(set(prefixes.values())) != len(streams):
        raise ConfigError(f"topics={list(streams)}: two of them would publish under one name")
    return prefixes
