"""Write rosbag2 recordings as mcap; the output is reproducible byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Final

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

from perception_rt.replay.message_types import is_latched, typestore
from perception_rt.types import BagError

METADATA_VERSION: Final = 8  # the newest that Humble and later can read; 9 changed the format of QoS
LATEST_NS = 2**63 - 1
_NEVER = QosTime(LATEST_NS // 10**9, LATEST_NS % 10**9)


class BagWriter:
    """A new rosbag2 folder, open for writing; a context manager.

    `close` writes the index and metadata.yaml. The context manager calls it also after an exception, so that
    the messages written so far can be read.

    Args:
        folder: to create, with its parents; must not exist.

    Raises:
        BagError: the folder exists or cannot be created.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        try:
            self._writer = Writer(self._folder, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
            storage = self._writer.storage
            assert storage is not None  # it is open
            # `ros2 bag reindex` looks for the file name that rosbag2 gives.
            storage.path = storage.path.rename(storage.path.with_stem(f"{storage.path.stem}_0"))
        except WriterError as error:
            raise BagError(f"{folder}: already exists: remove it or choose another folder") from error
        except OSError as error:
            raise BagError(f"{folder}: cannot be created: {error.strerror}") from error
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write index and metadata.yaml; further calls do nothing.

        Raises:
            BagError: writing fails.
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
            topic: absolute name. message_type: for example ``nav_msgs/msg/Path``.
            log_ns: log and publish time. data: the serialized message (CDR).

        Raises:
            BagError: the type is unknown or differs from earlier messages of the topic, the time is out of
            range, or writing fails.
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
            raise BagError(f"{self._folder}: {topic}: message_type={message_type!r}: unknown message type")
        self._connections[topic] = self._writer.add_connection(
            topic, message_type, typestore=typestore(), offered_qos_profiles=[_offered(topic, message_type)]
        )
        return self._connections[topic]


def _offered(topic: str, message_type: str) -> Qos:
    """Return a reliable QoS, which matches every subscriber; transient local for what is published once."""
    return Qos(
        QosHistory.KEEP_LAST,
        10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if is_latched(topic, message_type) else QosDurability.VOLATILE,
        deadline=_NEVER,
        lifespan=_NEVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_NEVER,
        avoid_ros_namespace_conventions=False,
    )
