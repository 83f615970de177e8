"""The worker of a detector in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import Batch, Computed, FramePipeline, Waiting
from perception_rt.realtime.scheduler import FixedRateScheduler

if TYPE_CHECKING:
    from perception_rt.replay.lockstep.host import LockstepHost


class LockstepWorker:
    """Decides by the node's own scheduler and mailbox when to run; what that takes is virtual.

    The computing is done on a thread of its own. Where its time is not measured, the loop goes on meanwhile
    and waits for the result when it is due: decoding, several models and all else run beside each other, and
    nothing of what is published depends on which is done first.

    Attributes:
        busy: a batch is being computed.
    """

    def __init__(
        self, host: LockstepHost, pipeline: FramePipeline, scheduler: FixedRateScheduler, mailbox: Mailbox
    ) -> None:
        self.busy = False
        self._host = host
        self._loop = host.loop
        self._pipeline = pipeline
        self._scheduler = scheduler
        self._mailbox = mailbox
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=host.get_name())
        self._wake_ns: int | None = None

    def put(self, stream: str, item: Waiting) -> Waiting | None:
        """As `realtime.worker.Worker.put`."""
        now = self._host.now_ns()
        superseded = self._mailbox.put(stream, item, now)
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
        """End the thread."""
        self._thread.shutdown()
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
        with self._host.timed():
            parsed = self._pipeline.take(batch)
            future = self._thread.submit(self._pipeline.compute, parsed)
            if self._host.timing is None:
                future.result()
            ends_ns = self._host.now_ns()
        took_ns = None
        if self._host.timing is not None:
            stamps = [one.stamp_ns for one in parsed.values()]
            took_ns = self._host.timing(self._host.path, max(stamps)) if stamps else 0
            ends_ns += took_ns
        self._loop.at(ends_ns, lambda: self._finish(future, took_ns))

    def _finish(self, future: Future[Computed], took_ns: int | None) -> None:
        """Publish; `took_ns` is what computing is said to have taken, None where it was measured."""
        computed = future.result()
        if took_ns is not None:
            computed = computed._replace(decode_ns=dict.fromkeys(computed.decode_ns, 0), infer_ns=took_ns)
        with self._host.timed():
            self._pipeline.finish(computed)
            self._scheduler.finished(self._host.now_ns())
        self.busy = False
        self._poll()
