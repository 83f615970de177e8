"""What the commands of this folder share: the graph that they run in, and how they end."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable

from perception_rt.node.transport import transport_environment
from perception_rt.types import PerceptionError


def use_private_graph() -> None:
    """Keep this process and what it starts to a ROS domain of this machine, with room for images."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(100, 200))
    os.environ.update(transport_environment())


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
