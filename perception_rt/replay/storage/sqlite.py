"""Read the messages of a rosbag2 SQLite database, intact or damaged."""

from __future__ import annotations

import re
import shutil
import sqlite3
from array import array
from collections import Counter, deque
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from perception_rt.replay.storage.values import BagMessage, Damage, FormatError, Report

MAGIC = b"SQLite format 3\0"
HEAD = 32
_LAST_ROW = 1 << 40
_PROBES = 2000  # how often reading of a damaged table is restarted


def missing_bytes(head: bytes, size: int) -> tuple[int, int]:
    """Return the bytes missing from a database according to its header, and those of an incomplete page.

    See https://www.sqlite.org/fileformat.html, 1.3, for page size and number of pages.
    """
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    return max(page * int.from_bytes(head[28:32], "big") - size, 0), size % page if page else 0


def _connected(path: Path, scratch: Path) -> sqlite3.Connection:
    log = path.with_name(path.name + "-wal")  # left by a recorder that was interrupted
    mode = "mode=ro&immutable=1"
    if log.exists() and log.stat().st_size:
        mode = "mode=rw"  # SQLite writes an index next to the log, but must not change the recording's folder
        copied = scratch.with_name(f"wal-{path.name}")
        shutil.copyfile(log, copied.with_name(copied.name + "-wal"))
        path = Path(shutil.copyfile(path, copied))
    database = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, check_same_thread=False)
    database.text_factory = partial(str, encoding="utf-8", errors="replace")
    database.execute("PRAGMA writable_schema = ON")  # allows opening a truncated database
    return database


def _check_tables(database: sqlite3.Connection) -> None:
    """Refuse views and virtual tables, which could generate rows without end.

    Raises:
        FormatError: names the object that is not a table.
    """
    query = "SELECT name, type, sql FROM sqlite_master WHERE lower(name) IN ('topics', 'messages')"
    for name, kind, text in database.execute(query):
        if kind != "table" or re.match(r"\s*create\s+virtual", str(text), re.IGNORECASE):
            raise FormatError(f"{name} is a {kind if kind != 'table' else 'virtual table'}, not a table")


class SqliteFile:
    """An open database; messages are read from the table, so that a damaged index hides none.

    Attributes:
        topics: message type by topic.
        promised: number of messages found, by topic.
        start_ns, end_ns: log times of the first and last message; None if there are none.

    Args:
        path: of the file. scratch: a path in a temporary folder, for a copy with its write-ahead log.
        report: called with every damage.

    Raises:
        FormatError: the database has no readable tables of a recording.
    """

    def __init__(self, path: Path, scratch: Path, report: Report) -> None:
        self._report = report
        self._channels: dict[int, tuple[str, str]] = {}
        try:
            self._db = _connected(path, scratch)
        except sqlite3.Error as error:
            raise FormatError(f"not a database of a recording: {error}") from error
        try:
            _check_tables(self._db)
            for number, topic, kind in self._db.execute("SELECT id, name, type FROM topics"):
                self._channels[number] = (str(topic), str(kind))
        except (sqlite3.Error, FormatError) as error:
            self._db.close()
            raise FormatError(f"not a database of a recording: {error}") from error
        columns = self._indexed()
        order = np.argsort(columns[2], kind="stable")
        self._rows, self._topic_ids, self._times = (column[order] for column in columns)
        self.topics = dict(self._channels.values())
        self.promised: Counter[str] = Counter(dict.fromkeys(self.topics, 0))
        for number, count in zip(*np.unique(self._topic_ids, return_counts=True), strict=True):
            if int(number) in self._channels:
                self.promised[self._channels[int(number)][0]] += int(count)
        self.start_ns = int(self._times[0]) if len(self._times) else None
        self.end_ns = int(self._times[-1]) if len(self._times) else None

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def messages(self, topics: Collection[str] | None, start_ns: int, stop_ns: int) -> Iterator[BagMessage]:
        """Yield messages of `topics` (None: all), `start_ns` <= log time < `stop_ns`, in order."""
        wanted = {n: names for n, names in self._channels.items() if topics is None or names[0] in topics}
        for at in range(*np.searchsorted(self._times, [start_ns, stop_ns]).tolist()):
            number, log_ns = int(self._topic_ids[at]), int(self._times[at])
            if number not in self._channels:
                self._report(Damage("", log_ns, 1, f"topic_id={number} is not defined"))
            elif number in wanted:
                try:
                    data = self._data(int(self._rows[at]))
                except (sqlite3.Error, FormatError) as error:
                    self._report(Damage(wanted[number][0], log_ns, 1, f"row {self._rows[at]}: {error}"))
                else:
                    yield BagMessage(*wanted[number], log_ns, data)

    def _data(self, row: int) -> bytes:
        found = self._db.execute("SELECT data FROM messages WHERE rowid = ?", (row,)).fetchone()
        if found is None or not isinstance(found[0], bytes):
            raise FormatError("has no message data")
        return found[0]

    def _indexed(self) -> tuple[np.ndarray, ...]:
        """Return row, topic and log time of all messages in the table, checked against the index."""
        columns = self._walked()
        rows, times = self._promised_rows()
        lost = ~np.isin(rows, columns[0])
        for row, log_ns in zip(rows[lost].tolist(), times[lost].tolist(), strict=True):
            self._report(Damage("", log_ns, 1, f"row {row} cannot be read"))
        _, in_index, in_table = np.intersect1d(rows, columns[0], return_indices=True)
        differ = times[in_index] != columns[2][in_table]
        wrong = in_index[differ]
        for row, log_ns in zip(rows[wrong].tolist(), times[wrong].tolist(), strict=True):
            self._report(Damage("", log_ns, 0, f"row {row} has a log time that differs from the index"))
        return columns

    def _promised_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and log times of all messages from the index on log times; empty without an index."""
        rows, times = array("q"), array("q")
        try:
            query = "SELECT rowid, timestamp FROM messages INDEXED BY timestamp_idx ORDER BY timestamp"
            for row, log_ns in self._db.execute(query):
                if isinstance(log_ns, int):
                    rows.append(row)
                    times.append(log_ns)
        except sqlite3.Error as error:
            if "no such index" not in str(error):
                self._report(Damage("", None, 0, f"index of log times: {error}: read the table instead"))
        return np.frombuffer(rows, np.int64), np.frombuffer(times, np.int64)

    def _walked(self) -> tuple[np.ndarray, ...]:
        """Return every readable row; restart reading after each damaged place."""
        columns = (array("q"), array("q"), array("q"))
        parts = deque([(0, _LAST_ROW)])
        probes = 0
        while parts and probes < _PROBES:
            probes += 1
            low, high = parts.popleft()
            low, reason = self._walk(columns, low, high, "ASC")
            if not reason:
                continue
            high, _ = self._walk(columns, low, high, "DESC")
            if probes == 1:
                self._report(Damage("", None, None, f"messages after row {low}: {reason}"))
            if high - low > 2:
                middle = (low + high + 1) // 2
                parts += [(low, middle), (middle - 1, high)]
        found = tuple(np.frombuffer(column, np.int64) for column in columns)
        _, first = np.unique(found[0], return_index=True)
        return tuple(column[first] for column in found)

    def _walk(self, columns: tuple[array, ...], low: int, high: int, order: str) -> tuple[int, str]:
        """Return the last readable row between two others, and why reading stopped; "" at the end."""
        last = low if order == "ASC" else high
        try:
            for row, number, log_ns in self._db.execute(
                "SELECT rowid, topic_id, timestamp FROM messages NOT INDEXED"
                f" WHERE rowid > ? AND rowid < ? ORDER BY rowid {order}",
                (low, high),
            ):
                if not low < row < high or (row <= last if order == "ASC" else row >= last):
                    return last, "rows out of order"
                last = row
                if isinstance(number, int) and isinstance(log_ns, int):
                    for column, value in zip(columns, (row, number, log_ns), strict=True):
                        column.append(value)
                else:
                    self._report(Damage("", None, 1, f"row {row}: topic_id={number!r}, timestamp={log_ns!r}"))
        except sqlite3.Error as error:
            return last, str(error)
        return last, ""
