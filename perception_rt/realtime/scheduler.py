"""The fixed-rate scheduler: keeps the rate and moves its phase to fall just after arrivals.

A timer that ignores arrivals adds up to one period of age, differently at each start
(https://github.com/autowarefoundation/autoware_universe/issues/8657). Five rules end that:

* A frame that comes up to an eighth of a period early or late runs at once and does not move the ticks, so
  jitter adds no wait and the mean rate holds.
* A tick without a frame stays open; the next arrival runs at once and sets the new phase.
* What a late frame, or a run that took too long, moved the ticks later, the next early frames move back at
  once: the jitter of a sensor does not push the phase behind most of its frames.
* Where every frame of the last ticks had to wait, the phase moves earlier, a few percent of a period each
  tick, more slowly at the end, until the shortest wait is `MARGIN_NS`.
* A run that takes longer than a period is followed at once by the next; the ticks that it missed are skipped,
  never queued.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

BATCH = ""  # the lane of all streams together
MARGIN_NS = 500_000  # waits shorter than this are jitter
TOLERANCE = 0.125  # of a period, how far from its tick a run may be
LEAST = 0.75  # of a period, the least time between two runs where ticks move back
SLEW = 0.05  # of a period, the most that one tick moves the phase
FINE = 0.015  # the same where waits are within the tolerance: intervals stay even, and a drift is followed
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
        self._last_ns: int | None = None  # the last run
        self._behind_ns = 0  # by how much the ticks were moved later, and not back yet
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
            due_ns, self._last_ns = now_ns, None
            self._behind_ns = int(TOLERANCE * self.period_ns)  # the first frame may have come late
        # Ticks that ended before this frame was ready found nothing.
        passed = max(0, (now_ns if ready_ns is None or not ready else ready_ns) - due_ns) // self.period_ns
        self.empty += passed
        self._due_ns = due_ns = due_ns + passed * self.period_ns
        opens = self._opens_ns(due_ns)
        if ready_ns is None or not ready or now_ns < opens:
            return False
        self._last_ns = now_ns
        if ready_ns - due_ns > TOLERANCE * self.period_ns:
            self._move_later(ready_ns - due_ns)
            phase = ready_ns
        else:
            back = max(0, self._usual_ns(due_ns) - now_ns)
            self._behind_ns -= back
            phase = due_ns - back - self._phase_step(max(0, opens - ready_ns))
        self._due_ns = phase + self.period_ns
        return True

    def _move_later(self, by_ns: int) -> None:
        self._behind_ns = min(self._behind_ns + by_ns, self.period_ns)

    def _usual_ns(self, due_ns: int) -> int:
        return due_ns - int(TOLERANCE * self.period_ns)

    def _opens_ns(self, due_ns: int) -> int:
        """Return the earliest time of a run that is due at a time."""
        usual = self._usual_ns(due_ns)
        if self._last_ns is None or not self._behind_ns:
            return usual
        return min(usual, max(usual - self._behind_ns, self._last_ns + int(LEAST * self.period_ns)))

    def _phase_step(self, wait_ns: int) -> int:
        """Return how much earlier the next tick falls, ns, as a frame waited `wait_ns` for this one."""
        self._waits.append(wait_ns)
        if len(self._waits) < WINDOW:
            return 0
        shortest = min(self._waits)
        slew = SLEW if shortest > TOLERANCE * self.period_ns else FINE
        step = min(shortest - MARGIN_NS, int(slew * self.period_ns))
        if step <= 0:
            return 0
        self._waits = deque((wait - step for wait in self._waits), maxlen=WINDOW)
        return step

    def finished(self, now_ns: int) -> None:
        """Note that a run ended; the ticks that it missed are skipped and the next run may start at once."""
        if self._due_ns is not None and now_ns > self._due_ns:
            self.deadline_misses += 1
            skipped, by_ns = divmod(now_ns - self._due_ns, self.period_ns)
            self.skipped += skipped
            self._move_later(by_ns)
            self._due_ns = now_ns
            self._waits.clear()

    def waited(self, now_ns: int) -> None:
        """Note that something else ran until now: whole periods that passed are skipped, the phase stays."""
        missed = 0 if self._due_ns is None else (now_ns - self._due_ns) // self.period_ns
        if self._due_ns is not None and missed > 0:
            self.deadline_misses += 1
            self.skipped += missed
            self._due_ns += missed * self.period_ns
            self._waits.clear()

    def wake_ns(self, ready_ns: int | None) -> int | None:
        """Return when to poll again unless something arrives before; None: only at an arrival."""
        if ready_ns is None:
            return None
        return ready_ns if self._due_ns is None else max(self._opens_ns(self._due_ns), ready_ns)


class FairScheduler:
    """Shares one worker between lanes, each with a rate and phase of its own, as of `FixedRateScheduler`.

    A lane is a stream, or the batch of all streams. Of several lanes that are due, the one that ran least
    recently runs first, so that none starves. Times are in ns, of one clock.
    """

    def __init__(self, rate_hz: float) -> None:
        self._lanes: dict[str, FixedRateScheduler] = {}  # the one that ran least recently first
        self._running = ""
        self._ended_ns: int | None = None  # when a run ended, until the next poll
        self.rate_hz = rate_hz

    @property
    def rate_hz(self) -> float:
        """The rate of each lane, Hz; can be set while running."""
        return self._pattern.rate_hz

    @rate_hz.setter
    def rate_hz(self, rate_hz: float) -> None:
        self._pattern = FixedRateScheduler(rate_hz)
        for lane in self._every_lane():
            lane.rate_hz = rate_hz

    @property
    def period_ns(self) -> int:
        """The period of each lane, ns."""
        return self._pattern.period_ns

    def _every_lane(self) -> list[FixedRateScheduler]:
        return list(self._lanes.values())  # at once: the worker's thread may add lanes meanwhile

    @property
    def empty(self) -> int:
        """Ticks that passed without a new frame, of all lanes."""
        return sum(lane.empty for lane in self._every_lane())

    @property
    def skipped(self) -> int:
        """Ticks that passed while the worker was busy, of all lanes."""
        return sum(lane.skipped for lane in self._every_lane())

    @property
    def deadline_misses(self) -> int:
        """Runs that ended after the next tick of their lane, and those that had to wait for a period."""
        return sum(lane.deadline_misses for lane in self._every_lane())

    def poll(self, now_ns: int, ready: Mapping[str, int]) -> str | None:
        """Return the lane to run now; None if nothing is due.

        Args:
            now_ns: the time now.
            ready: by lane with frames that wait, when they became ready.
        """
        for name in ready:
            if name not in self._lanes:
                self._lanes[name] = FixedRateScheduler(self.rate_hz)
        if self._ended_ns is not None:
            for name in ready.keys() - {self._running}:
                self._lanes[name].waited(self._ended_ns)
            self._ended_ns = None
        for name in self._lanes:
            if name in ready and self._lanes[name].poll(now_ns, ready[name]):
                self._lanes[name] = self._lanes.pop(name)
                for other in self._lanes.keys() - {name, BATCH} if name != BATCH else ():
                    self._lanes[other].poll(now_ns, None)  # ticks from before the run were empty, not skipped
                self._running = name
                return name
        return None

    def finished(self, now_ns: int) -> None:
        """Note that the run ended."""
        self._lanes[self._running].finished(now_ns)
        self._ended_ns = now_ns

    def wake_ns(self, ready: Mapping[str, int]) -> int | None:
        """Return when to poll again unless something arrives before; None: only at an arrival."""
        wakes = [self._lanes.get(name, self._pattern).wake_ns(ready_ns) for name, ready_ns in ready.items()]
        return min((wake for wake in wakes if wake is not None), default=None)
