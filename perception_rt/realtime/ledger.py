"""The frame ledger: every received message ends in exactly one state, and the counts say so."""

from __future__ import annotations

import threading
from collections import Counter
from enum import Enum


class Fate(str, Enum):
    """How a received message ended."""

    PUBLISHED = "published"
    SUPERSEDED = "superseded"  # a newer one, or the end of the run, came before its turn
    LATE = "late"  # older than the limit, or older than what was already processed
    UNSYNCED = "unsynced"  # no partner within the window, or no transform
    REJECTED = "rejected"  # a measurement that a filter does not believe
    DECODE_ERROR = "decode_error"
    MODEL_ERROR = "model_error"


class FrameLedger:
    """Counts of one stream of messages; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._fates: Counter[Fate] = Counter()
        self._reasons: dict[Fate, str] = {}

    def receive(self) -> None:
        """A message arrived."""
        with self._lock:
            self._received += 1

    def settle(self, fate: Fate, reason: str = "") -> None:
        """A message that was received ended; `reason` is kept as the latest of its kind.

        Raises:
            ValueError: more messages would end than were received.
        """
        with self._lock:
            if sum(self._fates.values()) >= self._received:
                raise ValueError(f"fate={fate.value}: all {self._received} received messages ended already")
            self._fates[fate] += 1
            if reason:
                self._reasons[fate] = reason

    def snapshot(self) -> dict:
        """`{"received": int, "pending": int, "states": {state: int}, "reasons": {state: text}}`, consistent.

        `pending` messages wait in the mailbox or are being inferred; it is zero after a shutdown.
        """
        with self._lock:
            states = {fate.value: self._fates[fate] for fate in Fate}
            return {
                "received": self._received,
                "pending": self._received - sum(states.values()),
                "states": states,
                "reasons": {fate.value: text for fate, text in self._reasons.items()},
            }
