"""What of a user's folder is data."""

from __future__ import annotations

from pathlib import Path


def is_hidden(path: Path, folder: Path) -> bool:
    """Return whether a tool keeps a copy there: `.ipynb_checkpoints`, `__MACOSX`, `._1.jpg` of macOS.

    Args:
        path: a file or folder below `folder`, whose own name may begin with a dot.
        folder: that the user gave.
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)
