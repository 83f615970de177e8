"""The rules of tf2 as a table: what is added to a buffer, what is asked of it, and what it answers."""

from __future__ import annotations

from typing import NamedTuple

S = 1_000_000_000
MS = 1_000_000
TODAY = 1_700_000_000 * S


class Added(NamedTuple):
    """A transform without rotation: (x, 0, 0) of the child in the parent."""

    parent: str
    child: str
    stamp_ns: int
    x: float
    static: bool = False


class Case(NamedTuple):
    """What `lookup(target, source, stamp_ns)` gives for x after these transforms; None: it is refused."""

    name: str
    added: list[Added]
    target: str
    source: str
    stamp_ns: int
    x: float | None


def _drive(first_s: float, last_s: float, step_s: float = 0.1) -> list[Added]:
    """One metre a second from `first_s` on, in odom."""
    count = round((last_s - first_s) / step_s) + 1
    return [
        Added("odom", "base", TODAY + round((first_s + k * step_s) * S), first_s + k * step_s)
        for k in range(count)
    ]


ONE = [Added("odom", "base", TODAY, 3.0)]
TWO = _drive(0, 1, 1.0)
MOUNT = Added("base", "lidar", TODAY, 0.5, static=True)
CASES = [
    Case("the only stamp", ONE, "odom", "base", TODAY, 3.0),
    Case("1 ns after the only stamp", ONE, "odom", "base", TODAY + 1, None),
    Case("1 ns before the only stamp", ONE, "odom", "base", TODAY - 1, None),
    Case("the first of two", TWO, "odom", "base", TODAY, 0.0),
    Case("the last of two", TWO, "odom", "base", TODAY + S, 1.0),
    Case("between two", TWO, "odom", "base", TODAY + S // 4, 0.25),
    Case("the other way", TWO, "base", "odom", TODAY + S // 4, -0.25),
    Case("20 ms after the last", TWO, "odom", "base", TODAY + S + 20 * MS, None),
    Case("1 ns after the last", TWO, "odom", "base", TODAY + S + 1, None),
    Case("20 ms before the first", TWO, "odom", "base", TODAY - 20 * MS, None),
    Case("stamp 0 is the latest", TWO, "odom", "base", 0, 1.0),
    Case(
        "stamp 0 is the latest that all have", [*TWO, Added("map", "odom", TODAY, 7.0)], "map", "base", 0, 7.0
    ),
    Case("static at any time", [MOUNT], "base", "lidar", TODAY - 99 * S, 0.5),
    Case("static at stamp 0", [MOUNT], "base", "lidar", 0, 0.5),
    Case("static and moving", [*TWO, MOUNT], "odom", "lidar", TODAY + S // 2, 1.0),
    Case("static and moving, after the last", [*TWO, MOUNT], "odom", "lidar", TODAY + 2 * S, None),
    Case("siblings", [MOUNT, Added("base", "camera", 0, 2.0, True)], "camera", "lidar", TODAY, -1.5),
    Case("the same frame", [], "base", "base", TODAY, 0.0),
    Case("an unknown frame", TWO, "odom", "camera", TODAY, None),
    Case("two trees", [*TWO, Added("map", "robot", TODAY, 1.0)], "odom", "robot", TODAY, None),
    Case("ten seconds are kept", _drive(0, 20), "odom", "base", TODAY + 10 * S, 10.0),
    Case("more are not", _drive(0, 20), "odom", "base", TODAY + 9 * S, None),
    Case("out of order", [TWO[1], TWO[0]], "odom", "base", TODAY + S // 2, 0.5),
    Case(
        "11 s late: ignored",
        [*_drive(0, 12), Added("odom", "base", TODAY + S, 99.0)],
        "odom",
        "base",
        TODAY + 12 * S,
        12.0,
    ),
    Case("9 s late: used", [TWO[0], *_drive(9, 10)], "odom", "base", TODAY + 4 * S, 4.0),
]
