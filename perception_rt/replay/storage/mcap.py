"""Read the messages of an MCAP file, intact or damaged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from perception_rt.replay.storage.chunk import Chunk, Content, Lost, read_chunk, read_indexed
from perception_rt.replay.storage.index import index_of
from perception_rt.replay.storage.merge import Source, merged
from perception_rt.replay.storage.records import Channel
from perception_rt.replay.storage.ros1_types import ROS1, Convert, converter
from perception_rt.replay.storage.values import BagMessage, Damage, FormatError, Report, type_name


class McapFile:
    """An open MCAP file.

    Attributes:
        topics: message type by topic.
        promised: number of messages by topic, from the file's statistics or a scan.
        start_ns, end_ns: log times of the first and last message; None if there are none.

    Args:
        path: of the file. report: called with every damage.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._report = report
        self._file = os.open(path, os.O_RDONLY)
        try:
            self._index = index_of(self._read, os.fstat(self._file).st_size)
        except BaseException:
            os.close(self._file)
            raise
        self._loose = self._within_recording(self._index.loose.sorted())
        self._converters: dict[int, Convert] = {}
        self._types = {n: self._type(channel) for n, channel in self._index.channels.items()}
        self.topics = {c.topic: self._types[n] for n, c in self._index.channels.items()}
        self.promised: Counter[str] = Counter(dict.fromkeys(self.topics, 0))
        promise = self._index.statistics.counts if self._index.statistics else self._index.counts
        for number, count in promise.items():
            if topic := self._topic(number):
                self.promised[topic] += count
        starts = [chunk.start_ns for chunk in self._index.chunks] + self._loose[0][:1].tolist()
        ends = [chunk.end_ns for chunk in self._index.chunks] + self._loose[0][-1:].tolist()
        self.start_ns, self.end_ns = min(starts, default=None), max(ends, default=None)
        self._report_lost(self._index.lost)

    def _type(self, channel: Channel) -> str:
        """Return the message type of a channel; messages of ROS 1 are converted."""
        schema = self._index.schemas.get(channel.schema_id)
        if schema is None:
            return ""
        if channel.encoding != ROS1:
            return type_name(schema.name, channel.encoding)
        try:
            kind, self._converters[channel.id] = converter(schema.name, schema.definition.decode())
        except (FormatError, UnicodeDecodeError) as error:
            self._report(Damage(channel.topic, None, 0, f"definition of {schema.name}: {error}"))
            return type_name(schema.name, channel.encoding)
        return kind

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def messages(self, topics: Collection[str] | None, start_ns: int, stop_ns: int) -> Iterator[BagMessage]:
        """Yield messages of `topics` (None: all), `start_ns` <= log time < `stop_ns`, in order."""
        wanted = {n for n, c in self._index.channels.items() if topics is None or c.topic in topics}
        sources = [
            Source(chunk.start_ns, partial(self._of_chunk, chunk, wanted, start_ns, stop_ns))
            for chunk in self._index.chunks
            if chunk.start_ns < stop_ns and chunk.end_ns >= start_ns and chunk.may_hold(wanted)
        ]
        first, last = np.searchsorted(self._loose[0], [start_ns, stop_ns])
        if first < last:
            sources.append(
                Source(int(self._loose[0][first]), lambda: self._of_loose(wanted, int(first), int(last)))
            )
        return merged(sources)

    def _within_recording(self, loose: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Drop messages whose log time is outside of the recording, as their headers are damaged."""
        if (told := self._index.statistics) is None:
            return loose
        begin = np.searchsorted(loose[0], told.start_ns)
        end = np.searchsorted(loose[0], told.end_ns, side="right")
        for row in (*range(begin), *range(end, len(loose[0]))):
            reason = "log time is outside the range of the recording"
            self._index.lost.append(Lost(int(loose[1][row]), int(loose[0][row]), 1, reason))
        return tuple(column[begin:end] for column in loose)

    def _of_chunk(
        self, chunk: Chunk, wanted: Collection[int], start_ns: int, stop_ns: int
    ) -> Iterator[BagMessage]:
        content = None
        if set(+Counter(chunk.counts)) - set(wanted):  # others are passed over, unless something is wrong
            content = read_indexed(self._read, chunk, wanted)
        if content is None:
            content = read_chunk(self._read, chunk)
        self._report_lost(content.lost)
        self._report_lost(self._contradictions(content, chunk))
        for log_ns, number, start, stop in content.messages:
            if number in wanted and start_ns <= log_ns < stop_ns:
                yield from self._message(number, log_ns, bytes(content.raw[start:stop]))
            elif number not in self._types:
                self._report_lost([self._undefined(number, log_ns)])

    def _of_loose(self, wanted: Collection[int], first: int, last: int) -> Iterator[BagMessage]:
        for row in range(first, last):
            log_ns, number, start, size = (int(column[row]) for column in self._loose)
            if number in wanted:
                yield from self._message(number, log_ns, self._read(start, size))
            elif number not in self._types:
                self._report_lost([self._undefined(number, log_ns)])

    def _message(self, number: int, log_ns: int, data: bytes) -> Iterator[BagMessage]:
        convert = self._converters.get(number)
        try:
            converted = data if convert is None else convert(data)
        except FormatError as error:
            self._report_lost([Lost(number, log_ns, 1, str(error))])
        else:
            yield BagMessage(self._topic(number), self._types[number], log_ns, converted)

    def _topic(self, number: int | None) -> str:
        channel = None if number is None else self._index.channels.get(number)
        return channel.topic if channel else ""

    def _contradictions(self, content: Content, chunk: Chunk) -> Iterator[Lost]:
        for number, channel in content.channels.items():
            known = self._index.channels.get(number)
            if known != channel:
                reason = f"chunk at byte {chunk.start} calls it {channel.topic!r}"
                yield Lost(number, chunk.start_ns, 0, reason)

    def _undefined(self, number: int, log_ns: int) -> Lost:
        return Lost(None, log_ns, 1, f"channel {number} is not defined")

    def _report_lost(self, lost: Collection[Lost] | Iterator[Lost]) -> None:
        for channel, log_ns, messages, reason in lost:
            self._report(Damage(self._topic(channel), log_ns, messages, reason))

    def _read(self, start: int, size: int) -> bytes:
        """Return up to `size` bytes at an offset; fewer at the end of the file."""
        return os.pread(self._file, size, start)
