"""A check of a sensor: a value with limits, a delay and hysteresis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from perception_rt.types.status import Level

RAISE_S = 0.4  # how long a value is beyond a limit before the level rises
CLEAR_S = 2.0  # how long it is within before the level falls
RELAXED = 0.1  # of the limit: hysteresis before a raised level falls
KEPT_FINDINGS = 1000
NEVER = float("inf")


class Limits(NamedTuple):
    """The limits of a value for a warning and for an error; `NEVER` for none.

    Attributes:
        warn, error: limits. below: values below them are faults, else values above.
        what: the fault in words. raise_s: see `RAISE_S`.
    """

    warn: float
    error: float
    what: str
    below: bool = False
    raise_s: float = RAISE_S


@dataclass
class Finding:
    """A fault from its beginning to its end; times in ns, `end_ns` None while it lasts.

    Attributes:
        sensor: topic. check: name of the check. what: the fault in words.
        level: the highest so far. value, limit: at the time of that level.
        begin_ns: when the value crossed the limit. found_ns: when the level rose.
    """

    sensor: str
    check: str
    what: str
    level: Level
    value: float
    limit: float
    begin_ns: int
    found_ns: int
    end_ns: int | None = None


class Check:
    """Compares a value with its limits.

    A level rises once the value was beyond its limit for `raise_s` and at two updates, and falls once it
    was within for `CLEAR_S`.

    Args:
        sensor: topic. name: of the check. limits: of the value. findings: list that new faults are added to.
    """

    def __init__(self, sensor: str, name: str, limits: Limits, findings: list[Finding]) -> None:
        self.name, self.limits = name, limits
        self.level = Level.OK
        self.value: float | None = None
        self._sensor, self._findings = sensor, findings
        self._finding: Finding | None = None
        self._since: dict[Level, tuple[int, int]] = {}  # by level: time and update at which it was reached
        self._good_ns: int | None = None
        self._updates = 0

    def update(self, now_ns: int, value: float | None) -> Level:
        """Update the value and return the level; None keeps the level."""
        self.value = value
        if value is None:
            self._since.clear()
            return self.level
        self._updates += 1
        reached = self._level_of(value)
        for level in (Level.WARN, Level.ERROR):
            if reached < level:
                self._since.pop(level, None)
            elif level not in self._since:
                self._since[level] = now_ns, self._updates
        for level in (Level.ERROR, Level.WARN):
            if level > self.level and self._lasts(level, now_ns):
                self._raise(level, now_ns, value)
        self._fall(reached, now_ns)
        return self.level

    def clear(self, now_ns: int) -> None:
        """Reset after a jump of the clock; a fault ends."""
        self._since.clear()
        self._end(now_ns)

    def _level_of(self, value: float) -> Level:
        for level, limit in ((Level.ERROR, self.limits.error), (Level.WARN, self.limits.warn)):
            slack = RELAXED * abs(limit) if level <= self.level else 0.0
            if limit != NEVER and (value < limit + slack if self.limits.below else value > limit - slack):
                return level
        return Level.OK

    def _lasts(self, level: Level, now_ns: int) -> bool:
        if level not in self._since:
            return False
        since_ns, update = self._since[level]
        if not self.limits.raise_s:
            return True
        return now_ns - since_ns >= self.limits.raise_s * 1e9 and self._updates > update

    def _raise(self, level: Level, now_ns: int, value: float) -> None:
        limit = self.limits.error if level == Level.ERROR else self.limits.warn
        if self._finding is None:
            begin_ns = self._since[level][0]
            self._finding = Finding(
                self._sensor, self.name, self.limits.what, level, value, limit, begin_ns, now_ns
            )
            self._findings.append(self._finding)
            del self._findings[:-KEPT_FINDINGS]
        self._finding.level, self._finding.value, self._finding.limit = level, value, limit
        self.level = level

    def _fall(self, reached: Level, now_ns: int) -> None:
        if reached != Level.OK or self.level == Level.OK:
            self._good_ns = None
        elif self._good_ns is None:
            self._good_ns = now_ns
        elif now_ns - self._good_ns >= CLEAR_S * 1e9:
            self._end(now_ns)

    def _end(self, now_ns: int) -> None:
        if self._finding is not None:
            self._finding.end_ns = max(now_ns, self._finding.found_ns)
        self._finding, self._good_ns, self.level = None, None, Level.OK
