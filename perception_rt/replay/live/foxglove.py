"""Show a replay in Foxglove: unchanged messages over the WebSocket protocol `foxglove.sdk.v1`."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Mapping

import foxglove
from foxglove.websocket import Capability, ChannelView, Client

from perception_rt.replay.live.address import HERE, parse_address
from perception_rt.replay.message_types import definition, is_latched
from perception_rt.types import ConfigError

PORT = 8765
AGE_TYPE = "std_msgs/msg/Float64"
_BACKLOG = 256
"""Messages that wait for a slow viewer; the oldest are dropped first. Pictures have some MB each."""
_TIME_PERIOD_NS = 50_000_000
"""The period of time messages; the server never drops them, but disconnects viewers with a backlog."""
_SEND_S = 0.3
_STOP_S = 3.0


class Foxglove(foxglove.ServerListener):
    """Serve every topic as a channel of its own type; viewers may connect and disconnect at any time.

    Args:
        target: ``[HOST:]PORT`` to serve on; port 0 takes a free one.

    Attributes:
        port: TCP port of the server.
    """

    def __init__(self, target: str) -> None:
        host, port = parse_address(target, PORT)
        self._context = foxglove.Context()  # its own: the library's is for the whole program
        self._channels: dict[str, foxglove.Channel | None] = {}
        self._latched: dict[str, list[tuple[int, bytes]]] = {}
        self._sent_time_ns = -_TIME_PERIOD_NS
        self._looked_at = threading.Event()
        try:
            self._server = foxglove.start_server(
                name="perception_rt replay",
                host=host,
                port=port,
                capabilities=[Capability.Time],
                server_listener=self,
                context=self._context,
                message_backlog_size=_BACKLOG,
            )
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"cannot serve on {host}:{port}: {error}") from error
        self.port = self._server.port
        here = "localhost" if host == HERE else host
        self.where = f"Foxglove: ws://{here}:{self.port} in its app, or {self._server.app_url()}"

    def begin(self, topics: Mapping[str, str], timeout_s: float) -> bool:
        """Announce the topics; return True as soon as a viewer subscribes to one."""
        for topic, message_type in topics.items():
            self._channel(topic, message_type)
        return self._looked_at.wait(timeout_s)

    def message(self, topic: str, message_type: str, log_ns: int, data: bytes) -> None:
        """Send a message; types without a known definition are skipped."""
        channel = self._channel(topic, message_type)
        if channel is None:
            return
        if is_latched(topic, message_type):
            self._latched.setdefault(topic, []).append((log_ns, data))
        if abs(log_ns - self._sent_time_ns) >= _TIME_PERIOD_NS:
            self._sent_time_ns = log_ns
            self._server.broadcast_time(log_ns)
        channel.log(data, log_time=log_ns)

    def ages(self, topic: str, log_ns: int, age_ms: float) -> None:
        """Send a std_msgs/Float64 on `topic`/age_ms."""
        data = b"\x00\x01\x00\x00" + struct.pack("<d", age_ms)
        self.message(f"{topic}/age_ms", AGE_TYPE, log_ns, data)

    def close(self) -> None:
        """Send pending messages, as far as the viewers keep up, and disconnect."""
        if any(channel and channel.has_sinks() for channel in self._channels.values()):
            time.sleep(_SEND_S)  # the server drops what it has not sent when it stops
        # It waits for each viewer to disconnect, forever if one hangs.
        stopping = threading.Thread(target=self._server.stop, daemon=True)
        stopping.start()
        stopping.join(_STOP_S)

    def on_subscribe(self, client: Client, channel: ChannelView) -> None:
        """Send the latched messages of a channel to a new subscriber."""
        self._looked_at.set()
        latched = self._channels.get(channel.topic)
        for log_ns, data in list(self._latched.get(channel.topic, ())):
            assert latched is not None  # a viewer took it
            latched.log(data, log_time=log_ns)

    def _channel(self, topic: str, message_type: str) -> foxglove.Channel | None:
        if topic not in self._channels:
            text = definition(message_type)
            channel = None
            if text:
                channel = foxglove.Channel(
                    topic,
                    schema=foxglove.Schema(name=message_type, encoding="ros2msg", data=text.encode()),
                    message_encoding="cdr",
                    context=self._context,
                )
            self._channels[topic] = channel
        return self._channels[topic]
