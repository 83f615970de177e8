"""The watchdog of a detector: liveness, degraded modes with recovery, and pause.

It reports every action in the log and in the node's status.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from perception_rt.component.parameters import Parameter
from perception_rt.realtime.ledger import Outcome
from perception_rt.types.status import Level

if TYPE_CHECKING:
    from perception_rt.component.detector import DetectorComponent

POLL_S = 0.2
LEAST_S = 1.0  # minimum; a rate above the model's own means as fast as possible
MODEL_ERRORS = 5  # in a row, until the fallback
OVERLOAD_S = 5.0  # in which nearly all runs miss their deadline
OVERLOAD_SHARE, OVERLOAD_RUNS = 0.9, 5
RETRY_S, LONGEST_RETRY_S = 10.0, 300.0  # until the full mode is tried again; doubles with each failure
FALLBACK = {"device": "cpu", "engine": "reference", "half": False}

WATCHDOG_PARAMETERS = (
    Parameter(
        "deadline_periods",
        30,
        "Periods (at least 1 s) that an inference may take until the node reports an error; 0: no limit.",
        (0, 100_000),
    ),
    Parameter(
        "fallback",
        False,
        f"After {MODEL_ERRORS} model errors in a row, run on the CPU with the reference engine for a while.",
    ),
    Parameter(
        "overload_rate_hz",
        0.0,
        f"Rate after {OVERLOAD_S:g} s of missed deadlines, until the overload ends; 0: no change.",
        (0.0, 1000.0),
    ),
    Parameter("only_subscribed", False, "Run inference only while the results have subscribers.", live=True),
)


class Retry:
    """Delay before a failed mode is tried again: doubles with each failure, resets after a long success."""

    def __init__(self) -> None:
        self._wait_s = RETRY_S
        self._left_ns: int | None = None
        self.due_ns = 0

    def enter(self, now_ns: int) -> None:
        """Record that the full mode failed."""
        relapse = self._left_ns is not None and now_ns - self._left_ns < 2 * self._wait_s * 1e9
        self._wait_s = min(2 * self._wait_s, LONGEST_RETRY_S) if relapse else RETRY_S
        self.postpone(now_ns)

    def postpone(self, now_ns: int) -> None:
        """Restart the delay."""
        self.due_ns = now_ns + round(self._wait_s * 1e9)

    def leave(self, now_ns: int) -> None:
        """Record that the full mode works again."""
        self._left_ns = now_ns


class DetectorWatchdog:
    """Watches one detector; call `poll` every `POLL_S` on the receiving thread.

    Attributes:
        paused: no frame is accepted.
    """

    def __init__(self, detector: DetectorComponent) -> None:
        self.paused = False
        self._detector = detector
        self._errors = self._answers = 0  # at the last answer
        self._primary: Any = None  # the runtime that was left for the fallback
        self._fallback: Any = None
        self._reason = ""
        self._job: Future[Any] | None = None
        self._job_done = ""  # log message when the job succeeds
        self._model_retry, self._rate_retry = Retry(), Retry()
        self._loads: deque[tuple[int, int, int]] = deque()  # time, deadline misses, runs
        self._slowed = False

    def refuses(self, stream: str) -> str:
        """Return why a frame is refused; empty if it is accepted."""
        if self.paused:
            return "the node is paused"
        if self._detector.values["only_subscribed"] and not self._detector.subscribers(stream):
            return "nothing subscribes to the result"
        return ""

    def verdict(self, now_ns: int) -> tuple[Level, str]:
        """Return the level and message of the node's status."""
        detector = self._detector
        since_ns = detector.pipeline.running_since_ns
        allowed = detector.values["deadline_periods"]
        if since_ns is not None and allowed:
            periods = (now_ns - since_ns) / detector.scheduler.period_ns
            if periods > allowed and now_ns - since_ns > LEAST_S * 1e9:
                stage = detector.pipeline.stage or "infer"
                return Level.ERROR, f"no answer for {periods:.0f} periods; last stage: {stage}"
        degraded = []
        if self._primary is not None:
            degraded.append(f"CPU and reference engine after model errors: {self._reason}")
        if self._slowed:
            degraded.append(f"{detector.scheduler.rate_hz:g} Hz after sustained overload")
        if degraded:
            return Level.WARN, "degraded: " + "; ".join(degraded)
        return Level.OK, "paused" if self.paused else "running"

    def rate_changed(self) -> None:
        """Restart the measurement of overload, as the rate was set."""
        self._slowed = False
        self._loads.clear()

    def poll(self) -> None:
        """Enter and leave degraded modes."""
        detector = self._detector
        if not detector.active or detector.pipeline is None:
            return
        now_ns = detector.host.now_ns()
        books = [stats.ledger.snapshot() for stats in detector.pipeline.stats.values()]
        errors = sum(book["states"][Outcome.MODEL_ERROR.value] for book in books)
        answers = [book["states"][Outcome.PUBLISHED.value] for book in books]
        if detector.values["fallback"]:
            reason = next(
                (why for book in books if (why := book["reasons"].get(Outcome.MODEL_ERROR.value))), ""
            )
            self._check_model(now_ns, errors, sum(answers), reason)
        if 0 < detector.values["overload_rate_hz"] < detector.values["rate_hz"]:
            together = detector.mailbox.batch_wait_ns is not None
            self._check_load(now_ns, (max if together else sum)(answers) + errors)

    # The model.

    def _check_model(self, now_ns: int, errors: int, answers: int, reason: str) -> None:
        if answers > self._answers:
            self._answers, self._errors = answers, errors
        if self._job is not None:
            if self._job.done():
                self._end_job(now_ns)
            return
        if self._primary is None:
            if errors - self._errors >= MODEL_ERRORS:
                self._errors, self._reason = errors, reason
                self._model_retry.enter(now_ns)
                self._job_done = f"degraded: CPU and reference engine after model errors: {reason}"
                self._job = self._detector.worker.call(self._fall_back)
        elif self._detector.runtime is not self._fallback:
            self._primary = self._fallback = None  # another bundle was loaded meanwhile
        elif now_ns >= self._model_retry.due_ns:
            self._model_retry.postpone(now_ns)
            self._job_done = "healthy again: device and engine as configured"
            self._job = self._detector.worker.call(self._return)

    def _fall_back(self) -> None:
        primary = self._detector.runtime
        # Not the bundle of the parameter, which may not have been swapped in, or was refused.
        fallback = self._detector.open({**FALLBACK, "bundle": primary.source})
        self._detector.use(fallback)
        self._primary, self._fallback = primary, fallback

    def _return(self) -> None:
        self._detector.warm_up(self._primary)  # raises where it still fails
        self._detector.use(self._primary)
        self._primary = self._fallback = None

    def _end_job(self, now_ns: int) -> None:
        job, self._job = self._job, None
        assert job is not None  # the job has ended
        try:
            job.result()
        except CancelledError:
            return  # the node is being cleaned up
        except Exception as error:  # noqa: BLE001 - after any failure of an engine, the mode stays
            self._detector.host.warn(self._detector.host.get_name(), error)
            return
        if self._primary is None:
            self._model_retry.leave(now_ns)
        self._detector.host.info(self._job_done)
        self._detector.host.publish_diagnostics()

    # The rate.

    def _check_load(self, now_ns: int, runs: int) -> None:
        detector, scheduler = self._detector, self._detector.scheduler
        self._loads.append((now_ns, scheduler.deadline_misses, runs))
        if now_ns - self._loads[0][0] < OVERLOAD_S * 1e9:
            return
        _, misses, before = self._loads.popleft()
        missed, ran = scheduler.deadline_misses - misses, runs - before
        if self._slowed:
            if missed:
                self._rate_retry.postpone(now_ns)
            elif now_ns >= self._rate_retry.due_ns:
                scheduler.rate_hz = detector.values["rate_hz"]
                self._rate_retry.leave(now_ns)
                self._told_rate("no overload any more: the rate is as configured")
        elif ran >= OVERLOAD_RUNS and missed >= OVERLOAD_SHARE * ran:
            scheduler.rate_hz = detector.values["overload_rate_hz"]
            self._rate_retry.enter(now_ns)
            self._told_rate(f"degraded: {scheduler.rate_hz:g} Hz after {OVERLOAD_S:g} s of overload")

    def _told_rate(self, text: str) -> None:
        self._slowed = not self._slowed
        self._loads.clear()
        self._detector.host.info(text)
        self._detector.host.publish_diagnostics()
