"""The way of a frame from message to result, sensor by sensor alike: every message ends in the ledger.

Holds no thread and no ROS, so that the node and the replay run this very code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from perception_rt.realtime.clock import Clock
from perception_rt.realtime.ledger import Fate, FrameLedger
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
class Account:
    """What is known of one stream: the ledger, and times in ms."""

    ledger: FrameLedger = field(default_factory=FrameLedger)
    order: StampOrder = field(default_factory=StampOrder)
    age: LatencyWindow = field(default_factory=LatencyWindow)
    stages: dict[str, LatencyWindow] = field(default_factory=lambda: {s: LatencyWindow() for s in STAGES})
    rate: RateMeter = field(default_factory=RateMeter)
    last_arrival_ns: int | None = None


class FramePipeline:
    """Receives messages, and processes batches of the newest ones, one batch at a time.

    Args:
        parsers: by stream, what turns a message into a `Parsed`; raises CodecError.
        infer: a list of frames to a list of results; whatever it raises is counted as a model error.
        publish: called with stream, frame and result.
        extras: the same, after all results of the batch are out: what is for people.
        clock: the clock of the stamps.
        complain: called with stream and error when a message is refused or the model fails.

    Attributes:
        accounts: by stream.
        max_age_ms: frames older than this at their turn are late; 0 for no limit.
    """

    def __init__(
        self,
        parsers: Mapping[str, Callable[[Any], Parsed]],
        infer: Callable[[list], list],
        publish: Callable[[str, Any, Any], None],
        extras: Callable[[str, Any, Any], None],
        clock: Clock,
        complain: Callable[[str, Exception], None],
        max_age_ms: float = 0.0,
    ) -> None:
        self.accounts = {stream: Account() for stream in parsers}
        self.max_age_ms = max_age_ms
        self._parsers = parsers
        self._infer = infer
        self._publish = publish
        self._extras = extras
        self._clock = clock
        self._complain = complain
        self._lock = threading.Lock()  # a message ends by `process` or by `give_up`, not by both
        self._in_hand: set[str] = set()

    def receive(self, stream: str, message: Any, put: Callable[[str, Parsed], Parsed | None]) -> None:
        """Check a message and `put` it into the mailbox; whatever is refused or superseded ends here."""
        account = self.accounts[stream]
        account.ledger.receive()
        account.last_arrival_ns = self._clock.now_ns()
        try:
            parsed = self._parsers[stream](message)
        except Exception as error:  # noqa: BLE001 - whatever a message holds, the next one is received
            account.ledger.settle(Fate.DECODE_ERROR, str(error))
            self._complain(stream, error)
            return
        behind_ns = account.order.behind_ns(parsed.stamp_ns)
        if behind_ns:
            account.ledger.settle(Fate.LATE, f"stamp is {behind_ns / 1e6:.1f} ms behind the newest")
        elif put(stream, parsed) is not None:
            account.ledger.settle(Fate.SUPERSEDED, "a newer frame came first")

    def abandon(self, batch: Mapping[str, Any], reason: str) -> None:
        """Messages taken back out of the mailbox end as superseded."""
        for stream in batch:
            self.accounts[stream].ledger.settle(Fate.SUPERSEDED, reason)

    def give_up(self, reason: str) -> None:
        """Messages that are being processed end as superseded; what becomes of them is not published."""
        with self._lock:
            given_up, self._in_hand = self._in_hand, set()
            for stream in given_up:
                self.accounts[stream].ledger.settle(Fate.SUPERSEDED, reason)

    def process(self, batch: Mapping[str, tuple[Parsed, int]]) -> None:
        """Decode, infer, publish; every message of `batch` ends here, and nothing is raised.

        Args:
            batch: by stream, a parsed message and when it arrived, ns.
        """
        with self._lock:
            self._in_hand = set(batch)
        try:
            finished = self._run(batch)
        except Exception as error:  # noqa: BLE001 - whatever a model does, the next frame has its turn
            for stream in batch:
                if self._end(stream, Fate.MODEL_ERROR, str(error)):
                    self._complain(stream, error)
            return
        for stream, frame, result in finished:
            try:
                self._extras(stream, frame, result)
            except Exception as error:  # noqa: BLE001 - a picture for people must not cost a result
                self._complain(stream, error)

    def _run(self, batch: Mapping[str, tuple[Parsed, int]]) -> list[tuple[str, Any, Any]]:
        """What was published: stream, frame and result."""
        frames = {}
        for stream, (parsed, arrival_ns) in batch.items():
            frame = self._decode(stream, parsed, arrival_ns)
            if frame is not None:
                frames[stream] = frame
        if not frames:
            return []
        began = self._clock.now_ns()
        results = self._infer(list(frames.values()))
        infer_ms = (self._clock.now_ns() - began) / 1e6
        finished = [(s, frame, result) for (s, frame), result in zip(frames.items(), results, strict=True)]
        return [item for item in finished if self._finish(*item, infer_ms)]

    def _decode(self, stream: str, parsed: Parsed, arrival_ns: int) -> Any | None:
        """The frame, or None where it ended as late or undecodable."""
        account = self.accounts[stream]
        began = self._clock.now_ns()
        account.stages["wait"].add((began - arrival_ns) / 1e6)
        age_ms = (began - parsed.stamp_ns) / 1e6
        if self.max_age_ms and age_ms > self.max_age_ms:
            self._end(stream, Fate.LATE, f"age {age_ms:.1f} ms is above {self.max_age_ms:g} ms")
            return None
        try:
            frame = parsed.decode()
        except CodecError as error:
            if self._end(stream, Fate.DECODE_ERROR, str(error)):
                self._complain(stream, error)
            return None
        account.stages["decode"].add((self._clock.now_ns() - began) / 1e6)
        return frame

    def _finish(self, stream: str, frame: Any, result: Any, infer_ms: float) -> bool:
        """Publish; False where the message was given up meanwhile."""
        account = self.accounts[stream]
        with self._lock:  # whoever gives up waits, so that published means published
            if stream not in self._in_hand:
                return False
            began = self._clock.now_ns()
            self._publish(stream, frame, result)
            self._in_hand.remove(stream)
            account.ledger.settle(Fate.PUBLISHED)
        now = self._clock.now_ns()
        account.stages["infer"].add(infer_ms)
        account.stages["publish"].add((now - began) / 1e6)
        account.age.add((now - frame.stamp_ns) / 1e6)
        account.rate.add(now)
        return True

    def _end(self, stream: str, fate: Fate, reason: str) -> bool:
        """Settle a message in hand; False where it has ended already."""
        with self._lock:
            if stream not in self._in_hand:
                return False
            self._in_hand.remove(stream)
            self.accounts[stream].ledger.settle(fate, reason)
        return True
