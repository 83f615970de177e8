"""The way of a frame from message to result, sensor by sensor alike: every message ends in the ledger.

Holds no thread and no ROS, so that the node and the replay run this very code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from perception_rt.realtime.clock import Clock
from perception_rt.realtime.ledger import Fate, FrameLedger
from perception_rt.realtime.ordering import StampOrder
from perception_rt.realtime.statistics import LatencyWindow, RateMeter
from perception_rt.types.errors import CodecError, ModelError

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
    """Receives messages, and processes batches of the newest ones.

    Args:
        parsers: by stream, what turns a message into a `Parsed`; raises CodecError.
        infer: a list of frames to a list of results; raises ModelError.
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

    def receive(self, stream: str, message: Any, put: Callable[[str, Parsed], Parsed | None]) -> None:
        """Check a message and `put` it into the mailbox; whatever is refused or superseded ends here."""
        account = self.accounts[stream]
        account.ledger.receive()
        account.last_arrival_ns = self._clock.now_ns()
        try:
            parsed = self._parsers[stream](message)
        except CodecError as error:
            self._refuse(stream, error)
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

    def process(self, batch: Mapping[str, tuple[Parsed, int]]) -> None:
        """Decode, infer, publish; every message of `batch` ends here.

        Args:
            batch: by stream, a parsed message and when it arrived, ns.
        """
        frames = {}
        for stream, (parsed, arrival_ns) in batch.items():
            frame = self._decode(stream, parsed, arrival_ns)
            if frame is not None:
                frames[stream] = frame
        if not frames:
            return
        began = self._clock.now_ns()
        try:
            results = self._infer(list(frames.values()))
        except ModelError as error:
            for stream in frames:
                self.accounts[stream].ledger.settle(Fate.MODEL_ERROR, str(error))
                self._complain(stream, error)
            return
        infer_ms = (self._clock.now_ns() - began) / 1e6
        for (stream, frame), result in zip(frames.items(), results, strict=True):
            self.accounts[stream].stages["infer"].add(infer_ms)
            self._finish(stream, frame, result)
        for (stream, frame), result in zip(frames.items(), results, strict=True):
            self._extras(stream, frame, result)

    def _decode(self, stream: str, parsed: Parsed, arrival_ns: int) -> Any | None:
        """The frame, or None where it ended as late or undecodable."""
        account = self.accounts[stream]
        began = self._clock.now_ns()
        account.stages["wait"].add((began - arrival_ns) / 1e6)
        age_ms = (began - parsed.stamp_ns) / 1e6
        if self.max_age_ms and age_ms > self.max_age_ms:
            account.ledger.settle(Fate.LATE, f"age {age_ms:.1f} ms is above {self.max_age_ms:g} ms")
            return None
        try:
            frame = parsed.decode()
        except CodecError as error:
            self._refuse(stream, error)
            return None
        account.stages["decode"].add((self._clock.now_ns() - began) / 1e6)
        return frame

    def _finish(self, stream: str, frame: Any, result: Any) -> None:
        account = self.accounts[stream]
        began = self._clock.now_ns()
        self._publish(stream, frame, result)
        now = self._clock.now_ns()
        account.ledger.settle(Fate.PUBLISHED)
        account.stages["publish"].add((now - began) / 1e6)
        account.age.add((now - frame.stamp_ns) / 1e6)
        account.rate.add(now)

    def _refuse(self, stream: str, error: CodecError) -> None:
        self.accounts[stream].ledger.settle(Fate.DECODE_ERROR, str(error))
        self._complain(stream, error)
