"""The transforms that a node of a replay sees."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from perception_rt.replay.lockstep.router import Router


class TransformView:
    """The transforms so far; of a frame that another thread computes, those when it was handed over.

    While that thread computes, virtual time goes on. What it finds must not depend on how far.

    Attributes:
        used: whether the node looks transforms up.
    """

    def __init__(self, router: Router) -> None:
        self.used = False
        self._router = router
        self._own = threading.local()

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return (4, 4), as `TransformBuffer.lookup`."""
        buffer = getattr(self._own, "buffer", self._router.transforms)
        return buffer.lookup(target, source, stamp_ns)

    def frozen(self, compute: Callable[[Any], Any], ahead: bool) -> Callable[[Any], Any]:
        """Return `compute`, which sees the transforms of now.

        Args:
            compute: runs on another thread.
            ahead: the frame was not delivered yet: what comes before it in the recording is seen.
        """
        if not self.used:
            return compute
        buffer = (self._router.foreseen if ahead else self._router.transforms).copy()

        def run(given: Any) -> Any:
            self._own.buffer = buffer
            return compute(given)

        return run
