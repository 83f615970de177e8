"""The frame ledger: every received message ends in exactly one state, and the counts prove it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """How a received message ended."""

    PUBLISHED = "published"
    SUPERSEDED = "superseded"  # a newer one, or the end of the run, came before its turn
    LATE = "late"  # older than the limit, or older than what was already processed
    UNSYNCED = "unsynced"  # no partner within the window, or no transform
    REJECTED = "rejected"  # a measurement that fails a filter's gate
    DECODE_ERROR = "decode_error"
    MODEL_ERROR = "model_error"  # the model, or what encodes and publishes its result, failed


@dataclass(slots=True, eq=False)
class Entry:
    """One received message in the ledger.

    Attributes:
        number: from 0, by arrival.
        arrival_ns: time of arrival.
        stamp_ns: of its header; None until it was read.
        stages_ms: duration of each stage.
        outcome: how it ended; None while it is pending.
        reason: why it ended so; may be empty.
    """

    number: int
    arrival_ns: int
    stamp_ns: int | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)
    outcome: Outcome | None = None
    reason: str = ""


class FrameLedger:
    """The messages of one stream; safe to use from several threads.

    Attributes:
        on_end: called with the entry of every message that ended, after it is counted; what it raises is
            raised by `finish`.
    """

    def __init__(self) -> None:
        self.on_end: Callable[[Entry], None] | None = None
        self._lock = threading.Lock()
        self._received = 0
        self._counts: Counter[Outcome] = Counter()
        self._reasons: dict[Outcome, str] = {}

    def receive(self, now_ns: int) -> Entry:
        """Count a message that arrived and return its entry."""
        with self._lock:
            self._received += 1
            return Entry(self._received - 1, now_ns)

    def finish(self, entry: Entry, outcome: Outcome, reason: str = "") -> None:
        """End a message; `reason` is kept as the latest one of its outcome.

        Raises:
            ValueError: the message has ended before.
        """
        with self._lock:
            if entry.outcome is not None:
                raise ValueError(
                    f"outcome={outcome.value}: message {entry.number} ended as {entry.outcome.value} already"
                )
            entry.outcome, entry.reason = outcome, reason
            self._counts[outcome] += 1
            if reason:
                self._reasons[outcome] = reason
        if self.on_end is not None:
            self.on_end(entry)

    def snapshot(self) -> dict[str, Any]:
        """Return `{"received": int, "pending": int, "states": {state: int}, "reasons": {state: text}}`.

        The counts belong to one moment. `pending` messages wait or are being processed: zero after shutdown.
        """
        with self._lock:
            states = {outcome.value: self._counts[outcome] for outcome in Outcome}
            return {
                "received": self._received,
                "pending": self._received - sum(states.values()),
                "states": states,
                "reasons": {outcome.value: text for outcome, text in self._reasons.items()},
            }
