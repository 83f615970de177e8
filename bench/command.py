"""Shared by the commands of this folder: their graph, --help and shutdown."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections.abc import Callable

from perception_rt.node.transport import transport_environment
from perception_rt.types import PerceptionError


def use_private_graph() -> None:
    """Keep this process and its children in a local ROS domain, with room for images."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(100, 200))
    os.environ.update(transport_environment())


def no_arguments(doc: str | None) -> None:
    """Answer --help with the module's docstring; end the process at any other argument."""
    prog = f"python -m bench.{os.path.basename(sys.argv[0]).removesuffix('.py')}"
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog=prog, description=doc, formatter_class=formatter).parse_args()


def command(work: Callable[[], None]) -> int:
    """Run `work`; end its child processes even if it fails.

    Returns:
        The exit status: 2 for unusable input (printed as one line), 130 after Ctrl-C.
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
