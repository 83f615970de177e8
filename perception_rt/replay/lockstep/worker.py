"""The worker of a detector in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import Batch, Computed, FramePipeline, Parsed, PendingFrame
from perception_rt.realtime.scheduler import FixedRateScheduler
from perception_rt.replay.lockstep.clock import NodeClock

STEADY = 30  # frames in a row that were all computed, after which the next ones are begun ahead again


class LockstepWorker:
    """Decides by the node's own scheduler and mailbox when to run; what that takes is virtual.

    The computing is done on a thread of its own. Where its time is not measured, the loop goes on meanwhile
    and waits for the result when it is due: decoding, several models and all else run beside each other, and
    nothing of what is published depends on which is done first.

    Attributes:
        busy: a batch is being computed.
    """

    def __init__(
        self,
        node: str,
        clock: NodeClock,
        pipeline: FramePipeline,
        scheduler: FixedRateScheduler,
        mailbox: Mailbox,
    ) -> None:
        self.busy = False
        self._node = node
        self._clock = clock
        self._loop = clock.loop
        self._pipeline = pipeline
        self._scheduler = scheduler
        self._mailbox = mailbox
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=node)
        self._wake_ns: int | None = None
        self._ahead: dict[int, tuple[int, Future[Computed]]] = {}  # by number: the stamp, the result
        self._anticipated = 0
        self._in_a_row = STEADY
        self._last = -1

    def anticipate(self, stream: str, data: bytes) -> None:
        """Start to compute a message ahead of time; called once for each message of the stream, in order.

        Whether it will have its turn is not known yet: a model that does not keep up would compute in vain.
        That shows in virtual time, so that two runs compute alike.
        """
        number, self._anticipated = self._anticipated, self._anticipated + 1
        if self._in_a_row < STEADY or len(self._pipeline.stats) > 1:
            return
        try:
            parsed = self._pipeline.parse(stream, data)
        except Exception:  # noqa: BLE001 - a malformed message is reported when it arrives
            return
        future = self._thread.submit(self._pipeline.compute, {stream: parsed})
        self._ahead[number] = parsed.stamp_ns, future

    def put(self, stream: str, item: PendingFrame) -> PendingFrame | None:
        """As `realtime.worker.Worker.put`."""
        now = self._clock.now_ns()
        superseded = self._mailbox.put(stream, item, now)
        if superseded is not None:  # this model does not keep up, however long its turn may yet take
            self._in_a_row = 0
            self._ahead.pop(superseded.entry.number, None)
        self._loop.at(now, self._poll)
        return superseded

    def clear(self) -> Batch:
        """Take back whatever waits."""
        return self._mailbox.take()

    def drain(self, timeout_s: float) -> bool:
        """Nothing is waited for in virtual time: the runner ends when no worker is busy."""
        return not self.busy

    def call(self, job: Callable[[], Any]) -> Future:
        """Run `job` on the thread of the model."""
        return self._thread.submit(job)

    def stop(self, timeout_s: float) -> bool:
        """End the thread; what was begun ahead is not wanted any more."""
        self._thread.shutdown(cancel_futures=True)
        return True

    def _poll(self) -> None:
        if self.busy:
            return
        now, ready = self._loop.now_ns(), self._mailbox.ready_ns()
        if self._scheduler.poll(now, ready):
            self._run(self._mailbox.take())
            return
        wake = self._scheduler.wake_ns(ready)
        if wake is not None and wake != self._wake_ns:
            self._wake_ns = wake
            self._loop.at(max(wake, now + 1), self._poll)

    def _run(self, batch: Batch) -> None:
        self.busy = True
        self._wake_ns = None
        with self._clock.timed():
            parsed = self._pipeline.take(batch)
            future = self._begun(batch, parsed) or self._thread.submit(self._pipeline.compute, parsed)
            if self._clock.timing is None:
                future.result()
            ends_ns = self._clock.now_ns()
        took_ns = None
        if self._clock.timing is not None:
            stamps = [one.stamp_ns for one in parsed.values()]
            took_ns = self._clock.timing(self._node, max(stamps)) if stamps else 0
            ends_ns += took_ns
        self._loop.at(ends_ns, lambda: self._finish(future, took_ns))

    def _begun(self, batch: Batch, parsed: Mapping[str, Parsed]) -> Future[Computed] | None:
        """What was begun ahead for a batch of one; what was begun for those before it was in vain."""
        if len(self._pipeline.stats) > 1:
            return None
        ((waiting, _),) = batch.values()
        number = waiting.entry.number
        # What was begun in vain runs to its end: how often a model ran must not depend on the machine.
        self._ahead = {later: begun for later, begun in self._ahead.items() if later >= number}
        stamp_ns, future = self._ahead.pop(number, (None, None))
        skipped, self._last = number - self._last > 1, number
        self._in_a_row = 0 if skipped or not parsed else self._in_a_row + 1
        return future if parsed and stamp_ns == waiting.parsed.stamp_ns else None

    def _finish(self, future: Future[Computed], took_ns: int | None) -> None:
        """Publish; `took_ns` is what computing is said to have taken, None where it was measured."""
        computed = future.result()
        if took_ns is not None:
            computed = computed._replace(decode_ns=dict.fromkeys(computed.decode_ns, 0), infer_ns=took_ns)
        with self._clock.timed():
            self._pipeline.finish(computed)
            ended_ns = self._clock.now_ns()
        if ended_ns > self._loop.now_ns():  # publishing took its time, too
            self._loop.at(ended_ns, self._rest)
        else:
            self._rest()

    def _rest(self) -> None:
        """The batch is done with: the next may begin."""
        self._scheduler.finished(self._loop.now_ns())
        self.busy = False
        self._poll()
