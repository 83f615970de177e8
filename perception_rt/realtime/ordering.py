"""Order of stamps within one stream."""

from __future__ import annotations

RESET_NS = 1_000_000_000  # a step back by more is a new beginning (a bag that loops, a clock that was set)


class StampOrder:
    """Refuses stamps that lie behind the newest one of their stream; a large step back starts over."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None

    def behind_ns(self, stamp_ns: int) -> int:
        """How far `stamp_ns` lies behind the newest stamp, ns; 0 where it is to be taken."""
        behind = 0 if self._newest_ns is None else self._newest_ns - stamp_ns
        if 0 < behind <= RESET_NS:
            return behind
        self._newest_ns = stamp_ns
        return 0
