"""Parameters of `bev_cluster`, chosen on all recordings but one: KITTI's frames, a drive, nuScenes' keyframe.

KITTI labels what its camera sees; the cars around it, and those of two moments of the drive, are labelled
here by hand, from the pictures and the clouds. Clouds of KITTI are tried with half and a quarter of their
rings too. Argoverse 2 is scored with the parameters that all choose, and has no part in the choice; the 77
clouds of KITTI's sequence 0000 are not opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.lidar_accuracy import city
from bench.lidar_circle import Circle, argoverse, counts, fewer_rings, kitti, nuscenes
from perception_rt.model.bev_cluster import BevCluster, Obstacles
from perception_rt.model.components import components, neighbours, occupied_cells
from perception_rt.model.ground import height_above_ground
from perception_rt.model.lshape import Shapes, closeness, extremes, total
from perception_rt.types import Detections3D

# x y length width yaw in the lidar's frame, m and rad.
BY_HAND = {
    "000001": ((-11.35, -0.66, 4.1, 1.78, 0.16),),
    "000002": ((-9.16, 3.45, 4.1, 1.73, 0.05),),
    "000114": (
        (9.67, -18.28, 4.2, 1.77, 1.68), (-3.57, -23.12, 4.2, 1.7, 1.78), (-2.5, -28.8, 4.2, 1.7, 1.78),
        (13.76, -35.04, 4.2, 1.7, 1.78), (13.0, -30.8, 4.2, 1.7, 1.73), (-26.9, 16.48, 4.2, 1.7, 0.0),
        (-33.1, 16.65, 4.2, 1.7, 0.0), (-40.48, 16.65, 4.2, 1.7, 0.0), (-1.55, -34.1, 4.2, 1.7, 1.78),
    ),
    "city 0": (
        (39.4, -4.2, 4.4, 1.85, 0.0), (10.1, -0.15, 4.5, 1.7, 0.0), (28.8, 3.95, 4.5, 1.8, 0.0),
        (31.27, -4.27, 4.1, 1.65, 0.05), (7.6, 3.3, 4.3, 1.75, 0.0), (21.3, -0.1, 4.1, 1.65, 0.0),
        (21.6, 3.7, 4.3, 1.75, 0.0),
    ),
    "city 23": (
        (34.1, -4.0, 4.4, 1.87, 0.0), (23.46, 3.78, 4.5, 1.8, 0.0), (26.2, -4.25, 4.2, 1.7, 0.0),
        (8.5, -0.2, 4.5, 1.7, 0.0), (17.0, 3.7, 4.2, 1.7, 0.0), (19.2, -0.1, 4.1, 1.65, 0.0),
    ),
}  # fmt: skip
LORRIES = {"city 0": ((15.1, 3.45, 5.4, 2.4, 0.0),), "city 23": ((9.9, 3.5, 5.4, 2.4, 0.0),)}
MIDDLE_M, HEIGHT_M = -0.7, 2.6  # of boxes by hand: from the road to above a car

GRID = {"ground_shown": (0.0, 0.15, 0.25), "alike": (0.0, 0.3, 0.6), "strict": (1.0, 1.15, 1.3, 1.5)}
SETTINGS = tuple(dict(zip(GRID, values, strict=True)) for values in product(*GRID.values()))
RINGS = (1, 2, 4)  # one of so many is kept
WEIGHTS = (1.0, 0.5, 0.25)  # of the clouds with so many rings in the choice
ONE_CAR = 0.02  # of the merit, about


class Recording(NamedTuple):
    """Clouds of one place.

    `circles`: with every car. `labelled`: with the labels of the data set, people among them. `rings`:
    whether clouds with fewer rings can be made of them.
    """

    name: str
    circles: tuple[Circle, ...]
    labelled: tuple[Circle, ...]
    rings: bool = True


class Tally(NamedTuple):
    """Truths found and asked for, detections right and claimed, as `counts` has them.

    `cars`: (3, 4), for each of RINGS. `people`: (4,) pedestrians and cyclists.
    """

    cars: np.ndarray
    people: np.ndarray

    def recall(self, step: int = 0) -> float:
        """Of cars."""
        return float(self.cars[step, 0] / max(self.cars[step, 1], 1))

    def precision(self, step: int = 0) -> float:
        """Of cars."""
        return float(self.cars[step, 2] / max(self.cars[step, 3], 1))

    def f1(self, step: int = 0) -> float:
        """Of cars."""
        recall, precision = self.recall(step), self.precision(step)
        return 2 * recall * precision / max(recall + precision, 1e-9)

    def merit(self) -> float:
        """What the choice is by."""
        return sum(weight * self.f1(step) for step, weight in enumerate(WEIGHTS))


def pooled(tallies: Sequence[Tally]) -> Tally:
    """The sum."""
    return Tally(sum(one.cars for one in tallies), sum(one.people for one in tallies))


def recordings() -> list[Recording]:
    """Those that the choice is made on."""
    names = ("000000", "000001", "000002", "000114")
    found = [
        Recording(name, (_by_hand(name, circle),), (circle,))
        for name, circle in zip(names, kitti(), strict=True)
    ]
    clouds = [frame.points for frame in city()]
    none = Circle(clouds[0], np.zeros((0, 7)), np.array([], str))
    drive = [_by_hand(f"city {at}", replace(none, points=clouds[at])) for at in (0, 23)]
    keyframe = tuple(nuscenes())
    return [
        *found,
        Recording("kitti_city", tuple(drive), ()),
        Recording("nuscenes", keyframe, keyframe, rings=False),
    ]


def _by_hand(name: str, circle: Circle) -> Circle:
    """The circle with the cars labelled here, all around: what is found and not labelled is wrong."""
    cars, lorries = BY_HAND.get(name, ()), LORRIES.get(name, ())
    rows = [(x, y, MIDDLE_M, length, width, HEIGHT_M, yaw) for x, y, length, width, yaw in (*cars, *lorries)]
    boxes = np.concatenate((circle.boxes, np.array(rows).reshape(-1, 7)))
    names = np.array([*circle.names, *["car"] * len(cars), *["lorry"] * len(lorries)], str)
    return Circle(circle.points, boxes, names)


class Prepared(NamedTuple):
    """A cloud up to where the settings differ."""

    circle: Circle
    obstacles: Obstacles
    shapes: Shapes


def prepared(circle: Circle, points: np.ndarray) -> Prepared:
    """Find the clusters of the points."""
    module = BevCluster()
    with torch.inference_mode():
        obstacles = module.obstacles(torch.from_numpy(np.ascontiguousarray(points[:, :4], np.float32)))
        return Prepared(circle, obstacles, module.clusters(obstacles))


def detections(one: Prepared, module: BevCluster) -> Detections3D:
    """What the module makes of the clusters."""
    with torch.inference_mode():
        found = module.classify(one.shapes, one.obstacles, module.score_threshold, module.nms_threshold)
    return Detections3D(*(part.numpy() for part in found))


@cache
def tallies() -> dict[str, tuple[Tally, ...]]:
    """Of each recording, for each of SETTINGS."""
    modules = [BevCluster(**settings) for settings in SETTINGS]
    found: dict[str, tuple[Tally, ...]] = {}
    for recording in recordings():
        cars = np.zeros((len(modules), len(RINGS), 4), np.int64)
        people = np.zeros((len(modules), 4), np.int64)
        for at, step in enumerate(RINGS if recording.rings else RINGS[:1]):
            for circle, first in product(recording.circles, range(step)):
                points = fewer_rings(circle.points, step, first) if step > 1 else circle.points
                one = prepared(circle, points)
                for row, module in enumerate(modules):
                    cars[row, at] += counts(circle, detections(one, module), "car")
        for circle in recording.labelled:
            one = prepared(circle, circle.points)
            for row, module in enumerate(modules):
                answer = detections(one, module)
                people[row] += np.add(counts(circle, answer, "pedestrian"), counts(circle, answer, "cyclist"))
        found[recording.name] = tuple(map(Tally, cars, people))
    return found


def chosen(without: str = "") -> int:
    """The best of SETTINGS on all recordings but one; of those within a car of it, what finds most."""
    others = [of for name, of in tallies().items() if name != without]
    sums = [pooled([of[at] for of in others]) for at in range(len(SETTINGS))]
    best = max(one.merit() for one in sums)
    alike = [at for at, one in enumerate(sums) if one.merit() > best - ONE_CAR]
    return max(alike, key=lambda at: (sums[at].cars[0, 0], sums[at].merit()))


@cache
def left_out() -> Tally:
    """Every recording with the settings that the others chose."""
    return pooled([of[chosen(name)] for name, of in tallies().items()])


def tuned() -> Tally:
    """Every recording with the settings that all chose."""
    return pooled([of[chosen()] for of in tallies().values()])


@cache
def plain() -> Tally:
    """The baseline on the same clouds: Euclidean clusters, told apart by their sizes."""
    cars, people = np.zeros((len(RINGS), 4), np.int64), np.zeros(4, np.int64)
    for recording in recordings():
        for at, step in enumerate(RINGS if recording.rings else RINGS[:1]):
            for circle, first in product(recording.circles, range(step)):
                points = fewer_rings(circle.points, step, first) if step > 1 else circle.points
                cars[at] += counts(circle, plain_clusters(points), "car")
        for circle in recording.labelled:
            answer = plain_clusters(circle.points)
            people += np.add(counts(circle, answer, "pedestrian"), counts(circle, answer, "cyclist"))
    return Tally(cars, people)


def plain_clusters(points: np.ndarray, gap_m: float = 0.5, fewest: int = 10) -> Detections3D:
    """Points above the ground that lie closer than `gap_m`, in the rectangle that fits them best.

    A car is as long, wide and high as cars are, a pedestrian likewise.
    """
    xyz = torch.from_numpy(np.ascontiguousarray(points[:, :3], np.float32))
    xyz = xyz[(torch.hypot(xyz[:, 0], xyz[:, 1]) < 60) & (torch.hypot(xyz[:, 0], xyz[:, 1]) > 2)]
    height = height_above_ground(xyz, 60.0, 1.0, 0.15)
    raised = (height > 0.25) & (height < 2.8)
    xyz, height = xyz[raised], height[raised]
    cells, cell_of = occupied_cells(xyz[:, :2], 60.0, gap_m / 2)
    label = components(*neighbours(cells, 2), torch.arange(len(cells)))
    _, cluster = label[cell_of].unique(return_inverse=True)
    count = int(cluster.max()) + 1 if len(cluster) else 0
    number = torch.bincount(cluster, minlength=count)
    close, _ = closeness(xyz[:, :2], cluster, count, 30)
    yaw = close.argmax(1) * (np.pi / 60)
    cos, sin = yaw.cos()[cluster], yaw.sin()[cluster]
    turned = torch.stack((xyz[:, 0] * cos + xyz[:, 1] * sin, xyz[:, 1] * cos - xyz[:, 0] * sin, xyz[:, 2]), 1)
    low, high = extremes(turned, cluster, count)
    top = extremes(height, cluster, count)[1]
    ground = total(xyz[:, 2] - height, cluster, count) / number
    along, across = high[:, 0] - low[:, 0], high[:, 1] - low[:, 1]
    a, b = (low[:, 0] + high[:, 0]) / 2, (low[:, 1] + high[:, 1]) / 2
    x, y = a * yaw.cos() - b * yaw.sin(), a * yaw.sin() + b * yaw.cos()
    boxes = torch.stack((x, y, ground + top / 2, along, across, top, yaw), 1)
    longer, shorter = torch.maximum(along, across), torch.minimum(along, across)
    car = (longer > 1.5) & (longer < 6) & (shorter > 0.5) & (shorter < 2.6) & (top > 1) & (top < 2.6)
    person = (longer > 0.2) & (longer < 1.2) & (top > 1.2) & (top < 2.2)
    kept = (number >= fewest) & (car | person)
    labels = torch.where(car, 0, 1)[kept]
    return Detections3D(boxes[kept].numpy(), np.ones(int(kept.sum()), np.float32), labels.numpy())


def tune_clusters(console: Console) -> None:
    """Print each fold, the figures that it leaves, and what the settings do on Argoverse 2."""
    table = Table("left out", *GRID, "cars: found, right", "half the rings", "a quarter", "people")
    for name in (*tallies(), ""):
        at = chosen(name)
        held = tallies()[name][at] if name else tuned()
        table.add_row(name or "none", *(f"{value:g}" for value in SETTINGS[at].values()), *_cells(held))
    table.add_section()
    blank = [""] * len(GRID)
    table.add_row("each in turn", *blank, *_cells(left_out()))
    table.add_row("plain clusters", *blank, *_cells(plain()))
    console.print(table)
    for what, tally in (("left out", left_out()), ("plain clusters", plain())):
        console.print(f"{what}: cars recall {tally.recall():.3f}, precision {tally.precision():.3f}")
    shipped = {name: getattr(BevCluster(), name) for name in GRID}
    console.print(f"chosen on all: {SETTINGS[chosen()]}; shipped: {shipped}")
    for circle in argoverse():
        answer = detections(prepared(circle, circle.points), BevCluster(**SETTINGS[chosen()]))
        for name in ("car", "pedestrian"):
            hit, asked, right, claimed = counts(circle, answer, name)
            figures = f"{hit} of {asked} found, {right} of {claimed} right"
            console.print(f"Argoverse 2, not chosen on: {name} {figures}")


def _cells(tally: Tally) -> list[str]:
    return ["{}/{} {}/{}".format(*row) for row in (*tally.cars, tally.people)]
