"""Find the recordings at some paths and name them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from perception_rt.replay.storage.files import SUFFIXES, bare, storage_files
from perception_rt.types import BagError

STORAGE = tuple(SUFFIXES)
_METADATA = "metadata.yaml"
_LEDGER = "ledger.csv"  # next to a bag that a replay wrote, which is not a recording


def find_bags(paths: Sequence[Path], skip: Path | None = None) -> list[Path]:
    """Return the bags at some paths without duplicates, in order; those of a folder sorted by name.

    A bag is a folder with a metadata.yaml, a folder of the split files of a recording that lost it
    (`drive_0.mcap`, `drive_1.mcap`), or a bare .mcap, .db3 or .bag file, compressed or not. Other folders are
    searched, except for hidden folders and outputs of replays.

    Args:
        paths: bags, or folders that contain bags.
        skip: a folder not to search, such as the output folder.

    Raises:
        BagError: a path does not exist, or contains no bag.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise BagError(f"{path}: no such bag")
        visited = set() if skip is None else {skip.resolve()}
        bags = [path] if _is_bag(path) or path.is_file() else list(_search(path, visited))
        if not bags:
            raise BagError(
                f"{path}: no bag in it; a bag is a folder with metadata.yaml, or a .mcap, .db3 or .bag file"
            )
        for bag in bags:
            found.setdefault(bag.resolve(), bag)
    return list(found.values())


def name_bags(bags: Sequence[Path]) -> list[str]:
    """Return a short unique name for each bag: its own name, with parent folders as needed."""
    parts = [(*bag.resolve().parts[1:-1], _stem(bag)) for bag in bags]
    depths = [1] * len(bags)
    while True:
        names = ["-".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        twice = [i for i, name in enumerate(names) if names.count(name) > 1 and depths[i] < len(parts[i])]
        if not twice:
            break
        for i in twice:
            depths[i] += 1
    count = Counter(names)  # alike to the root: `drive` and `drive.mcap` beside it
    return [name if count[name] == 1 else bag.resolve().name for name, bag in zip(names, bags, strict=True)]


def _is_bag(path: Path) -> bool:
    if path.is_file():
        return Path(bare(path.name)).suffix in STORAGE
    if (path / _METADATA).is_file():
        return True
    files = storage_files(path)
    splits = [split for name in files if (split := re.fullmatch(r"(.+)_(\d+)\.\w+", bare(name)))]
    if not splits or len(splits) < len(files):
        return False
    names, numbers = {split[1] for split in splits}, sorted(int(split[2]) for split in splits)
    # In a folder of another name, files that begin with 0 and leave none out are one recording.
    return len(names) == 1 and (names == {path.resolve().name} or numbers == list(range(len(splits))))


def _search(folder: Path, visited: set[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in visited or (folder / _LEDGER).exists():
        return
    visited.add(real)  # links may form cycles
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not os.access(entry, os.R_OK):
            continue
        if _is_bag(entry):
            yield entry
        elif entry.is_dir():
            yield from _search(entry, visited)


def _stem(bag: Path) -> str:
    real = Path(bare(bag.resolve().name))
    return real.stem if real.suffix in STORAGE else bag.resolve().name
