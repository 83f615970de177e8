"""Check stamps and arrivals of one sensor: clock offset, rate, jitter, order, silence."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np

from perception_rt.stage.health.checks import NEVER, Check, Finding, Limits

LEARN_S, LEARN_INTERVALS = 2.0, 5  # of messages from which the usual rate and offset are learned
WINDOW_S, WINDOW_PERIODS = 1.0, 3.0  # over which the rate is measured, whichever is longer
SILENCE_S, SILENCE_PERIODS = 1.5, 4.0  # of silence, whichever is longer
FIRST_S = 15.0  # for the first message, as drivers start slowly
PAUSE_S = 1.0  # between two polls, after which silence counts anew: the node paused, or the clock jumped
SHIFT_S = 0.25
JITTER_INTERVALS = 12
ORDER_STAMPS = 10
KEPT = 2048  # arrivals, above any rate times the window

LIMITS = {
    "stamps_ahead_s": Limits(0.1, 0.3, "stamps are ahead of the clock"),
    "stamps_behind_s": Limits(0.4, NEVER, "stamps are behind the clock, or all messages come late"),
    "stamps_shift_s": Limits(SHIFT_S, NEVER, "stamps moved against the clock"),
    "stamps_stuck": Limits(0.5, 0.8, "stamps stand still or run backwards"),
    "rate": Limits(0.65, 0.3, "the rate fell", below=True),
    "jitter": Limits(0.2, NEVER, "the times between stamps scatter"),
    "first_s": Limits(FIRST_S, NEVER, "no message has come yet", raise_s=0.0),
    "silence_s": Limits(SILENCE_S, SILENCE_S, "no messages", raise_s=0.0),
}


class TimingHealth:
    """Checks the arrival times and the stamps of messages.

    Args:
        sensor: topic. findings: list that faults are added to.
        expected_hz: the sensor's rate; 0 to learn it from the first seconds.
    """

    def __init__(self, sensor: str, findings: list[Finding], expected_hz: float = 0.0) -> None:
        self.checks = {name: Check(sensor, name, limits, findings) for name, limits in LIMITS.items()}
        self._expected_ns = 1e9 / expected_hz if expected_hz else 0.0
        self._period_ns = self._expected_ns  # 0 until it is known
        self._offset_s: float | None = None  # usual arrival minus stamp
        self._polled_ns = self._watched_ns = -(10**18)  # the latest poll, and the first without a pause since
        self.reset()

    def reset(self) -> None:
        """Forget the latest messages after the clock was set back; the usual rate is kept."""
        self._arrivals: deque[int] = deque(maxlen=KEPT)
        self._stamps: deque[int] = deque(maxlen=KEPT)
        self._offset_s = None
        for check in self.checks.values():
            check.clear(0)

    @property
    def rate_hz(self) -> float | None:
        """The usual rate, Hz; None until it is known."""
        return 1e9 / self._period_ns if self._period_ns else None

    def update(self, now_ns: int, stamp_ns: int) -> None:
        """Update with a message: its time of arrival and its stamp, ns."""
        if self._arrivals and now_ns < self._arrivals[-1]:
            self.reset()
        self._arrivals.append(now_ns)
        self._stamps.append(stamp_ns)
        arrivals = np.array(self._arrivals, np.int64)
        stamps = np.array(self._stamps, np.int64)
        window_ns = max(
            WINDOW_S * 1e9, WINDOW_PERIODS * self._period_ns, (LEARN_S * 1e9) * (not self._period_ns)
        )
        recent = arrivals >= now_ns - window_ns - 1_000_000
        self._check_offset(now_ns, (arrivals - stamps)[recent] / 1e9)
        self._check_stamps(now_ns, stamps)
        self._check_rate(now_ns, arrivals, stamps, window_ns + 1_000_000)
        self.checks["silence_s"].update(now_ns, 0.0)
        self.checks["first_s"].update(now_ns, 0.0)
        while len(self._arrivals) > 64 and now_ns - self._arrivals[0] > 2 * window_ns:
            self._arrivals.popleft()
            self._stamps.popleft()

    def poll(self, now_ns: int) -> None:
        """Check for silence, which counts only while this is called more often than every `PAUSE_S`."""
        if not 0 <= now_ns - self._polled_ns <= PAUSE_S * 1e9:
            self._watched_ns = now_ns
        self._polled_ns = now_ns
        if self._arrivals:
            quiet_s = (now_ns - max(self._arrivals[-1], self._watched_ns)) / 1e9
            # Slow sensors have a proportionally longer limit.
            self.checks["silence_s"].update(now_ns, quiet_s * min(1.0, SILENCE_S / self._allowed_s()))
        else:
            self.checks["first_s"].update(now_ns, (now_ns - self._watched_ns) / 1e9)

    def _allowed_s(self) -> float:
        """Return how long the sensor may be silent; until its rate is known, by the longest gap so far."""
        usual_ns = self._period_ns
        if not usual_ns:
            gaps = pairwise(self._arrivals)
            paused_ns = self._watched_ns  # the gap around it is not the sensor's
            usual_ns = max((end - begin for begin, end in gaps if not begin < paused_ns <= end), default=0)
        return SILENCE_PERIODS * usual_ns / 1e9 or FIRST_S

    def _check_offset(self, now_ns: int, behind_s: np.ndarray) -> None:
        # The minimum, as transport delays are not clock offsets.
        median, least = float(np.median(behind_s)), float(behind_s.min())
        self.checks["stamps_ahead_s"].update(now_ns, max(-median, 0.0))
        self.checks["stamps_behind_s"].update(now_ns, max(least, 0.0))
        absolute = self.checks["stamps_ahead_s"].level or self.checks["stamps_behind_s"].level
        shift = None if self._offset_s is None or absolute else abs(least - self._offset_s)
        self.checks["stamps_shift_s"].update(now_ns, shift)

    def _check_stamps(self, now_ns: int, stamps: np.ndarray) -> None:
        steps = np.diff(stamps)[-ORDER_STAMPS:]
        if len(steps) >= 3:
            self.checks["stamps_stuck"].update(now_ns, float((steps <= 0).mean()))
        steps = np.diff(stamps)[-JITTER_INTERVALS:]
        steps = steps[steps > 0]
        if len(steps) == JITTER_INTERVALS:
            # Lost messages and a changed rate are not jitter, as intervals are multiples of one period.
            periods = np.quantile(steps, [0.0, 0.25], method="higher")[:, None]
            rest = steps / periods - np.round(steps / periods)
            self.checks["jitter"].update(now_ns, float(np.sqrt((rest**2).mean(1)).min()))

    def _check_rate(self, now_ns: int, arrivals: np.ndarray, stamps: np.ndarray, window_ns: float) -> None:
        # By the stamps, as late messages and bursts on a busy machine are not the sensor's fault.
        recent = stamps[stamps >= stamps[-1] - window_ns]
        if len(recent) < 2 or (np.diff(recent) <= 0).any():
            recent = arrivals[arrivals >= now_ns - window_ns]
        if len(recent) < 2:
            recent = arrivals[-2:]
        if len(recent) < 2:
            return
        period = max(float(recent[-1] - recent[0]) / (len(recent) - 1), 1.0)
        learnt = arrivals[-1] - arrivals[0] >= LEARN_S * 1e9
        if learnt and self._offset_s is None:
            self._learn_offset(arrivals, stamps)
        if not self._period_ns:
            if learnt and len(arrivals) > LEARN_INTERVALS:
                self._period_ns = period
        elif len(arrivals) > 3:
            self.checks["rate"].update(now_ns, self._period_ns / period)
            if not self._expected_ns and self._period_ns > 1.3 * period and len(recent) > LEARN_INTERVALS:
                # If it is faster than at the start for a whole window, this is its rate.
                self._period_ns += 0.1 * (period - self._period_ns)

    def _learn_offset(self, arrivals: np.ndarray, stamps: np.ndarray) -> None:
        least = float((arrivals - stamps).min()) / 1e9
        # An offset beyond the absolute limits is a fault, and not learned as usual.
        if -LIMITS["stamps_ahead_s"].warn < least < LIMITS["stamps_behind_s"].warn:
            self._offset_s = least
