"""Every error that bad input can raise; each one names the field and the value."""

from __future__ import annotations


class PerceptionError(Exception):
    """Base of all errors that this package raises on purpose."""


class CodecError(PerceptionError):
    """A message that cannot be turned into a value.

    Attributes:
        field: the message field at fault, e.g. ``"step"``.
        value: its value as received (shortened when long).
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        text = repr(value)
        self.field = field
        self.value = value
        super().__init__(f"{field}={text if len(text) <= 80 else text[:77] + '...'}: {reason}")


class BundleError(PerceptionError):
    """A bundle that cannot be saved, loaded or trusted; the text is one line that says why."""


class ConfigError(PerceptionError):
    """A parameter or a command-line value that cannot be used; names it and says what to do."""


class ModelError(PerceptionError):
    """A model that failed while running: wrong input, an exception inside, out of memory."""


class BagError(PerceptionError):
    """A recording that cannot be read; the text is one line that names the path and says why."""


class TrackingError(PerceptionError):
    """Detections or a pose that a tracker cannot use.

    Attributes:
        field: the argument at fault, e.g. ``"scores[3]"``.
        value: its value.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field = field
        self.value = value
        super().__init__(f"{field}={value!r}: {reason}")


class TransformError(PerceptionError):
    """A transform between two frames that is not known, or that cannot be.

    Attributes:
        target: the frame to go to (or the parent, where one is learned).
        source: the frame to come from (or the child).
    """

    def __init__(self, target: str, source: str, reason: str) -> None:
        self.target = target
        self.source = source
        super().__init__(f"transform {target} <- {source}: {reason}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not empty, at most 300 characters; else its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]
