"""A frame's way from message to result, the same for every sensor: every message ends in the ledger.

No thread and no ROS, so that the node and the replay run the same code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from perception_rt.realtime.clock import Clock
from perception_rt.realtime.ledger import Entry, FrameLedger, Outcome
from perception_rt.realtime.ordering import StampOrder
from perception_rt.realtime.statistics import ClockOffset, LatencyWindow, RateMeter
from perception_rt.types.errors import ModelError

EXTRAS_NS = round(1e9)  # maximum time between visualizations, even if frames wait

STAGES = ("wait", "decode", "infer", "publish")


class Parsed(Protocol):
    """A message whose layout was checked; its pixels or points are not decoded yet."""

    @property
    def stamp_ns(self) -> int:
        """The stamp of the header, ns."""
        ...

    def decode(self) -> Any:
        """Return the frame that the model takes; raises CodecError."""
        ...


@dataclass
class StreamStats:
    """Ledger and times (ms) of one stream."""

    ledger: FrameLedger = field(default_factory=FrameLedger)
    order: StampOrder = field(default_factory=StampOrder)
    age: LatencyWindow = field(default_factory=LatencyWindow)
    stages: dict[str, LatencyWindow] = field(default_factory=lambda: {s: LatencyWindow() for s in STAGES})
    rate: RateMeter = field(default_factory=RateMeter)
    offset: ClockOffset = field(default_factory=ClockOffset)
    last_arrival_ns: int | None = None

    def receive(self, now_ns: int) -> Entry:
        """Count a message that arrived."""
        self.last_arrival_ns = now_ns
        return self.ledger.receive(now_ns)

    def note_stamp(self, entry: Entry, stamp_ns: int) -> None:
        """Note the stamp of a message."""
        entry.stamp_ns = stamp_ns
        self.offset.add(entry.arrival_ns, stamp_ns)

    def reset_clock(self) -> None:
        """Take any next stamp: the clock was set back."""
        self.order.reset()
        self.offset.reset()

    def in_order(self, entry: Entry, stamp_ns: int) -> bool:
        """Note the stamp; a message behind the newest stamp of the stream ends as late."""
        self.note_stamp(entry, stamp_ns)
        behind_ns = self.order.behind_ns(stamp_ns, entry.arrival_ns)
        if behind_ns:
            self.ledger.finish(entry, Outcome.LATE, f"stamp is {behind_ns / 1e6:.1f} ms behind the newest")
        return not behind_ns

    def measure(self, entry: Entry, stage: str, took_ns: int) -> None:
        """Note how long a stage of a message took."""
        entry.stages_ms[stage] = took_ns / 1e6
        self.stages[stage].add(took_ns / 1e6)

    def answered(self, entry: Entry, now_ns: int) -> None:
        """Note age and rate: the result of a message was published."""
        if entry.stamp_ns is not None:
            self.age.add((now_ns - entry.stamp_ns) / 1e6)
        self.rate.add(now_ns)


class PendingFrame(NamedTuple):
    """A message that waits for its turn, and its entry in the ledger."""

    parsed: Parsed
    entry: Entry


class Computed(NamedTuple):
    """What decoding and inference made of a batch, before anything is published; times in ns.

    Attributes:
        results: by stream, the frame and its result.
        decode_errors: by stream, why there is no frame.
        model_errors: by stream, why there is a frame and no result.
        decode_ns: by stream.
        infer_ns: of the whole batch.
    """

    results: dict[str, tuple[Any, Any]]
    decode_errors: dict[str, Exception]
    model_errors: dict[str, Exception]
    decode_ns: dict[str, int]
    infer_ns: int


Batch = Mapping[str, tuple[PendingFrame, int]]
"""By stream, a message and when it arrived, ns."""


class FramePipeline:
    """Receives messages and processes batches of the newest ones, one batch at a time.

    `process` is `take`, `compute` and `finish` in a row. Only `compute` takes time, and it shares no state
    with the others: the replay runs it elsewhere and sets how long it took.

    Each stream of a batch stands for itself: a failure to decode, infer or publish one stream's frame, or of
    its `on_end`, leaves the results of the others alone.

    Args:
        parsers: by stream, what turns a message into a `Parsed`; raises CodecError.
        infer: a list of frames to a list of results; any exception is counted as a model error. Where a batch
            of several frames fails, each frame is inferred alone.
        publish: called with stream, frame and result.
        extras: the same for visualization, after all results of the batch are published; left out while newer
            frames wait, but for one of each stream each `EXTRAS_NS`.
        clock: the clock of the stamps.
        warn: called with stream and error when a message is refused or its processing fails.
        pending: whether frames wait for their turn.

    Attributes:
        stats: by stream.
        max_age_ms: frames older than this at their turn are late; 0 for no limit.
        running_since_ns: when the batch in hand was taken, ns; None without one.
        stage: of the batch in hand under `process`; empty without one.
    """

    def __init__(
        self,
        parsers: Mapping[str, Callable[[Any], Parsed]],
        infer: Callable[[list[Any]], list[Any]],
        publish: Callable[[str, Any, Any], None],
        extras: Callable[[str, Any, Any], None],
        clock: Clock,
        warn: Callable[[str, Exception], None],
        max_age_ms: float = 0.0,
        pending: Callable[[], bool] = lambda: False,
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
        self._running: dict[str, Entry] = {}
        self._pending = pending
        self._extras_ns: dict[str, int] = {}  # by stream, when they were last published
        self.running_since_ns: int | None = None
        self.stage = ""

    def receive(
        self, stream: str, message: Any, entry: Entry, put: Callable[[str, PendingFrame], PendingFrame | None]
    ) -> None:
        """Check a message and `put` it into the mailbox; a late or superseded one ends here.

        Args:
            stream: where it came from.
            message: serialized.
            entry: its entry in the ledger of `stats[stream]`.
            put: stores the newest message of a stream and returns the one that it supersedes, if any.

        Raises:
            CodecError: the message is malformed; its entry is still open.
        """
        stats = self.stats[stream]
        parsed = self.parse(stream, message)
        if stats.in_order(entry, parsed.stamp_ns):
            self.enqueue(stream, parsed, entry, put)

    def enqueue(
        self,
        stream: str,
        parsed: Parsed,
        entry: Entry,
        put: Callable[[str, PendingFrame], PendingFrame | None],
    ) -> None:
        """`put` a message that was checked and is in order; the one that it supersedes ends here."""
        superseded = put(stream, PendingFrame(parsed, entry))
        if superseded is not None:
            reason = "a newer frame came first"
            self.stats[stream].ledger.finish(superseded.entry, Outcome.SUPERSEDED, reason)

    def parse(self, stream: str, message: Any) -> Parsed:
        """Check a message; raises CodecError."""
        return self._parsers[stream](message)

    def cancel_pending(self, batch: Batch, reason: str) -> None:
        """End messages that were taken back out of the mailbox as superseded."""
        _for_each(
            lambda stream: self.stats[stream].ledger.finish(
                batch[stream][0].entry, Outcome.SUPERSEDED, reason
            ),
            batch,
        )

    def cancel_running(self, reason: str) -> None:
        """End the messages that are being processed as superseded; their results are not published."""
        _for_each(lambda stream: self._end(stream, Outcome.SUPERSEDED, reason), list(self._running))

    def process(self, batch: Batch) -> None:
        """Decode, infer, publish; every message of `batch` ends here.

        Raises:
            Exception: only what `on_end` of a ledger raised, after all streams are done.
        """
        self.stage = "decode"
        try:
            self.finish(self.compute(self.take(batch)))
        finally:
            self.stage = ""

    def take(self, batch: Batch) -> dict[str, Parsed]:
        """Begin a batch: frames that are too old end here, the others are returned."""
        self.running_since_ns = now = self._clock.now_ns()
        with self._lock:
            self._running = {stream: frame.entry for stream, (frame, _) in batch.items()}
        parsed = {}

        def begin(stream: str) -> None:
            frame, arrival_ns = batch[stream]
            self.stats[stream].measure(frame.entry, "wait", now - arrival_ns)
            age_ms = (now - frame.parsed.stamp_ns) / 1e6
            if self.max_age_ms and age_ms > self.max_age_ms:
                self._end(stream, Outcome.LATE, f"age {age_ms:.1f} ms is above {self.max_age_ms:g} ms")
            else:
                parsed[stream] = frame.parsed

        _for_each(begin, batch)
        return parsed

    def compute(self, batch: Mapping[str, Parsed]) -> Computed:
        """Decode and infer; nothing is raised."""
        frames: dict[str, Any] = {}
        computed = Computed({}, {}, {}, {}, 0)
        for stream, parsed in batch.items():
            began = self._clock.now_ns()
            try:
                frames[stream] = parsed.decode()
            except Exception as error:  # noqa: BLE001 - one camera's broken frame must not cost another's
                computed.decode_errors[stream] = error
            computed.decode_ns[stream] = self._clock.now_ns() - began
        began = self._clock.now_ns()
        self.stage = "infer" if self.stage else ""
        for stream, result in self._infer_each(frames).items():
            if isinstance(result, Exception):
                computed.model_errors[stream] = result
            else:
                computed.results[stream] = frames[stream], result
        return computed._replace(infer_ns=self._clock.now_ns() - began)

    def _infer_each(self, frames: Mapping[str, Any]) -> dict[str, Any]:
        """By stream, the result or what the model raised; alone where the batch as a whole fails."""
        if not frames:
            return {}
        try:
            results = self._infer(list(frames.values()))
            if len(results) != len(frames):
                raise ModelError(f"{len(results)} results for {len(frames)} frames")
        except Exception as error:  # noqa: BLE001 - after any failure of a model the next frame is processed
            if len(frames) == 1:
                return dict.fromkeys(frames, error)
            return {k: v for stream in frames for k, v in self._infer_each({stream: frames[stream]}).items()}
        return dict(zip(frames, results, strict=True))

    def finish(self, computed: Computed) -> None:
        """Publish; every running message ends here. Raises what `on_end` raised, after all streams."""
        published: list[str] = []
        self.running_since_ns = None
        self.stage = "publish" if self.stage else ""

        def publish(stream: str) -> None:
            if self._publish_result(stream, computed):
                published.append(stream)

        failed = {stream: (Outcome.DECODE_ERROR, error) for stream, error in computed.decode_errors.items()}
        failed |= {stream: (Outcome.MODEL_ERROR, error) for stream, error in computed.model_errors.items()}
        try:
            _for_each(publish, computed.results)
        finally:
            _for_each(lambda stream: self._fail(stream, *failed[stream]), failed)
            if published:
                now, pending = self._clock.now_ns(), self._pending()
                due = [stream for stream in published if not pending or self._extras_overdue(stream, now)]
                self._extras_ns.update(dict.fromkeys(due, now))
                self._visualize({stream: computed.results[stream] for stream in due})

    def _extras_overdue(self, stream: str, now_ns: int) -> bool:
        last_ns = self._extras_ns.get(stream)
        return last_ns is None or not 0 <= now_ns - last_ns < EXTRAS_NS

    def _visualize(self, results: Mapping[str, tuple[Any, Any]]) -> None:
        for stream, result in results.items():
            try:
                self._extras(stream, *result)
            except Exception as error:  # noqa: BLE001 - a visualization must not cost a result
                self._warn(stream, error)

    def _publish_result(self, stream: str, computed: Computed) -> bool:
        """Publish one result; False where it failed or the message was cancelled meanwhile."""
        stats = self.stats[stream]
        with self._lock:  # cancelling waits, so that published means published
            entry = self._running.pop(stream, None)
            if entry is None:
                return False
            began = self._clock.now_ns()
            try:
                self._publish(stream, *computed.results[stream])
            except Exception as error:  # noqa: BLE001 - one camera's failure must not cost another's result
                self._warn(stream, error)
                stats.ledger.finish(entry, Outcome.MODEL_ERROR, f"cannot publish: {error}")
                return False
            now = self._clock.now_ns()
            stats.measure(entry, "decode", computed.decode_ns[stream])
            stats.measure(entry, "infer", computed.infer_ns)
            stats.measure(entry, "publish", now - began)
            stats.answered(entry, now)
            stats.ledger.finish(entry, Outcome.PUBLISHED)
        return True

    def _fail(self, stream: str, outcome: Outcome, error: Exception) -> None:
        if stream in self._running:
            self._warn(stream, error)
        self._end(stream, outcome, str(error))

    def _end(self, stream: str, outcome: Outcome, reason: str) -> None:
        """End a running message, unless it has ended already."""
        with self._lock:
            entry = self._running.pop(stream, None)
            if entry is not None:
                self.stats[stream].ledger.finish(entry, outcome, reason)


def _for_each(step: Callable[[str], None], streams: Iterable[str]) -> None:
    """Call `step` for every stream, even if it raises for one of them; then raise the first error."""
    errors: list[Exception] = []
    for stream in streams:
        try:
            step(stream)
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
    if errors:
        raise errors[0]
