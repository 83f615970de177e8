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

from perception_rt.replay.storage.values import BagMessage, Damage, FormatError, Report, type_name

MAGIC = b"SQLite format 3\0"
HEAD = 32
_LAST_ROW = 1 << 40
_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # of a message that quotes the file's damaged text
_STEPS_EVERY, _STEPS_PER_BYTE = 4096, 8
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
        except _ERRORS as error:
            raise FormatError(f"not a database of a recording: {error}") from error
        try:
            _check_tables(self._db)
            columns = {name for _, name, *_ in self._db.execute("PRAGMA table_info(topics)")}
            encoding = "serialization_format" if "serialization_format" in columns else "''"
            for number, topic, kind, how in self._db.execute(
                f"SELECT id, name, type, {encoding} FROM topics"
            ):
                self._channels[number] = (str(topic), type_name(str(kind), str(how or "")))
        except (*_ERRORS, FormatError) as error:
            self._db.close()
            raise FormatError(f"not a database of a recording: {error}") from error
        self._table: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # rows and log times, by topic
        counts = self._counted(path.stat().st_size)
        if counts is None:
            self._take(self._indexed())
            counts = [
                (number, len(rows), int(times.min()), int(times.max()))
                for number, (rows, times) in self._table.items()
            ]
        self._numbers = [number for number, *_ in counts]
        self.topics = dict(self._channels.values())
        self.promised: Counter[str] = Counter(dict.fromkeys(self.topics, 0))
        for number, count, _, _ in counts:
            if number in self._channels:
                self.promised[self._channels[number][0]] += count
        self.start_ns = min((first_ns for *_, first_ns, _ in counts), default=None)
        self.end_ns = max((last_ns for *_, last_ns in counts), default=None)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def messages(self, topics: Collection[str] | None, start_ns: int, stop_ns: int) -> Iterator[BagMessage]:
        """Yield messages of `topics` (None: all), `start_ns` <= log time < `stop_ns`, in order."""
        wanted = {n: names for n, names in self._channels.items() if topics is None or names[0] in topics}
        rows, numbers, times = self._listed(
            [n for n in self._numbers if n in wanted or n not in self._channels]
        )
        for at in range(*np.searchsorted(times, [start_ns, stop_ns]).tolist()):
            row, number, log_ns = int(rows[at]), int(numbers[at]), int(times[at])
            if number not in self._channels:
                self._report(Damage("", log_ns, 1, f"topic_id={number} is not defined"))
                continue
            try:
                data = self._data(row)
            except (*_ERRORS, FormatError) as error:
                self._report(Damage(wanted[number][0], log_ns, 1, f"row {row}: {error}"))
            else:
                yield BagMessage(*wanted[number], log_ns, data)

    def _listed(self, numbers: list[int]) -> tuple[np.ndarray, ...]:
        """Return row, topic and log time of all messages of some topics, in order of log time."""
        missing = [number for number in numbers if number not in self._table]
        if missing:
            marks = ",".join("?" * len(missing))
            query = f"SELECT rowid, topic_id, timestamp FROM messages NOT INDEXED WHERE topic_id IN ({marks})"
            columns = (array("q"), array("q"), array("q"))
            for values in self._db.execute(query, missing):
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
            self._take(tuple(np.frombuffer(column, np.int64) for column in columns))
        found = [self._table[number] for number in numbers if number in self._table]
        if not found:
            return (np.zeros(0, np.int64),) * 3
        rows, times = (np.concatenate(column) for column in zip(*found, strict=True))
        ids = np.repeat(numbers, [len(part) for part, _ in found])
        order = np.lexsort((rows, times))
        return rows[order], ids[order], times[order]

    def _take(self, columns: tuple[np.ndarray, ...]) -> None:
        """Keep rows and log times of messages by topic."""
        rows, numbers, times = columns
        for number in np.unique(numbers).tolist():
            self._table[number] = rows[numbers == number], times[numbers == number]

    def _counted(self, size: int) -> list[tuple[int, int, int, int]] | None:
        """Return number, first and last log time of the messages by topic, where table and index agree.

        Return None where the database may be damaged. SQLite stops after as many steps as a sound file of its
        size can need.
        """
        steps = iter(range(size // _STEPS_EVERY + 100))
        self._db.set_progress_handler(lambda: next(steps, None) is None, _STEPS_EVERY * _STEPS_PER_BYTE)
        check = "COUNT(*), SUM(rowid), SUM(timestamp & 4294967295)"
        integers = "SUM(typeof(topic_id) != 'integer' OR typeof(timestamp) != 'integer')"
        try:
            rows = self._db.execute(
                f"SELECT topic_id, MIN(timestamp), MAX(timestamp), {integers}, {check}"
                " FROM messages NOT INDEXED GROUP BY topic_id"
            ).fetchall()
            index = self._db.execute(f"SELECT {check} FROM messages INDEXED BY timestamp_idx").fetchone()
        except _ERRORS:
            return None
        finally:
            self._db.set_progress_handler(None, 0)
        if any(value is None for row in rows for value in row):
            return None
        sums = tuple(sum(column) for column in zip(*(row[4:] for row in rows), strict=True))
        if any(row[3] for row in rows) or sums != (index if index[0] else ()):
            return None
        return [(number, count, first_ns, last_ns) for number, first_ns, last_ns, _, count, *_ in rows]

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
        except _ERRORS as error:
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
        except _ERRORS as error:
            return last, str(error)
        return last, ""
