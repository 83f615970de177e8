"""Order of stamps within one stream."""

from __future__ import annotations

RESET_NS = 1_000_000_000  # a larger step back is a new beginning: a bag that loops, a clock that was set
AHEAD_NS = 100_000_000  # a stamp further ahead of the clock is left over from before the clock was set back


class StampOrder:
    """Refuses stamps behind the newest one of their stream, unless the stream restarts.

    It restarts at a step back of more than a second, at one from a stamp ahead of the clock to one that is
    not, and after `reset`.

    Attributes:
        old_above_ns: if the last stamp restarted the stream, stamps above this one are from before; else
            None.
    """

    def __init__(self) -> None:
        self.old_above_ns: int | None = None
        self._newest_ns: int | None = None

    def behind_ns(self, stamp_ns: int, now_ns: int) -> int:
        """Return how far `stamp_ns` lies behind the newest stamp, ns; 0 for a message to be processed.

        Args:
            stamp_ns: of the message.
            now_ns: the clock at its arrival.
        """
        newest, self.old_above_ns = self._newest_ns, None
        if newest is not None and stamp_ns < newest:
            if newest - stamp_ns > RESET_NS:
                self.old_above_ns = stamp_ns + RESET_NS
            elif stamp_ns <= now_ns < newest - AHEAD_NS:
                self.old_above_ns = now_ns + AHEAD_NS
            else:
                return newest - stamp_ns
        self._newest_ns = stamp_ns
        return 0

    def reset(self) -> None:
        """Take any next stamp: the clock was set back."""
        self.old_above_ns = self._newest_ns = None
