"""The way of a frame from message to result, sensor by sensor alike: every message ends in the ledger.

Holds no thread and no ROS, so that the node and the replay run this very code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from perception_rt.realtime.clock import Clock
from perception_rt.realtime.ledger import Entry, FrameLedger, Outcome
from perception_rt.realtime.ordering import StampOrder
from perception_rt.realtime.statistics import LatencyWindow, RateMeter
from perception_rt.types.errors import CodecError

STAGES = ("wait", "decode", "infer", "publish")


class Parsed(Protocol):
    """A message whose layout was checked; its pixels or points are still as they came."""

    stamp_ns: int

    def decode(self) -> Any:
        """The frame that the model takes; raises CodecError."""
        ...


@dataclass
class StreamStats:
    """What is known of one stream: the ledger, and times in ms."""

    ledger: FrameLedger = field(default_factory=FrameLedger)
    order: StampOrder = field(default_factory=StampOrder)
    age: LatencyWindow = field(default_factory=LatencyWindow)
    stages: dict[str, LatencyWindow] = field(default_factory=lambda: {s: LatencyWindow() for s in STAGES})
    rate: RateMeter = field(default_factory=RateMeter)
    last_arrival_ns: int | None = None

    def receive(self, now_ns: int) -> Entry:
        """A message arrived."""
        self.last_arrival_ns = now_ns
        return self.ledger.receive(now_ns)

    def in_order(self, entry: Entry, stamp_ns: int) -> bool:
        """Note the stamp; where it lies behind the newest of the stream, the message ends as late."""
        entry.stamp_ns = stamp_ns
        behind_ns = self.order.behind_ns(stamp_ns)
        if behind_ns:
            self.ledger.finish(entry, Outcome.LATE, f"stamp is {behind_ns / 1e6:.1f} ms behind the newest")
        return not behind_ns

    def measure(self, entry: Entry, stage: str, took_ns: int) -> None:
        """A stage of a message took so long."""
        entry.stages_ms[stage] = took_ns / 1e6
        self.stages[stage].add(took_ns / 1e6)

    def answered(self, entry: Entry, now_ns: int) -> None:
        """What came of a message is out."""
        self.age.add((now_ns - entry.stamp_ns) / 1e6)
        self.rate.add(now_ns)


class Waiting(NamedTuple):
    """A message that was accepted."""

    parsed: Parsed
    entry: Entry


class Computed(NamedTuple):
    """What became of a batch, before anything of it is published or settled; times in ns.

    Attributes:
        frames: by stream. refused: by stream, why there is no frame. decode_ns: by stream.
        results: of `frames`, in their order; or what the model raised.
    """

    frames: dict[str, Any]
    refused: dict[str, CodecError]
    decode_ns: dict[str, int]
    results: list | Exception
    infer_ns: int


Batch = Mapping[str, tuple[Waiting, int]]
"""By stream, a message and when it arrived, ns."""


class FramePipeline:
    """Receives messages, and processes batches of the newest ones, one batch at a time.

    `process` is `take`, `compute` and `finish` in a row. Only `compute` takes time, and it touches nothing
    that the others do: it may run elsewhere, and be said to have taken any time.

    Args:
        parsers: by stream, what turns a message into a `Parsed`; raises CodecError.
        infer: a list of frames to a list of results; whatever it raises is counted as a model error.
        publish: called with stream, frame and result.
        extras: the same, after all results of the batch are out: what is for people.
        clock: the clock of the stamps.
        warn: called with stream and error when a message is refused or the model fails.

    Attributes:
        stats: by stream.
        max_age_ms: frames older than this at their turn are late; 0 for no limit.
    """

    def __init__(
        self,
        parsers: Mapping[str, Callable[[Any], Parsed]],
        infer: Callable[[list], list],
        publish: Callable[[str, Any, Any], None],
        extras: Callable[[str, Any, Any], None],
        clock: Clock,
        warn: Callable[[str, Exception], None],
        max_age_ms: float = 0.0,
    ) -> None:
        self.stats = {stream: StreamStats() for stream in parsers}
        self.max_age_ms = max_age_ms
        self._parsers = parsers
        self._infer = infer
        self._publish = publish
        self._extras = extras
        self._clock = clock
        self._warn = warn
        self._lock = threading.Lock()  # a message ends by `process` or by `cancel_running`, not by both
        self._in_hand: dict[str, Entry] = {}

    def receive(self, stream: str, message: Any, put: Callable[[str, Waiting], Waiting | None]) -> None:
        """Check a message and `put` it into the mailbox; whatever is refused or superseded ends here."""
        stats = self.stats[stream]
        entry = stats.receive(self._clock.now_ns())
        try:
            parsed = self.parse(stream, message)
        except Exception as error:  # noqa: BLE001 - whatever a message holds, the next one is received
            stats.ledger.finish(entry, Outcome.DECODE_ERROR, str(error))
            self._warn(stream, error)
            return
        if not stats.in_order(entry, parsed.stamp_ns):
            return
        superseded = put(stream, Waiting(parsed, entry))
        if superseded is not None:
            stats.ledger.finish(superseded.entry, Outcome.SUPERSEDED, "a newer frame came first")

    def parse(self, stream: str, message: Any) -> Parsed:
        """Check a message; raises CodecError. `receive` does it too."""
        return self._parsers[stream](message)

    def cancel_pending(self, batch: Batch, reason: str) -> None:
        """Messages taken back out of the mailbox end as superseded."""
        for stream, (waiting, _) in batch.items():
            self.stats[stream].ledger.finish(waiting.entry, Outcome.SUPERSEDED, reason)

    def cancel_running(self, reason: str) -> None:
        """Messages that are being processed end as superseded; what becomes of them is not published."""
        with self._lock:
            given_up, self._in_hand = self._in_hand, {}
            for stream, entry in given_up.items():
                self.stats[stream].ledger.finish(entry, Outcome.SUPERSEDED, reason)

    def process(self, batch: Batch) -> None:
        """Decode, infer, publish; every message of `batch` ends here, and nothing is raised."""
        self.finish(self.compute(self.take(batch)))

    def take(self, batch: Batch) -> dict[str, Parsed]:
        """Take a batch in hand; what is too old ends here, the rest is to be computed."""
        now = self._clock.now_ns()
        with self._lock:
            self._in_hand = {stream: waiting.entry for stream, (waiting, _) in batch.items()}
        parsed = {}
        for stream, (waiting, arrival_ns) in batch.items():
            self.stats[stream].measure(waiting.entry, "wait", now - arrival_ns)
            age_ms = (now - waiting.parsed.stamp_ns) / 1e6
            if self.max_age_ms and age_ms > self.max_age_ms:
                self._end(stream, Outcome.LATE, f"age {age_ms:.1f} ms is above {self.max_age_ms:g} ms")
            else:
                parsed[stream] = waiting.parsed
        return parsed

    def compute(self, batch: Mapping[str, Parsed]) -> Computed:
        """Decode and infer; nothing is raised."""
        computed = Computed({}, {}, {}, [], 0)
        try:
            for stream, parsed in batch.items():
                began = self._clock.now_ns()
                try:
                    computed.frames[stream] = parsed.decode()
                except CodecError as error:
                    computed.refused[stream] = error
                computed.decode_ns[stream] = self._clock.now_ns() - began
            if not computed.frames:
                return computed
            began = self._clock.now_ns()
            results = self._infer(list(computed.frames.values()))
            return computed._replace(results=results, infer_ns=self._clock.now_ns() - began)
        except Exception as error:  # noqa: BLE001 - whatever a model does, the next frame has its turn
            return computed._replace(results=error)

    def finish(self, computed: Computed) -> None:
        """Publish; every message in hand ends here, and nothing is raised."""
        for stream, error in computed.refused.items():
            if self._end(stream, Outcome.DECODE_ERROR, str(error)):
                self._warn(stream, error)
        finished = []
        try:
            if isinstance(computed.results, Exception):
                raise computed.results
            for (stream, frame), result in zip(computed.frames.items(), computed.results, strict=True):
                if self._finish(stream, frame, result, computed):
                    finished.append((stream, frame, result))
        except Exception as error:  # noqa: BLE001 - whatever a model does, the next frame has its turn
            for stream in list(self._in_hand):
                if self._end(stream, Outcome.MODEL_ERROR, str(error)):
                    self._warn(stream, error)
        for stream, frame, result in finished:
            try:
                self._extras(stream, frame, result)
            except Exception as error:  # noqa: BLE001 - a picture for people must not cost a result
                self._warn(stream, error)

    def _finish(self, stream: str, frame: Any, result: Any, computed: Computed) -> bool:
        """Publish; False where the message was given up meanwhile."""
        stats = self.stats[stream]
        with self._lock:  # whoever gives up waits, so that published means published
            entry = self._in_hand.get(stream)
            if entry is None:
                return False
            began = self._clock.now_ns()
            self._publish(stream, frame, result)
            del self._in_hand[stream]
            now = self._clock.now_ns()
            stats.measure(entry, "decode", computed.decode_ns[stream])
            stats.measure(entry, "infer", computed.infer_ns)
            stats.measure(entry, "publish", now - began)
            stats.answered(entry, now)
            stats.ledger.finish(entry, Outcome.PUBLISHED)
        return True

    def _end(self, stream: str, outcome: Outcome, reason: str) -> bool:
        """Settle a message in hand; False where it has ended already."""
        with self._lock:
            entry = self._in_hand.pop(stream, None)
            if entry is not None:
                self.stats[stream].ledger.finish(entry, outcome, reason)
        return entry is not None
