"""A client of a running graph for `perception-rt topic`, `param`, `lifecycle` and `record`."""

from __future__ import annotations

import difflib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.serialization import deserialize_message

from perception_rt.node.messages import installed_class, message_class
from perception_rt.node.run import spinning_node
from perception_rt.node.survey import ALONE_S, DISCOVERY_S, discover, matching_qos
from perception_rt.types import ConfigError

ANSWER_S = 5.0
SUCCESS = 97  # lifecycle_msgs/Transition: TRANSITION_CALLBACK_SUCCESS
TYPES = {
    ParameterType.PARAMETER_BOOL: ("boolean", "bool_value"),
    ParameterType.PARAMETER_INTEGER: ("integer", "integer_value"),
    ParameterType.PARAMETER_DOUBLE: ("double", "double_value"),
    ParameterType.PARAMETER_STRING: ("string", "string_value"),
    ParameterType.PARAMETER_BYTE_ARRAY: ("byte array", "byte_array_value"),
    ParameterType.PARAMETER_BOOL_ARRAY: ("boolean array", "bool_array_value"),
    ParameterType.PARAMETER_INTEGER_ARRAY: ("integer array", "integer_array_value"),
    ParameterType.PARAMETER_DOUBLE_ARRAY: ("double array", "double_array_value"),
    ParameterType.PARAMETER_STRING_ARRAY: ("string array", "string_array_value"),
}
"""By parameter type: its name as in ros2, and the field of its value."""


@contextmanager
def graph_client(alone_s: float | None = None) -> Iterator[GraphClient]:
    """Yield a client with a hidden node, after discovery; see `discover`."""
    with spinning_node("_perception_rt_cli") as node:
        discover(node, ALONE_S if alone_s is None else alone_s)
        yield GraphClient(node)


class GraphClient:
    """Calls services of a graph's nodes and subscribes to its topics."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def nodes(self) -> list[str]:
        """Return the absolute names of all nodes but hidden ones."""
        found = self._node.get_node_names_and_namespaces()
        return sorted(f"{space.rstrip('/')}/{name}" for name, space in found if not name.startswith("_"))

    def topics(self) -> dict[str, str]:
        """Return the type of each topic that has a publisher or subscription, by name."""
        return {
            name: types[0]
            for name, types in sorted(self._node.get_topic_names_and_types())
            if types and (self._node.count_publishers(name) or self._node.count_subscribers(name))
        }

    def topic(self, name: str) -> tuple[str, str]:
        """Return the absolute name and the type of a topic.

        Raises:
            ConfigError: the graph has no such topic; names the nearest ones.
        """
        absolute = name if name.startswith("/") else f"/{name}"
        topics = self._awaited(self.topics, absolute)
        if absolute not in topics:
            raise ConfigError(f"topic {name!r}: not in the graph{_meant(absolute, topics)}")
        return absolute, topics[absolute]

    def _awaited(self, known: Callable[[], Any], name: str) -> Any:
        """Return the known names once `name` is among them, or after `DISCOVERY_S`."""
        end = time.monotonic() + DISCOVERY_S
        while name not in (found := known()) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def endpoints(self, topic: str) -> dict[str, list[dict[str, str]]]:
        """Return node, reliability and durability of the publishers and subscriptions of a topic."""
        found = {
            "publishers": self._node.get_publishers_info_by_topic(topic),
            "subscriptions": self._node.get_subscriptions_info_by_topic(topic),
        }
        return {
            side: [
                {
                    "node": f"{info.node_namespace.rstrip('/')}/{info.node_name}",
                    "type": info.topic_type,
                    "reliability": info.qos_profile.reliability.name,
                    "durability": info.qos_profile.durability.name,
                }
                for info in infos
                if not info.node_name.startswith("_perception_rt")
            ]
            for side, infos in found.items()
        }

    @contextmanager
    def listen(self, topics: Mapping[str, str], depth: int = 100) -> Iterator[queue.Queue]:
        """Yield a queue of (topic, time of arrival in ns, serialized message) for topics, given as types by
        name.

        At most `depth` messages wait; newer ones are dropped.

        Raises:
            ConfigError: a type is not installed.
        """
        arrived: queue.Queue[tuple[str, int, bytes]] = queue.Queue(depth)
        subscriptions = []
        for topic, kind in topics.items():
            message_type = message_class(kind)
            if message_type is None:
                raise ConfigError(f"topic {topic!r}: {kind}: its package is not installed")

            def take(data: bytes, topic: str = topic) -> None:
                if not arrived.full():
                    arrived.put_nowait((topic, time.time_ns(), bytes(data)))

            qos = matching_qos(self._node, topic, min(depth, 1000))
            subscriptions.append(self._node.create_subscription(message_type, topic, take, qos, raw=True))
        try:
            yield arrived
        finally:
            for subscription in subscriptions:
                self._node.destroy_subscription(subscription)

    # Services of nodes.

    def _call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and return its response.

        Raises:
            ConfigError: there is no answer.
        """
        client: Any = self._node.create_client(kind, name)
        answered = threading.Event()
        try:
            if not client.wait_for_service(ANSWER_S):
                raise ConfigError(f"{name}: no such service")
            future = client.call_async(request)
            future.add_done_callback(lambda _: answered.set())
            if not answered.wait(ANSWER_S):
                raise ConfigError(f"{name}: no answer within {ANSWER_S:g} s")
            return future.result()
        finally:
            self._node.destroy_client(client)

    def node(self, name: str) -> str:
        """Return the absolute name of a node.

        Raises:
            ConfigError: the graph has no such node; names the nearest ones.
        """
        absolute = name if name.startswith("/") else f"/{name}"
        nodes = self._awaited(self.nodes, absolute)
        if absolute not in nodes:
            raise ConfigError(f"node {name!r}: not in the graph{_meant(absolute, nodes)}")
        return absolute

    def parameters(self, node: str) -> list[str]:
        """Return the names of a node's parameters."""
        response = self._call(ListParameters, f"{node}/list_parameters", ListParameters.Request())
        return sorted(response.result.names)

    def _known_parameter(self, node: str, name: str) -> None:
        names = self.parameters(node)
        if name not in names:
            raise ConfigError(f"parameter {name!r}: {node} does not have it{_meant(name, names)}")

    def parameter(self, node: str, name: str) -> tuple[str, Any]:
        """Return type and value of a parameter.

        Raises:
            ConfigError: the node does not have it.
        """
        self._known_parameter(node, name)
        request = GetParameters.Request(names=[name])
        (value,) = self._call(GetParameters, f"{node}/get_parameters", request).values
        found: Any = parameter_value_to_python(value)
        return TYPES.get(value.type, ("not set", ""))[0], list(found) if hasattr(found, "tolist") else found

    def set_parameter(self, node: str, name: str, value: Any) -> tuple[bool, str]:
        """Set a parameter; return whether the node accepted it, and its reason.

        Raises:
            ConfigError: the node does not have it, or parameters cannot have such a value.
        """
        self._known_parameter(node, name)
        request = SetParameters.Request(
            parameters=[Parameter(name=name, value=_parameter_value(name, value))]
        )
        (result,) = self._call(SetParameters, f"{node}/set_parameters", request).results
        return result.successful, result.reason

    def describe_parameter(self, node: str, name: str) -> dict[str, Any]:
        """Return type, description and constraints of a parameter.

        Raises:
            ConfigError: the node does not have it.
        """
        self._known_parameter(node, name)
        request = DescribeParameters.Request(names=[name])
        (found,) = self._call(DescribeParameters, f"{node}/describe_parameters", request).descriptors
        ranges = [*found.floating_point_range, *found.integer_range]
        return {
            "name": name,
            "type": TYPES.get(found.type, ("not set", ""))[0],
            "description": found.description,
            "min": ranges[0].from_value if ranges else None,
            "max": ranges[0].to_value if ranges else None,
            "constraints": found.additional_constraints,
            "read_only": found.read_only,
        }

    def lifecycle_nodes(self) -> list[str]:
        """Return the lifecycle nodes."""
        services = {name for name, _ in self._node.get_service_names_and_types()}
        return [node for node in self.nodes() if f"{node}/get_state" in services]

    def lifecycle_node(self, name: str) -> str:
        """Return the absolute name of a lifecycle node.

        Raises:
            ConfigError: there is no such node, or it is not a lifecycle node.
        """
        node = self.node(name)
        if node not in self._awaited(self.lifecycle_nodes, node):
            raise ConfigError(f"node {name!r}: has no life cycle")
        return node

    def state(self, node: str) -> tuple[str, int]:
        """Return name and number of the state of a lifecycle node."""
        found = self._call(GetState, f"{node}/get_state", GetState.Request()).current_state
        return found.label, found.id

    def transitions(self, node: str) -> list[dict[str, Any]]:
        """Return the transitions that a lifecycle node can make now."""
        name = f"{node}/get_available_transitions"
        response = self._call(GetAvailableTransitions, name, GetAvailableTransitions.Request())
        return [
            {
                "transition": one.transition.label,
                "id": one.transition.id,
                "start": one.start_state.label,
                "goal": one.goal_state.label,
            }
            for one in response.available_transitions
        ]

    def change_state(self, node: str, transition: str) -> bool:
        """Make a transition by name or number; return whether it succeeded.

        Raises:
            ConfigError: the node cannot make it now; names those that it can.
        """
        available = self.transitions(node)
        chosen = [one for one in available if transition in (one["transition"], str(one["id"]))]
        if not chosen:
            known = ", ".join(f"{one['transition']} [{one['id']}]" for one in available)
            raise ConfigError(f"transition {transition!r}: available ones are {known or 'none'}")
        request = ChangeState.Request()
        request.transition.id = chosen[0]["id"]
        return self._call(ChangeState, f"{node}/change_state", request).success


def _meant(name: str, known: Sequence[str] | Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, list(known), 3, 0.5)
    close = close or [one for one in known if one.rpartition("/")[2] == name.rpartition("/")[2]][:3]
    return f": did you mean {' or '.join(close)}?" if close else ""


def _parameter_value(name: str, value: Any) -> ParameterValue:
    """Return the message of a value, typed as ROS types YAML.

    Raises:
        ConfigError: parameters cannot have such a value.
    """
    kinds: list[tuple[Callable[[Any], bool], int]] = [
        (lambda v: type(v) is bool, ParameterType.PARAMETER_BOOL),
        (lambda v: type(v) is int and abs(v) < 1 << 63, ParameterType.PARAMETER_INTEGER),
        (lambda v: type(v) is float, ParameterType.PARAMETER_DOUBLE),
        (lambda v: type(v) is str, ParameterType.PARAMETER_STRING),
    ]
    arrays = {1: 6, 2: 7, 3: 8, 4: 9}  # from a type to its array type
    values = value if isinstance(value, list) else [value]
    for fits, kind in kinds:
        if values and all(fits(one) for one in values):
            kind = arrays[kind] if isinstance(value, list) else kind
            return ParameterValue(type=kind, **{TYPES[kind][1]: value})
    raise ConfigError(f"{name}={value!r}: must be a bool, number, text, or a list of one kind")


def as_values(message: Any, limit: int = 128) -> Any:
    """Return a message as dictionaries and lists, cut with "..." after `limit` elements; 0: no limit."""
    if hasattr(message, "get_fields_and_field_types"):
        return {
            name: as_values(getattr(message, name), limit) for name in message.get_fields_and_field_types()
        }
    if isinstance(message, bytes | bytearray):
        message = list(message)
    if hasattr(message, "tolist"):
        message = message.tolist() if not limit else message[: limit + 1].tolist()
    if isinstance(message, Sequence) and not isinstance(message, str):
        cut = bool(limit) and len(message) > limit
        return [as_values(one, limit) for one in message[: limit if cut else None]] + ["..."] * cut
    return message


def decoded(data: bytes, message_type: str) -> Any:
    """Return the message object of serialized bytes."""
    return deserialize_message(data, installed_class(message_type))


class RateWindow:
    """Mean rate and spacing of the latest messages, as `ros2 topic hz` shows them."""

    def __init__(self, size: int) -> None:
        self._times: deque[int] = deque(maxlen=size + 1)

    def add(self, time_ns: int) -> None:
        """Add a message."""
        self._times.append(time_ns)

    def summary(self) -> dict[str, float] | None:
        """Return rate in Hz and spacing in s; None before the second message."""
        times = list(self._times)
        gaps = [(after - before) / 1e9 for before, after in pairwise(times)]
        if not gaps or sum(gaps) <= 0:
            return None
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        return {
            "rate_hz": 1 / mean,
            "min_s": min(gaps),
            "max_s": max(gaps),
            "std_s": deviation,
            "window": len(gaps),
        }


def record(
    client: GraphClient, topics: Mapping[str, str], folder: str, until: Callable[[int], bool]
) -> dict[str, int]:
    """Record topics to a rosbag2 until Ctrl-C; return the number of messages by topic.

    Args:
        topics: types by name. folder: to create. until: called with the number of messages; recording ends
            also if it returns True.

    Raises:
        BagError: the folder exists or cannot be written. ConfigError: a type is not installed.
    """
    from perception_rt.replay.bag_writer import BagWriter

    counts = dict.fromkeys(topics, 0)
    with (
        BagWriter(folder) as bag,
        client.listen(topics, 10_000) as arrived,
        suppress(KeyboardInterrupt),
    ):
        last_ns = 0
        while not until(sum(counts.values())):
            try:
                topic, time_ns, data = arrived.get(timeout=0.1)
            except queue.Empty:
                continue
            last_ns = max(last_ns, time_ns)  # the system clock may be set back
            bag.write(topic, topics[topic], last_ns, data)
            counts[topic] += 1
    return counts


def recordable(topics: Mapping[str, str]) -> dict[str, str]:
    """Return the topics whose types are installed and known to the writer."""
    from perception_rt.replay.message_types import typestore

    return {
        name: kind
        for name, kind in topics.items()
        if kind in typestore().types and message_class(kind) is not None
    }
