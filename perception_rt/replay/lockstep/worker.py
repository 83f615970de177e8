"""Run the inference of a detector in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.pipeline import Batch, Computed, FramePipeline, Parsed, PendingFrame
from perception_rt.realtime.scheduler import FairScheduler
from perception_rt.replay.lockstep.clock import NodeClock
from perception_rt.replay.lockstep.transforms import TransformView

STEADY = 30  # consecutive computed frames after which frames are computed ahead again


class LockstepWorker:
    """Run batches when the node's scheduler and mailbox say so; their duration is virtual.

    A separate thread computes. If time is not measured, the loop continues meanwhile and waits for the result
    when it is due, so that decoding and several models run in parallel. The published messages do not depend
    on which finishes first.

    Attributes:
        busy: whether a batch is being computed.
    """

    def __init__(
        self,
        node: str,
        clock: NodeClock,
        pipeline: FramePipeline,
        scheduler: FairScheduler,
        mailbox: Mailbox,
        view: TransformView,
    ) -> None:
        self.busy = False
        self._view = view
        self._node = node
        self._clock = clock
        self._loop = clock.loop
        self._pipeline = pipeline
        self._scheduler = scheduler
        self._mailbox = mailbox
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=node)
        self._wake_ns: int | None = None
        self._ahead: dict[int, tuple[int, Future[Computed]]] = {}  # stamp and result by message number
        self._anticipated = 0
        self._in_a_row = STEADY
        self._last = -1

    def anticipate(self, stream: str, data: bytes) -> None:
        """Start to compute a message ahead of time; called once for each message of the stream, in order.

        A frame that the mailbox later drops would be computed in vain, so a model that does not keep up does
        not compute ahead. That is decided in virtual time, so that two runs compute the same frames.
        """
        number, self._anticipated = self._anticipated, self._anticipated + 1
        if self._in_a_row < STEADY or len(self._pipeline.stats) > 1:
            return
        try:
            parsed = self._pipeline.parse(stream, data)
        except Exception:  # noqa: BLE001 - a malformed message is reported when it arrives
            return
        compute = self._view.frozen(self._pipeline.compute, ahead=True)
        future = self._thread.submit(compute, {stream: parsed})
        self._ahead[number] = parsed.stamp_ns, future

    def put(self, stream: str, item: PendingFrame) -> PendingFrame | None:
        """Put a frame into the mailbox, as `realtime.worker.Worker.put`."""
        now = self._clock.now_ns()
        superseded = self._mailbox.put(stream, item, now)
        if superseded is not None:  # this model does not keep up
            self._in_a_row = 0
            self._ahead.pop(superseded.entry.number, None)
        self._loop.at(now, self._poll)
        return superseded

    def clear(self) -> Batch:
        """Remove and return the waiting frames."""
        return self._mailbox.take()

    def pending(self) -> bool:
        """Return False: drawing takes no virtual time."""
        return False

    def drain(self, timeout_s: float) -> bool:
        """Return whether the worker is idle; virtual time never waits."""
        return not self.busy

    def call(self, job: Callable[[], Any]) -> Future:
        """Run `job` on the thread of the model."""
        return self._thread.submit(job)

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread and cancel the frames computed ahead."""
        self._thread.shutdown(cancel_futures=True)
        return True

    def _poll(self) -> None:
        if self.busy:
            return
        now, ready = self._loop.now_ns(), self._mailbox.ready()
        lane = self._scheduler.poll(now, ready)
        if lane is not None:
            self._run(self._mailbox.take(lane))
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
            compute = self._view.frozen(self._pipeline.compute, ahead=False)
            future = self._begun(batch, parsed) or self._thread.submit(compute, parsed)
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
        """Return the future of a frame that is computed ahead, if there is one, and drop older futures."""
        if len(self._pipeline.stats) > 1:
            return None
        ((waiting, _),) = batch.values()
        number = waiting.entry.number
        # Dropped futures still run: how often a model runs must not depend on the machine.
        self._ahead = {later: begun for later, begun in self._ahead.items() if later >= number}
        stamp_ns, future = self._ahead.pop(number, (None, None))
        skipped, self._last = number - self._last > 1, number
        self._in_a_row = 0 if skipped or not parsed else self._in_a_row + 1
        return future if parsed and stamp_ns == waiting.parsed.stamp_ns else None

    def _finish(self, future: Future[Computed], took_ns: int | None) -> None:
        """Publish the results; `took_ns` is the virtual compute time, None if it was measured."""
        computed = future.result()
        if took_ns is not None:
            computed = computed._replace(decode_ns=dict.fromkeys(computed.decode_ns, 0), infer_ns=took_ns)
        with self._clock.timed():
            self._pipeline.finish(computed)
            ended_ns = self._clock.now_ns()
        if ended_ns > self._loop.now_ns():  # publishing takes time, too
            self._loop.at(ended_ns, self._finish_batch)
        else:
            self._finish_batch()

    def _finish_batch(self) -> None:
        """Mark the batch as finished and start the next."""
        self._scheduler.finished(self._loop.now_ns())
        self.busy = False
        self._poll()
