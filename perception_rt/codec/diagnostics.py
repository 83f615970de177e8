"""Statuses to serialized diagnostic_msgs/DiagnosticArray."""

from __future__ import annotations

from collections.abc import Sequence

from perception_rt.codec.cdr import CdrWriter
from perception_rt.types.status import Status


def encode_diagnostics(statuses: Sequence[Status], stamp_ns: int) -> bytes:
    """A serialized diagnostic_msgs/DiagnosticArray."""
    writer = CdrWriter()
    writer.header(stamp_ns, "")
    writer.scalars("I", len(statuses))
    for status in statuses:
        writer.scalars("B", status.level)
        for text in (status.name, status.message, status.hardware_id):
            writer.string(text)
        texts = status.texts()
        writer.scalars("I", len(texts))
        for key, value in texts.items():
            writer.string(key)
            writer.string(value)
    return writer.bytes()
