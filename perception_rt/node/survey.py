"""Survey a running graph: a sample of each topic, rates, QoS and transforms."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from perception_rt.node.messages import message_class
from perception_rt.node.run import spinning_node

if TYPE_CHECKING:
    from perception_rt.replay.survey import Survey

QUIET_S, DISCOVERY_S = 0.6, 5.0
"""Discovery ends after the first time without news, and at the latest after the second."""
ALONE_S = 1.0
"""Time after which a command line gives up to find another node; announcements are sent for half of it."""
MOST_SAMPLES = 500


def discover(node: Node, alone_s: float = DISCOVERY_S) -> None:
    """Wait until other nodes are found and discovery has settled; for `alone_s` if there are none."""
    began = time.monotonic()
    known, since = _known(node), began
    while (now := time.monotonic()) < began + max(DISCOVERY_S, alone_s) and (
        now - began < alone_s if len(known[0]) < 2 else now - since < QUIET_S
    ):
        time.sleep(0.05)
        if (found := _known(node)) != known:
            known, since = found, time.monotonic()


def _known(node: Node) -> tuple[list, list]:
    return node.get_node_names_and_namespaces(), node.get_topic_names_and_types()


def matching_qos(node: Node, topic: str, depth: int = 10) -> QoSProfile:
    """Return a QoS that matches every current publisher of a topic."""
    offered = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
    reliable = bool(offered) and all(one.reliability == ReliabilityPolicy.RELIABLE for one in offered)
    latched = bool(offered) and all(one.durability == DurabilityPolicy.TRANSIENT_LOCAL for one in offered)
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def survey_graph(seconds: float) -> tuple[Survey, bool]:
    """Survey the running graph for some seconds; return also whether /clock is published."""
    # Late: `perception-rt topic` needs the rest of this module only.
    from perception_rt.replay.parameter_file import USED
    from perception_rt.replay.survey import TF_TYPE, Survey, SurveyedTopic

    survey, lock = Survey(), threading.Lock()
    times: defaultdict[str, list[float]] = defaultdict(list)
    samples: defaultdict[str, list[bytes]] = defaultdict(list)
    with spinning_node("_perception_rt_init") as node:
        discover(node)
        kinds = {name: types[0] for name, types in node.get_topic_names_and_types() if types}
        published = {name: kind for name, kind in kinds.items() if node.count_publishers(name)}
        for name, kind in published.items():
            message_type = message_class(kind) if kind in USED else None
            if message_type is None:
                continue

            def take(data: bytes, name: str = name, kind: str = kind) -> None:
                with lock:
                    times[name].append(time.monotonic())
                    if len(samples[name]) < (MOST_SAMPLES if kind == TF_TYPE else 1):
                        samples[name].append(bytes(data))

            node.create_subscription(message_type, name, take, matching_qos(node, name, 100), raw=True)
        time.sleep(seconds)
        for name, kind in published.items():
            with lock:
                came, data = list(times[name]), list(samples[name])
            rate_hz = (len(came) - 1) / (came[-1] - came[0]) if len(came) > 1 else 0.0
            offers = {
                info.qos_profile.reliability.name.lower().replace("_", " ")
                for info in node.get_publishers_info_by_topic(name)
            }
            sample = data[0] if data else None
            survey.topics.append(SurveyedTopic(name, kind, rate_hz, sample, ", ".join(sorted(offers))))
            if kind == TF_TYPE:
                survey.add_transforms(name, data)
    return survey, "/clock" in published
