"""Parse HOST:PORT."""

from __future__ import annotations

from perception_rt.types import ConfigError

HERE = "127.0.0.1"


def parse_address(text: str, port: int) -> tuple[str, int]:
    """Parse ``""``, ``PORT``, ``HOST:PORT``, or ``HOST`` (not of digits alone).

    Args:
        text: as given; an IPv6 address stands in brackets.
        port: default port.

    Raises:
        ConfigError: the port is not valid.
    """
    host, colon, number = text.rpartition(":")
    if text.endswith("]") or not (colon or text.isdecimal()):
        host, number = text, ""
    if number and not (number.isdecimal() and int(number) < 1 << 16):
        raise ConfigError(f"port {number!r}: must be a number from 0 to 65535")
    return host.strip("[]") or HERE, int(number) if number else port
