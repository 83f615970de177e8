"""Watch a running replay in Foxglove or Rerun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from perception_rt.types import ConfigError

__all__ = ["PACKAGES", "Live", "open_live"]

PACKAGES = {"foxglove": "foxglove-sdk", "rerun": "rerun-sdk"}
"""What to install, by the first word of `--live`; the imported module has the word as its name."""


class Live(Protocol):
    """The interface of a live viewer.

    Attributes:
        where: one line that tells how to open the view.
    """

    where: str

    def begin(self, topics: Mapping[str, str], timeout_s: float) -> bool:
        """Announce the topics (message types by topic), and wait for the first viewer.

        Return False after a timeout. Messages may be sent before that, and on other topics.
        """
        ...

    def message(self, topic: str, message_type: str, log_ns: int, data: bytes) -> None:
        """Show a serialized message (`message_type` like ``sensor_msgs/msg/Image``) at its log time, ns.

        A message that cannot be shown does not stop the replay: malformed ones are logged, others left out.
        """
        ...

    def ages(self, topic: str, log_ns: int, age_ms: float) -> None:
        """Plot the age of a result of `topic` at a log time."""
        ...

    def close(self) -> None:
        """Finish sending and close the view."""
        ...


def open_live(kind: str) -> Live:
    """Open the live view for ``--live``.

    Args:
        kind: ``foxglove``, ``foxglove:PORT`` or ``foxglove:HOST:PORT`` serve, on this machine only unless
            HOST is given; ``rerun`` opens a viewer, ``rerun:FILE.rrd`` writes a file, and ``rerun:HOST:PORT``
            sends to a viewer that runs there.

    Raises:
        ConfigError: another kind, a package that is not installed, a port that is taken, a viewer or a folder
            that is not there.
    """
    name, _, target = kind.partition(":")
    if name not in PACKAGES:
        raise ConfigError(f"--live {kind}: must be foxglove[:PORT] or rerun[:FILE.rrd|HOST:PORT]")
    try:
        if name == "foxglove":
            from perception_rt.replay.live.foxglove import Foxglove

            viewer: Callable[[str], Live] = Foxglove
        else:
            from perception_rt.replay.live.rerun import Rerun

            viewer = Rerun
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"--live {kind}: pip install {PACKAGES[name]}") from error
    try:
        return viewer(target)
    except ConfigError as error:
        raise ConfigError(f"--live {kind}: {error}") from error
