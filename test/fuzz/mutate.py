"""Mutations of bytes and texts."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x10000,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
WORDS = (
    b"nan", b"inf", b"-inf", b"1e300", b"-1e300", b"1e-320", b"-1", b"0", b"10" * 200, b"true", b"null",
    b"[", b"]", b"{", b"}", b"&a", b"*a", b"!!python/object", b"!!binary", b"- ", b": ", b"\n", b" ", b",",
    b'"', b"\\ud800",
    b"\x00", b"\xff\xfe", "é".encode(), b"2020-13-45", b"<<: *a", b"%YAML 1.1", b"..", b"/", b"9" * 25,
)  # fmt: skip


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes], most: int) -> bytes:
    """Change a few places of `data`, or join it with a part of another; at most `most` bytes."""
    out = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        kind, at = rng.randrange(9), rng.randrange(len(out) + 1)
        if rng.random() < 0.5:  # formats keep what matters at the beginning
            at = min(at, rng.randrange(256))
        until = min(len(out), at + (1 << rng.randrange(12)))
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
            out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 3:
            del out[at:until]
        elif kind == 4:
            out[at:at] = out[at:until] * rng.choice((1, 1, 2, 20))
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[at:until] = other[start : start + (1 << rng.randrange(12))]
        elif kind == 7:
            word = rng.choice(WORDS)
            out[at : at + rng.choice((0, len(word)))] = word
        else:
            value = rng.choice((float("nan"), float("inf"), -1e300, 1e-300, 1e38))
            packed = (
                struct.pack("<d", value)
                if rng.random() < 0.5
                else struct.pack("<f", min(max(value, -3e38), 3e38))
            )
            out[at : at + len(packed)] = packed
        if len(out) > most:
            del out[most:]
    return bytes(out)
