"""Check topics for `perception-rt doctor`: publishers, their QoS, and arriving messages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from perception_rt.node.messages import message_class
from perception_rt.node.run import spinning_node

DISCOVERY_S = 5.0  # a topic not discovered by then has no publisher


def probe_topics(topics: Sequence[str], seconds: float) -> Iterator[tuple[str, str]]:
    """Return findings `(level, text)` about every topic after listening for `seconds`."""
    with spinning_node("perception_rt_doctor") as node:
        _await_discovery(node, topics)
        counts = {topic: _listen(node, topic) for topic in topics}
        time.sleep(seconds)
        for topic in topics:
            yield _judge(node, topic, counts[topic], seconds)


def _await_discovery(node: Node, topics: Sequence[str]) -> None:
    """Wait until every topic is known, and shortly for others."""
    end = time.monotonic() + DISCOVERY_S
    wanted = {node.resolve_topic_name(topic) for topic in topics}
    while wanted - dict(node.get_topic_names_and_types()).keys() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)


def _listen(node: Node, topic: str) -> list[int]:
    """Subscribe like a sensor node; return the sizes of the messages, in bytes."""
    sizes: list[int] = []
    kinds = dict(node.get_topic_names_and_types()).get(node.resolve_topic_name(topic), [])
    kind = message_class(kinds[0]) if kinds else None
    if kind is not None:
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(kind, topic, lambda data: sizes.append(len(data)), qos, raw=True)
    return sizes


def _judge(node: Node, topic: str, sizes: list[int], seconds: float) -> tuple[str, str]:
    publishers = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    if not publishers:
        close = [
            name
            for name, _ in node.get_topic_names_and_types()
            if name.split("/")[-1] == topic.split("/")[-1]
        ]
        hint = f"; did you mean {' or '.join(sorted(close))}?" if close else ""
        return "FAIL", f"{topic}: no publisher in domain {node.context.get_domain_id()}{hint}"
    offered = ", ".join(
        f"{info.node_name} ({info.topic_type}, {info.qos_profile.reliability.name.lower()})"
        for info in publishers
    )
    if not sizes:
        return "FAIL", (
            f"{topic}: published by {offered}, but nothing arrives: give the publisher the "
            "shared-memory profile (FASTDDS_DEFAULT_PROFILES_FILE), or set `reliability: reliable`"
        )
    return "ok", f"{topic}: {len(sizes) / seconds:.1f} Hz, {sizes[-1] / 1e6:.2f} MB each, from {offered}"
