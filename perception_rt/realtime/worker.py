"""The worker: the one thread that runs the model, woken by arrivals and by the scheduler."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from perception_rt.realtime.clock import Clock
from perception_rt.realtime.mailbox import Mailbox
from perception_rt.realtime.scheduler import FairScheduler

Item = TypeVar("Item")
Result = TypeVar("Result")

EXIT_S = 30.0  # how long the interpreter's end waits for a running batch
POLL_S = 0.005  # how often a clock that may jump or stand still (simulated time) is read


class Worker(Generic[Item]):
    """Runs `process` on the newest items, on its own thread, when the scheduler allows it.

    Torch's parallel operators lose half their speed once two threads have used them, so `call` runs
    everything else that touches the model (loading, warming up) on this thread too.

    Args:
        process: called with `{stream: (item, arrival_ns)}`.
        scheduler: decides when to run.
        mailbox: where the newest items wait.
        clock: the time of the scheduler and of arrivals.
        steady: the clock runs at the speed of the machine's; False for simulated time, which is polled.
        on_error: called with what `process` raised; the worker goes on.
    """

    def __init__(
        self,
        process: Callable[[dict[str, tuple[Item, int]]], object],
        scheduler: FairScheduler,
        mailbox: Mailbox[Item],
        clock: Clock,
        steady: bool = True,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self._process = process
        self._on_error = on_error
        self._scheduler = scheduler
        self._mailbox = mailbox
        self._clock = clock
        self._steady = steady
        self._jobs: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._condition = threading.Condition()
        self._stopping = False
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)
        self._thread.start()
        _workers.add(self)

    def put(self, stream: str, item: Item) -> Item | None:
        """Store the newest item of `stream`; returns the one that it supersedes, if any."""
        with self._condition:
            superseded = self._mailbox.put(stream, item, self._clock.now_ns())
            self._condition.notify()
        return superseded

    def clear(self) -> dict[str, tuple[Item, int]]:
        """Remove and return the items that wait."""
        with self._condition:
            return self._mailbox.take()

    def pending(self) -> bool:
        """Whether items wait for their turn."""
        with self._condition:
            return bool(self._mailbox.ready())

    def drain(self, timeout_s: float) -> bool:
        """Wait for the running batch; False where it still runs after `timeout_s`."""
        return self._idle.wait(timeout_s)

    def call(self, job: Callable[[], Result]) -> Future[Result]:
        """Run `job` on the worker's thread between two batches."""
        future: Future[Result] = Future()
        with self._condition:
            if self._stopping:
                future.cancel()
            else:
                self._jobs.append((job, future))
                self._condition.notify()
        return future

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the running batch; False where it still runs after `timeout_s`."""
        with self._condition:
            self._stopping = True
            for _, future in self._jobs:
                future.cancel()
            self._jobs.clear()
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._condition:
                batch, jobs = self._await_work()
                if self._stopping:
                    return
                if batch:
                    self._idle.clear()
            for job, future in jobs:
                _fulfil(job, future)
            if batch:
                try:
                    self._process(batch)
                except Exception as error:  # noqa: BLE001 - the thread must live on
                    if self._on_error is not None:
                        self._on_error(error)
                self._scheduler.finished(self._clock.now_ns())
                self._idle.set()

    def _await_work(
        self,
    ) -> tuple[dict[str, tuple[Item, int]], list[tuple[Callable[[], Any], Future[Any]]]]:
        """Wait, with the condition held, until there are jobs, a batch is due or the worker is to stop."""
        while not self._stopping:
            if self._jobs:
                jobs, self._jobs = self._jobs, []
                return {}, jobs
            ready = self._mailbox.ready()
            now = self._clock.now_ns()
            lane = self._scheduler.poll(now, ready)
            if lane is not None:
                return self._mailbox.take(lane), []
            wake = self._scheduler.wake_ns(ready)
            if wake is None:
                self._condition.wait()
            else:
                timeout = max(wake - now, 0) / 1e9
                self._condition.wait(timeout if self._steady else min(timeout, POLL_S))
        return {}, []


_workers: weakref.WeakSet[Worker[Any]] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    """End all threads: one that computes while the interpreter is finalized aborts the process."""
    for worker in list(_workers):
        worker.stop(EXIT_S)


def _fulfil(job: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except Exception as error:  # noqa: BLE001 - raised where the future's result is read
        future.set_exception(error)
