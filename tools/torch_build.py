"""Split a lock: into torch and the rest, for the build that needs no CUDA, and into parts."""

from __future__ import annotations

import re

CUDA = re.compile(r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")


def requirements(lock: str) -> list:
    """Return the requirements of a lock, each with its hashes as it stands there."""
    return re.findall(r"^[A-Za-z0-9](?:[^\n]*\\\n)*[^\n]*$", lock, re.M)


def without_cuda(lock: str) -> str:
    """Return the lock without torch and what only its CUDA build needs."""
    return "\n".join(entry for entry in requirements(lock) if not CUDA.match(entry)) + "\n"


def requirement_lines(lock: str, names: tuple) -> list:
    """Return the requirements of some packages with version and marker, without hashes."""
    kept = [entry for entry in requirements(lock) if entry.partition("==")[0] in names]
    return [entry.partition("\\\n")[0].partition(" --hash")[0].strip() for entry in kept]


def parts_of(lock: str, count: int) -> list:
    """Return a lock split into parts of about equal size, neighbours (NVIDIA's libraries) apart."""
    entries = requirements(lock)
    names = sorted({entry.partition("==")[0] for entry in entries})
    return [
        "\n".join(entry for entry in entries if names.index(entry.partition("==")[0]) % count == part) + "\n"
        for part in range(count)
    ]
