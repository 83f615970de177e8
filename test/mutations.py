"""Damage as disks, cables and interrupted recorders do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Mutation(NamedTuple):
    """Damaged bytes; what was done to them, for the test's message."""

    what: str
    data: bytes


def mutations(data: bytes, count: int, seed: int) -> Iterator[Mutation]:
    """`count` damaged copies, always the same for a seed: a third cut off, the others with flipped bits.

    One to eight of them, together, as in a bad sector, or anywhere.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        if number % 3 == 0:
            end = int(rng.integers(0, len(data)))
            yield Mutation(f"cut off at {end} of {len(data)}", data[:end])
            continue
        flips = int(rng.integers(1, 9))
        places = rng.integers(0, len(data), flips)
        if number % 2:
            places = (places[0] + rng.integers(0, 64, flips)) % len(data)
        bits = rng.integers(0, 8, flips)
        mutated = bytearray(data)
        for place, bit in zip(places.tolist(), bits.tolist(), strict=True):
            mutated[place] ^= 1 << bit
        yield Mutation(
            f"bits flipped: {sorted(zip(places.tolist(), bits.tolist(), strict=True))}", bytes(mutated)
        )
