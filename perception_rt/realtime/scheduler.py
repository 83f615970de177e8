"""The fixed-rate scheduler: keeps the rate and moves its phase to fall just after arrivals.

A timer that ignores arrivals adds up to one period of age, differently at each start
(https://github.com/autowarefoundation/autoware_universe/issues/8657). Four rules end that:

* A frame that comes up to an eighth of a period early or late runs at once and does not move the ticks, so
  jitter adds no wait and the mean rate holds.
* A tick without a frame stays open; the next arrival runs at once and sets the new phase.
* Where every frame of the last ticks had to wait, the phase moves earlier, a few percent of a period each
  tick, until the shortest wait is `MARGIN_NS`.
* A run that takes longer than a period is followed at once by the next; the ticks that it missed are skipped,
  never queued.
"""

from __future__ import annotations

from collections import deque

MARGIN_NS = 500_000  # waits shorter than this are jitter
TOLERANCE = 0.125  # of a period, how far from its tick a run may be
SLEW = 0.05  # of a period, the most that one tick moves the phase
WINDOW = 8  # ticks whose shortest wait counts: longer than the usual beats, short enough to follow a drift


class FixedRateScheduler:
    """Decides when to run; holds no thread and no clock, so that it works the same in virtual time.

    Call `poll` whenever a frame arrives and at `wake_ns`; call `finished` when a run ended. Times are
    in ns, of one clock.

    Attributes:
        empty: ticks that passed without a new frame.
        skipped: ticks that passed while a run was still busy.
        deadline_misses: runs that were still busy at the next tick.
    """

    def __init__(self, rate_hz: float) -> None:
        self.empty = 0
        self.skipped = 0
        self.deadline_misses = 0
        self._due_ns: int | None = None
        self._waits: deque[int] = deque(maxlen=WINDOW)
        self.rate_hz = rate_hz

    @property
    def rate_hz(self) -> float:
        """The rate, Hz; can be set while running."""
        return self._rate_hz

    @rate_hz.setter
    def rate_hz(self, rate_hz: float) -> None:
        if not 0 < rate_hz <= 1000:
            raise ValueError(f"rate_hz={rate_hz} must be above 0 and at most 1000")
        self._rate_hz = rate_hz
        self.period_ns = round(1e9 / rate_hz)

    def poll(self, now_ns: int, ready_ns: int | None) -> bool:
        """Return whether to run now.

        Args:
            now_ns: the time now.
            ready_ns: when the waiting frame became ready; None without one.
        """
        ready = ready_ns is not None and ready_ns <= now_ns
        due_ns = self._due_ns
        if due_ns is None and not ready:
            return False  # ticks begin with the first frame: simulated time is zero before the first /clock
        # At first, and after the clock was set back.
        if due_ns is None or due_ns - now_ns > 2 * self.period_ns:
            due_ns = now_ns
        # Ticks that ended before this frame was ready found nothing.
        passed = max(0, (now_ns if ready_ns is None or not ready else ready_ns) - due_ns) // self.period_ns
        self.empty += passed
        self._due_ns = due_ns = due_ns + passed * self.period_ns
        opens = self._opens_ns(due_ns)
        if ready_ns is None or not ready or now_ns < opens:
            return False
        late = ready_ns - due_ns > TOLERANCE * self.period_ns
        phase = ready_ns if late else due_ns - self._phase_step(max(0, opens - ready_ns))
        self._due_ns = phase + self.period_ns
        return True

    def _opens_ns(self, due_ns: int) -> int:
        """Return the earliest time of a run that is due at a time."""
        return due_ns - int(TOLERANCE * self.period_ns)

    def _phase_step(self, wait_ns: int) -> int:
        """Return how much earlier the next tick falls, ns, as a frame waited `wait_ns` for this one."""
        self._waits.append(wait_ns)
        if len(self._waits) < WINDOW:
            return 0
        step = min(min(self._waits) - MARGIN_NS, int(SLEW * self.period_ns))
        if step <= 0:
            return 0
        self._waits = deque((wait - step for wait in self._waits), maxlen=WINDOW)
        return step

    def finished(self, now_ns: int) -> None:
        """Note that a run ended; the ticks that it missed are skipped and the next run may start at once."""
        if self._due_ns is not None and now_ns > self._due_ns:
            self.deadline_misses += 1
            self.skipped += (now_ns - self._due_ns) // self.period_ns
            self._due_ns = now_ns
            self._waits.clear()

    def wake_ns(self, ready_ns: int | None) -> int | None:
        """Return when to poll again unless something arrives before; None: only at an arrival."""
        if ready_ns is None:
            return None
        return ready_ns if self._due_ns is None else max(self._opens_ns(self._due_ns), ready_ns)
