"""Class names of road users: which names mean the same, and usual sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class RoadUser(NamedTuple):
    """A class of road users: detectors confuse names of one group.

    Sizes are those of common vehicles and adults; `height_sigma` is how much the height varies. All in m.
    """

    group: str
    length: float
    width: float
    height: float
    height_sigma: float


ROAD_USERS = {
    "car": RoadUser("vehicle", 4.2, 1.8, 1.55, 0.15),
    "van": RoadUser("vehicle", 4.9, 1.95, 2.1, 0.25),
    "truck": RoadUser("vehicle", 8.0, 2.5, 3.1, 0.5),
    "bus": RoadUser("vehicle", 11.0, 2.55, 3.1, 0.3),
    "train": RoadUser("rail", 25.0, 2.65, 3.5, 0.3),
    "pedestrian": RoadUser("pedestrian", 0.6, 0.6, 1.7, 0.12),
    "cyclist": RoadUser("two-wheeler", 1.8, 0.6, 1.75, 0.12),
    "bicycle": RoadUser("two-wheeler", 1.75, 0.55, 1.05, 0.1),
    "motorcycle": RoadUser("two-wheeler", 2.1, 0.8, 1.45, 0.2),
}
SYNONYMS = {
    "person": "pedestrian",
    "person sitting": "pedestrian",
    "bicyclist": "cyclist",
    "motorbike": "motorcycle",
    "motorcyclist": "motorcycle",
    "automobile": "car",
    "lorry": "truck",
    "tram": "train",
}
UNKNOWN = ("unknown", "object", "obstacle", "other", "misc")


def canonical(name: str) -> str:
    """Return one name for each class: `Person` and `pedestrian` become `pedestrian`."""
    plain = name.lower().replace("_", " ").replace("-", " ").strip()
    return SYNONYMS.get(plain, plain)


def matching_labels(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the index in `classes` of each name: the same name, or else one that means the same, or -1."""
    exact = {name: label for label, name in enumerate(classes)}
    alike = {canonical(name): label for label, name in reversed(list(enumerate(classes)))}
    return [exact.get(name, alike.get(canonical(name), -1)) for name in names]


def group(name: str) -> str:
    """Return the group of a canonical name; other classes have a group of their own."""
    return ROAD_USERS[name].group if name in ROAD_USERS else name


def compatible(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
    """Return whether two detectors may mean the same object.

    Args:
        a: N canonical names.
        b: M canonical names.

    Returns:
        (N, M) bool: of one group, or one of them is unknown.
    """
    numbers: dict[str, int] = {}
    groups = [
        np.array([numbers.setdefault(group(name), len(numbers)) for name in names], np.int64)
        for names in (a, b)
    ]
    unknown = [np.array([name in UNKNOWN for name in names], dtype=bool) for names in (a, b)]
    return (groups[0][:, None] == groups[1]) | unknown[0][:, None] | unknown[1]
