"""Writing rosbag2 recordings: mcap, streaming; the same calls give the same bytes."""

from __future__ import annotations

from pathlib import Path

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from perception_rt.replay.message_types import typestore
from perception_rt.types import BagError

METADATA_VERSION = 8  # the newest that every distribution from Humble on reads: 9 changed the form of QoS
LATEST_NS = 2**63 - 1
_NEVER = QosTime(LATEST_NS // 10**9, LATEST_NS % 10**9)


class BagWriter:
    """A new rosbag2 folder, open for writing; use it in a `with`, or call `close`.

    The folder is complete, with its index and metadata.yaml, once it is closed; also after an exception, so
    that what was written until then can be read.

    Args:
        folder: of the bag; must not be there yet, its parents are made.

    Raises:
        BagError: it is there, or cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        try:
            self._writer = Writer(self._folder, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
            storage = (
                self._writer.storage
            )  # named as rosbag2 names a file, which `ros2 bag reindex` looks for
            storage.path = storage.path.rename(storage.path.with_stem(f"{storage.path.stem}_0"))
        except WriterError as error:
            raise BagError(f"{folder}: is there already: remove it, or name another folder") from error
        except OSError as error:
            raise BagError(f"{folder}: cannot be made: {error.strerror}") from error
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write index and metadata.yaml; again, it does nothing.

        Raises:
            BagError: the disk refuses.
        """
        if self._writer.storage is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            raise BagError(f"{self._folder}: cannot be completed: {error.strerror}") from error

    def write(self, topic: str, message_type: str, log_ns: int, data: bytes) -> None:
        """Append one message.

        Args:
            topic: absolute name. message_type: of all its messages, e.g. ``nav_msgs/msg/Path``.
            log_ns: its log time, and publish time. data: serialized (CDR).

        Raises:
            BagError: the type is not known or not that of the topic so far, the time is none that a bag
                can hold, or the disk refuses.
        """
        if not 0 <= log_ns <= LATEST_NS:
            raise BagError(f"{self._folder}: {topic}: log_ns={log_ns}: must be from 0 to {LATEST_NS}")
        connection = self._connections.get(topic) or self._connect(topic, message_type)
        if connection.msgtype != message_type:
            raise BagError(
                f"{self._folder}: {topic}: message_type={message_type!r}: was {connection.msgtype!r} before"
            )
        try:
            self._writer.write(connection, log_ns, data)
        except OSError as error:
            raise BagError(f"{self._folder}: cannot be written: {error.strerror}") from error

    def _connect(self, topic: str, message_type: str) -> Connection:
        if message_type not in typestore().types:
            raise BagError(f"{self._folder}: {topic}: message_type={message_type!r}: is not known")
        self._connections[topic] = self._writer.add_connection(
            topic, message_type, typestore=typestore(), offered_qos_profiles=[_offered(topic)]
        )
        return self._connections[topic]


def _offered(topic: str) -> Qos:
    """Reliable, which matches every subscriber; static transforms stay for those who come late."""
    static = topic == "/tf_static"
    return Qos(
        QosHistory.KEEP_LAST,
        10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if static else QosDurability.VOLATILE,
        deadline=_NEVER,
        lifespan=_NEVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_NEVER,
        avoid_ros_namespace_conventions=False,
    )
