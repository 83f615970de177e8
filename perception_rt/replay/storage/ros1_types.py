"""Convert messages of ROS 1 to types and serialization of ROS 2, by the definitions in the recording."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import partial

from rosbags.convert.converter import STATIC_MSGTYPE_RENAMES, is_same_wireformat, migrate_bytes
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from perception_rt.replay.message_types import typestore
from perception_rt.replay.storage.values import FormatError

ROS1 = "ros1"
Convert = Callable[[bytes], bytes]
_HEADER = "std_msgs/msg/Header"
# rosbags leaves damaged lengths and texts to assertions, struct, codecs and slices.
_ERRORS = (
    *(SerdeError, TypesysError, AssertionError, struct.error, RecursionError),
    *(ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError),
)


def converter(message_type: str, definition: str) -> tuple[str, Convert]:
    """Return the type in ROS 2, and what turns a serialized message of ROS 1 into one of ROS 2 (CDR).

    A header loses its `seq`. A type that ROS 2 has with other fields keeps those of the same name; one that
    ROS 2 does not have keeps its own definition.

    Args:
        message_type: as `sensor_msgs/Image` or `sensor_msgs/msg/Image`. definition: with all its parts.

    Raises:
        FormatError: the definition cannot be used; so does the conversion, for a malformed message.
    """
    name = re.sub(r"^(\w+)/(\w+)$", r"\1/msg/\2", message_type)
    source, target, renamed = (
        get_typestore(Stores.EMPTY),
        typestore(),
        STATIC_MSGTYPE_RENAMES.get(name, name),
    )
    try:
        types = get_types_from_msg(definition, name)
        source.register({**types, _HEADER: get_typestore(Stores.ROS1_NOETIC).fielddefs[_HEADER]})
        if renamed not in target.fielddefs:
            target = get_typestore(Stores.EMPTY)
            target.register({**types, _HEADER: typestore().fielddefs[_HEADER]})
        if is_same_wireformat(source, target, name, renamed):
            convert: Callable = partial(target.ros1_to_cdr, typename=renamed)
        else:
            convert = partial(migrate_bytes, source, target, name, renamed, {}, src_is2=False, dst_is2=True)
    except _ERRORS as error:
        raise FormatError(str(error) or type(error).__name__) from error
    return renamed, partial(_converted, convert)


def _converted(convert: Callable, data: bytes) -> bytes:
    try:
        return bytes(convert(data))
    except _ERRORS as error:
        raise FormatError(f"not converted from ROS 1: {str(error) or type(error).__name__}") from error
