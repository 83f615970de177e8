"""What the commands of this folder share: how they end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from perception_rt.types import PerceptionError


def command(work: Callable[[], None]) -> int:
    """Run `work`; whatever ends it early, what it started is ended too.

    Returns:
        The exit status: 2 where something cannot be used (printed as one line), 130 after Ctrl-C.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        work()
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
