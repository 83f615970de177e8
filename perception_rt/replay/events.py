"""The last seconds of a graph's messages, kept in memory and written as a bag on an event."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from perception_rt.codec.transforms import parse_transforms
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.message_types import is_latched
from perception_rt.types import BagError, CodecError

PREFIX, PART = "event_", ".part"
OVERHEAD_BYTES = 64  # of a message in a bag
SPARE_BYTES = 50_000_000  # left free on the disk
KEPT_STATIC = 100
STEP_NS = 1_000_000_000  # by which the clock may be set back without the loss of earlier messages
LEFT_S = 60.0  # without a write, after which an unfinished bag is that of a killed process


class KeptMessage(NamedTuple):
    """A serialized message and its time of arrival, ns."""

    log_ns: int
    topic: str
    message_type: str
    data: bytes


class EventBuffer:
    """The newest messages, bounded in time and bytes; static transforms and the like are not dropped.

    Args:
        seconds: how long to keep a message. max_bytes: of all messages; the oldest are dropped first.

    Attributes:
        held_bytes: of the kept messages. cut: messages dropped early because of `max_bytes`.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self.held_bytes = self.cut = 0
        self._window_ns, self._max_bytes = round(seconds * 1e9), max_bytes
        self._messages: deque[KeptMessage] = deque()
        self._static: dict[tuple[str, object], KeptMessage] = {}

    def add(self, message: KeptMessage) -> None:
        """Add a message; drop all earlier ones if time was set back by a second or more."""
        if is_latched(message.topic, message.message_type):
            self._static[message.topic, _content(message)] = message
            if len(self._static) > KEPT_STATIC:
                del self._static[next(iter(self._static))]
            return
        if self._messages and message.log_ns < (last_ns := self._messages[-1].log_ns):
            if last_ns - message.log_ns < STEP_NS:
                message = message._replace(log_ns=last_ns)
            else:
                self.clear()
        if len(message.data) > self._max_bytes:
            self.cut += 1
            return
        self._messages.append(message)
        self.held_bytes += len(message.data)
        while self._messages[0].log_ns < message.log_ns - self._window_ns:
            self._drop()
        while self.held_bytes > self._max_bytes:
            self._drop()
            self.cut += 1

    def _drop(self) -> None:
        self.held_bytes -= len(self._messages.popleft().data)

    def clear(self) -> None:
        """Drop all messages but the static ones."""
        self._messages.clear()
        self.held_bytes = 0

    def messages(self) -> list[KeptMessage]:
        """Return the kept messages by time, static transforms first, at the time of the first message."""
        if not self._messages:
            return []
        first_ns = self._messages[0].log_ns
        return [kept._replace(log_ns=first_ns) for kept in self._static.values()] + list(self._messages)


def _content(message: KeptMessage) -> object:
    """Return what a message replaces if it says it again: transforms of the same frames, or equal bytes."""
    if message.message_type == "tf2_msgs/msg/TFMessage":
        try:
            return tuple((one.parent, one.child) for one in parse_transforms(message.data))
        except CodecError:
            pass
    return message.data


class EventFolder:
    """Bags of events in a folder, bounded in number and bytes; the oldest are deleted first.

    Args:
        folder: created with the first bag. max_bags, max_bytes: of all bags of events in it.
    """

    def __init__(self, folder: Path, max_bags: int, max_bytes: int) -> None:
        self._folder, self._max_bags, self._max_bytes = folder, max_bags, max_bytes

    def write(self, name: str, messages: Iterable[KeptMessage]) -> Path:
        """Write a bag atomically; return its folder.

        Raises:
            BagError: there is no message, it is larger than allowed, the disk is full, or writing fails;
                nothing is left behind.
        """
        kept = list(messages)
        size = sum(len(message.data) + OVERHEAD_BYTES for message in kept)
        target = self._folder / (PREFIX + name)
        part = target.with_name(target.name + PART)
        if not kept:
            raise BagError(f"{target}: there is no message yet")
        if size > self._max_bytes:
            raise BagError(f"{target}: {size} bytes, over the limit of {self._max_bytes}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_left()
            self._make_room(size)
            free = shutil.disk_usage(self._folder).free
            if free < size + SPARE_BYTES:
                raise BagError(f"{target}: the disk is full: {free} bytes are free, {size} are needed")
            with BagWriter(part) as bag:
                for message in kept:
                    bag.write(message.topic, message.message_type, message.log_ns, message.data)
            os.replace(part, target)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise BagError(f"{target}: cannot be written: {error.strerror or error}") from error
        except BagError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return target

    def bags(self) -> list[Path]:
        """Return the bags of events, oldest first."""
        found = [path for path in self._folder.glob(f"{PREFIX}*") if path.suffix != PART and path.is_dir()]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _remove_left(self) -> None:
        """Remove what a process that was killed had not finished."""
        for part in self._folder.glob(f"{PREFIX}*{PART}"):
            touched_s = max(path.stat().st_mtime for path in (part, *part.iterdir()))
            if time.time() - touched_s > LEFT_S:
                shutil.rmtree(part, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Remove the oldest bags until another of `size` bytes is within the limits."""
        bags = self.bags()
        sizes = [sum(file.stat().st_size for file in bag.iterdir()) for bag in bags]
        while bags and (len(bags) >= self._max_bags or sum(sizes) + size > self._max_bytes):
            shutil.rmtree(bags.pop(0))
            del sizes[0]
