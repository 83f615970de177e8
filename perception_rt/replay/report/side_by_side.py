"""Compare two runs: draw the moments with the largest differences of boxes side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception_rt.codec import NamedDetections
from perception_rt.replay.bag import Bag
from perception_rt.replay.compare.in_step import Item, matched
from perception_rt.replay.report.box_statistics import NEAR_M, SAME_IOU, alike
from perception_rt.replay.report.choose import DECODERS, MomentChoice, SensorStream, sensors_of
from perception_rt.replay.report.ledger import LedgerView
from perception_rt.replay.report.pictures import pictures_of
from perception_rt.replay.report.scenes import SceneReader
from perception_rt.types import BagError

MOMENTS = 6
"""Number of moments of each sensor."""
_APART_NS = 500_000_000
"""Minimum time between moments, so that one event is shown once."""
_WINDOW_NS = 2_000_000_000


class Differing(NamedTuple):
    """The difference of a message's boxes from those of the other run.

    Attributes:
        stamp_ns, log_ns: times of the message. here, there: numbers of boxes.
        only_here, only_there: boxes without a partner in the other run.
    """

    stamp_ns: int
    log_ns: int
    here: int
    there: int
    only_here: int
    only_there: int

    @property
    def weight(self) -> int:
        """Size of the difference."""
        return self.only_here + self.only_there


def side_by_side(
    folder: Path, golden: Path, golden_metrics: Mapping, bag: Path, metrics: Mapping, view: LedgerView
) -> list[dict[str, object]]:
    """Return the moments of each camera and lidar that differ most, with the pictures of both runs.

    Args:
        folder, golden: the runs. golden_metrics, metrics: content of their metrics.json.
        bag: the recording of both runs. view: the ledger of `folder`.

    Raises:
        BagError: a bag cannot be opened.
    """
    strips: list[dict[str, object]] = []
    with ExitStack() as stack:
        recording = stack.enter_context(Bag(bag, salvage=True))
        recording.retime(metrics["bag"].get("clock", {}).get("behind_ns", {}))
        here, there = (stack.enter_context(Bag(run / "bag")) for run in (folder, golden))
        readers = [
            SceneReader(recording, outputs, told)
            for outputs, told in ((here, metrics), (there, golden_metrics))
        ]
        others = {(sensor.node, sensor.topic): sensor for sensor in sensors_of(golden_metrics)}
        for sensor in sensors_of(metrics):
            other = others.get((sensor.node, sensor.topic))
            if other is None or sensor.output is None or sensor.output != other.output:
                continue
            if any(sensor.output not in outputs.topics for outputs in (here, there)):
                continue
            found = list(differing(here, there, sensor.output))
            shown = [_shown(one, readers, (sensor, other), view) for one in chosen(found)]
            strips.append(
                {
                    "name": f"{sensor.node}: {sensor.topic}",
                    "told": _told(found),
                    "shown": shown,
                }
            )
    return strips


def differing(new: Bag, golden: Bag, topic: str) -> Iterator[Differing]:
    """Yield the difference of each message of boxes in either run, in order of time.

    Raises:
        CodecError: a message is malformed. BagError: a bag is damaged.
    """
    for one, other in matched(_items(new, topic), _items(golden, topic), _WINDOW_NS):
        (log_ns, mine), (_, theirs) = one or other, other or one
        here = len(one[1].detections) if one else 0
        there = len(other[1].detections) if other else 0
        partners = np.zeros((here, there), bool)
        if one and other and here and there:
            partners = _one_to_one(alike(mine, theirs, SAME_IOU, NEAR_M))
        alone = here - int(partners.any(1).sum()), there - int(partners.any(0).sum())
        yield Differing(mine.stamp_ns, log_ns, here, there, *alone)


def _items(bag: Bag, topic: str) -> Iterator[Item]:
    for message in bag.messages([topic]):
        named: NamedDetections = DECODERS[message.message_type](message.data)
        yield Item(named.stamp_ns, named.stamp_ns, (message.log_ns, named))


def _one_to_one(pairs: np.ndarray) -> np.ndarray:
    """Keep at most one partner of each row and column, in order."""
    kept = np.zeros_like(pairs)
    taken = np.zeros(pairs.shape[1], bool)
    for row in range(len(pairs)):
        free = np.flatnonzero(pairs[row] & ~taken)
        if len(free):
            kept[row, free[0]] = taken[free[0]] = True
    return kept


def chosen(found: list[Differing]) -> list[Differing]:
    """Return the moments that differ most, the greatest difference first, none close to another."""
    picked: list[Differing] = []
    for one in sorted(found, key=lambda each: (-each.weight, each.stamp_ns)):
        if not one.weight or len(picked) == MOMENTS:
            break
        if all(abs(one.stamp_ns - other.stamp_ns) >= _APART_NS for other in picked):
            picked.append(one)
    return picked


def _told(found: list[Differing]) -> str:
    apart = sum(1 for one in found if one.weight)
    only_here, only_there = (sum(getattr(one, name) for one in found) for name in ("only_here", "only_there"))
    if not apart:
        return f"The same objects in all {len(found)} messages."
    return (
        f"{apart} of {len(found)} messages differ: {only_here} boxes are in this run alone, {only_there} in "
        "the other alone."
    )


def _shown(
    one: Differing,
    readers: list[SceneReader],
    sensors: tuple[SensorStream, SensorStream],
    view: LedgerView,
) -> dict[str, object]:
    at_s = max(one.stamp_ns - view.start_ns, 0) / 1e9
    choice = MomentChoice("", "", one.stamp_ns, one.log_ns)
    pairs: list[dict[str, object]] = []
    for reader, sensor, name in zip(readers, sensors, ("this run", "the other"), strict=True):
        try:
            scene = reader.read(sensor, choice, own=True)
        except BagError as error:
            pairs.append({"name": name, "pictures": [], "missing": str(error)})
            continue
        pairs.append({"name": name, "pictures": pictures_of(scene), "missing": "; ".join(scene.missing)})
    title = (
        f"At {at_s:.2f} s: {one.here} boxes here, {one.there} there; {one.only_here} here alone, "
        f"{one.only_there} there alone"
    )
    return {"title": title, "runs": pairs}
